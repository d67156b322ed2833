//! SIGKILL for hub and agents at random moments, while jobs wait for approvals and rollouts go from batch to batch.
//!
//! One person hands in jobs that nobody may run without another's signature, two of three as a rollout over two nodes, one
//! of them with a pause after the first batch; the other approves whatever waits, and has what pauses go on. At the end every execution has ended, none has started twice, and each has one
//! receipt, which says what the hub says. `LICTOR_KILLS` and `LICTOR_SEED` as in `kills`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Program, Split, SplitOptions, wait_until};
use serde_json::Value;

use crate::kills::{Dice, LONGEST_US, number};
use crate::law::second_operator_at;
use crate::steps::{FINAL, audits_hold, id_of};

/// How long everything may take to end when nobody is killed any more.
const PATIENCE: Duration = Duration::from_secs(150);

/// A second agent of the org.
pub(crate) struct Second {
    dir: String,
    agent: Program,
}

impl Second {
    pub(crate) fn join(cli: &Cli) -> Result<Self> {
        let grant = cli.json(&["nodes", "grant", "web-2"])?;
        let token = grant["token"].as_str().context("a token")?;
        let dir = cli.home().join("web-2").to_str().context("path")?.to_owned();
        let stranger = Cli::new(std::path::Path::new("/nonexistent"))?;
        stranger.json(&["agent", "enroll", "--token", token, "--dir", &dir])?;
        let agent = Self::start(&dir)?;
        wait_until("web-2", PATIENCE, || {
            let nodes = cli.json(&["nodes"]).unwrap_or_default();
            let mut all = nodes.as_array().into_iter().flatten();
            all.any(|n| n["name"] == "web-2" && n["connected"] == true)
        })?;
        Ok(Self { dir, agent })
    }

    fn start(dir: &str) -> Result<Program> {
        let stranger = Cli::new(std::path::Path::new("/nonexistent"))?;
        Program::start(stranger.command(&["agent", "run", "--dir", dir]))
    }

    pub(crate) fn die_and_come_back(&mut self) -> Result<()> {
        self.agent.kill()?;
        self.agent = Self::start(&self.dir)?;
        Ok(())
    }
}

/// Hands in jobs until told to stop; gives those that were accepted.
fn ask(cli: &Cli, counter: &str, stop: &AtomicBool) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return accepted;
        }
        // Where it runs is below its node's own directory, and named for the job.
        let script = format!("echo \"$PWD\" >> {counter}; seq 1 2000; sleep 0.05; seq 2001 4000");
        let mut words = vec!["run", "--json", "--detach", "--profile", "host", "--valid", "10m"];
        match n % 3 {
            0 => words.push("local"),
            1 => words.extend(["--batch", "1", "--max-failures", "100%", "local", "web-2"]),
            _ => words.extend([
                "--batch",
                "1",
                "--pause",
                "1h",
                "--max-failures",
                "100%",
                "local",
                "web-2",
            ]),
        }
        words.extend(["--", "sh", "-c", &script]);
        let done = cli.run(&words).and_then(|done| id_of(&done.result()?));
        accepted.extend(done);
    }
    accepted
}

/// Has every rollout go on that is held after its first batch.
fn go_on(cli: &Cli) {
    let held = cli.json(&["jobs"]).unwrap_or_default();
    let held = held.as_array().into_iter().flatten();
    for job in held.filter(|job| states(job).contains(&"held")) {
        if let Some(id) = job["job_id"].as_str() {
            // One that goes on by itself, and a hub that is being killed, answer with an error.
            let _ = cli.run(&["rollout", "continue", id]);
        }
    }
}

/// Approves whatever waits and has what pauses go on, until told to stop.
fn approve(cli: &Cli, first: &Cli, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        go_on(first);
        let waiting = cli.json(&["approvals"]).unwrap_or_default();
        for job in waiting.as_array().into_iter().flatten() {
            if let Some(id) = job["job_id"].as_str() {
                // Whoever was killed meanwhile is asked again in the next round.
                let _ = cli.run(&["approve", "--yes", "--unasked", id]);
            }
        }
    }
}

fn kill_at_random(split: &mut Split, second: &mut Second, kills: u64, dice: &mut Dice) -> Result<()> {
    for kill in 0..kills {
        let moment = Instant::now() + Duration::from_micros(2 * dice.roll(LONGEST_US));
        wait_until("the moment", Duration::from_secs(5), || Instant::now() >= moment)?;
        match dice.roll(5) {
            0 | 1 => {
                split.hub()?.kill()?;
                split.start_hub().with_context(|| format!("kill {kill}: hub"))?;
            }
            2 => {
                split.agent()?.kill()?;
                split.spawn_agent()?;
            }
            3 => second.die_and_come_back()?,
            _ => {
                split.hub()?.kill()?;
                split.agent()?.kill()?;
                second.die_and_come_back()?;
                split.spawn_agent()?;
                split.start_hub().with_context(|| format!("kill {kill}: all"))?;
            }
        }
    }
    Ok(())
}

/// The states of all executions of a job.
fn states(job: &Value) -> Vec<&str> {
    let all = job["executions"].as_array().into_iter().flatten();
    all.map(|e| e["state"].as_str().unwrap_or_default()).collect()
}

/// Holds that every execution has one receipt, which says what the hub says; gives how they ended.
fn check(cli: &Cli, id: &str) -> Result<Vec<String>> {
    let job = cli.json(&["job", id])?;
    let receipts = job["receipts"].as_array().context("receipts")?;
    let by_node: BTreeMap<_, _> = receipts.iter().map(|r| (r["node_id"].as_str(), r)).collect();
    let executions = job["executions"].as_array().context("executions")?;
    ensure!(
        receipts.len() == executions.len() && by_node.len() == receipts.len(),
        "{id}: {} executions, {} receipts",
        executions.len(),
        receipts.len()
    );
    for execution in executions {
        let receipt = by_node
            .get(&execution["node_id"].as_str())
            .context("no receipt of it")?;
        ensure!(receipt["outcome"] == execution["state"], "{execution}\n{receipt}");
        let approved = receipt["approvals"].as_array().is_some_and(|a| !a.is_empty());
        ensure!(
            approved || receipt["started_at"].is_null(),
            "nobody has approved {receipt}"
        );
    }
    Ok(states(&job).into_iter().map(str::to_owned).collect())
}

#[test]
fn no_kill_runs_what_was_not_approved_or_runs_a_rollouts_node_twice() -> Result<()> {
    let kills = number("LICTOR_KILLS").unwrap_or(20) / 2;
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("random bytes")?;
    let seed = number("LICTOR_SEED").unwrap_or(u64::from_le_bytes(random));
    eprintln!("LICTOR_SEED={seed} LICTOR_KILLS={kills}");
    let mut split = Split::start_with(SplitOptions {
        arguments: vec!["--starter-policy".to_owned()],
        ..SplitOptions::default()
    })?;
    let cli = split.cli().clone();
    let url = format!("http://127.0.0.1:{}", split.port());
    let bob = second_operator_at(&cli, &url, "bob", "\"ops\", \"leads\"")?;
    let mut second = Second::join(&cli)?;
    let counter = split.home().join("counter");
    let counter_path = counter.to_str().context("path")?.to_owned();
    let (done, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let asker = {
        let (cli, done, accepted) = (cli.clone(), Arc::clone(&done), Arc::clone(&accepted));
        thread::spawn(move || {
            let all = ask(&cli, &counter_path, &done);
            *accepted.lock().unwrap_or_else(PoisonError::into_inner) = all;
        })
    };
    let approver = {
        let over = Arc::clone(&over);
        let cli = cli.clone();
        thread::spawn(move || approve(&bob, &cli, &over))
    };
    let killed = kill_at_random(&mut split, &mut second, kills, &mut Dice(seed));
    done.store(true, Ordering::Relaxed);
    let asked = asker.join().is_ok();
    let accepted = std::mem::take(&mut *accepted.lock().unwrap_or_else(PoisonError::into_inner));
    let mut last = String::new();
    let ended = wait_until("all executions to have ended", PATIENCE, || {
        let open = accepted.iter().find(|id| {
            let job = cli.json(&["job", id]).unwrap_or_default();
            last = format!("{id}: {:?}", states(&job));
            let all = states(&job);
            all.is_empty() || !all.iter().all(|state| FINAL.contains(state))
        });
        open.is_none()
    });
    over.store(true, Ordering::Relaxed);
    ensure!(approver.join().is_ok() && asked, "one of the people broke down");
    killed?;
    ended.with_context(|| last)?;
    ensure!(
        accepted.len() as u64 >= kills / 2,
        "only {} jobs were accepted",
        accepted.len()
    );
    let text = fs::read_to_string(&counter)?;
    let started: Vec<&str> = text.lines().collect();
    let distinct: HashSet<_> = started.iter().collect();
    ensure!(
        distinct.len() == started.len(),
        "some execution started twice: {text}"
    );
    let mut states = Vec::new();
    for id in &accepted {
        states.extend(check(&cli, id)?);
    }
    let count = |word| states.iter().filter(|s| *s == word).count();
    eprintln!(
        "{} executions of {} jobs: {} succeeded, {} interrupted",
        states.len(),
        accepted.len(),
        count("succeeded"),
        count("interrupted")
    );
    ensure!(
        count("succeeded") > 0 && started.len() >= count("succeeded"),
        "nothing ran"
    );
    audits_hold(&cli)
}
