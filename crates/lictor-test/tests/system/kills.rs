//! SIGKILL for the real agent and the real hub at random moments, while real jobs run.
//!
//! Each job writes its name into a file when it starts, and prints a known text; some leave a process behind. Files go
//! to the node and come from it, and a schedule fires every second. At the end: every job that was accepted, every file's
//! and every firing has ended with one receipt that holds and says what the hub says, none started twice, no result and no
//! byte of output that a receipt speaks of is missing, no process of any job is left, no part of a file is where a whole
//! one was to be, and both audit logs hold. Half of the kills fall on an agent that holds a link, half on one that polls.
//! `LICTOR_KILLS=200` is the nightly size; `LICTOR_SEED` repeats a run's moments. Approvals and rollouts are in
//! `kills_people`.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, SplitOptions, wait_until};

use crate::steps::{all_ended, audits_hold, detached, gone, id_of, mark, reach, receipt, seq, state};

/// What each job prints: 1 to this.
const LINES: u32 = 20_000;
/// The longest wait before a kill.
pub(crate) const LONGEST_US: u64 = 600_000;

/// A small generator (splitmix64), so that a seed repeats the moments.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Jobs that were accepted: name and id.
type Accepted = Arc<Mutex<Vec<(String, String)>>>;

/// Submits jobs until told to stop; what is not accepted is nobody's.
fn submit(cli: &Cli, (counter, mark): (&str, &str), who: usize, stop: &AtomicBool, accepted: &Accepted) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("job-{who}-{n}");
        // The first half, a breath in which a kill may fall, the second half.
        let mut script = format!("echo {name} >> {counter}; seq 1 10000; sleep 0.05; seq 10001 {LINES}");
        if n % 3 == 0 {
            // In a session of its own, and nobody's child soon: it must not outlive its job all the same.
            script = format!("(setsid sleep {mark} >/dev/null 2>&1 &); {script}");
        }
        if let Ok(id) = detached(cli, &script) {
            let mut list = accepted.lock().unwrap_or_else(PoisonError::into_inner);
            list.push((name, id));
        }
    }
}

/// What is carried: more than what goes in one piece.
const CARRIED: usize = 3_000_000;

/// Copies a file to the node and back until told to stop. Whatever becomes of a copy, its place has the whole file or
/// none. Gives how many came through.
fn carry(cli: &Cli, dir: &Path, stop: &AtomicBool) -> Result<usize> {
    let content: Vec<u8> = (0..CARRIED).map(|n| (n % 239) as u8).collect();
    let (file, to) = (dir.join("here"), dir.join("there/file"));
    fs::create_dir(dir.join("there"))?;
    fs::write(&file, &content)?;
    let whole_or_none = |path: &Path| match fs::read(path) {
        Ok(found) => {
            ensure!(
                found == content,
                "{}: a part of {} bytes",
                path.display(),
                found.len()
            );
            Ok(true)
        }
        Err(_) => Ok(false),
    };
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let mut through = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let back = dir.join(format!("back-{n}"));
        let put = ["cp", "--replace", &text(&file)?, &format!("local:{}", text(&to)?)];
        let take = [
            "cp",
            "--max-bytes",
            "8MiB",
            &format!("local:{}", text(&file)?),
            &text(&back)?,
        ];
        for words in [&put[..], &take[..]] {
            let mut command = cli.command(words);
            let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let patience = Duration::from_secs(3);
            let ends = wait_until("the copy", patience, || matches!(client.try_wait(), Ok(Some(_))));
            if ends.is_err() {
                client.kill()?;
            }
            let done = client.wait()?.success();
            let is_there = whole_or_none(if words == put { &to } else { &back })?;
            ensure!(is_there || !done, "a copy succeeded and brought nothing");
            through += usize::from(done);
        }
    }
    Ok(through)
}

/// What every firing prints: 1 to this.
const FIRED_LINES: u32 = 4000;

/// Signs a schedule that fires every second and writes down where it runs, which is a place named for the firing.
fn schedule(cli: &Cli, counter: &str) -> Result<String> {
    let script = format!("echo \"$PWD\" >> {counter}; seq 1 2000; sleep 0.3; seq 2001 {FIRED_LINES}");
    let words = ["schedule", "add", "--profile", "host", "--cron", "* * * * * *"];
    let more = ["--until", "1h", "--missed", "once", "--overlap", "wait", "local"];
    let command = ["--", "sh", "-c", &script];
    id_of(&cli.json(&[&words[..], &more[..], &command[..]].concat())?)
}

/// Holds that no time fired twice, and that what every firing began it has ended, as its receipt says.
fn check_firings(cli: &Cli, counter: &str) -> Result<()> {
    let jobs = cli.json(&["jobs", "--limit", "100000"])?;
    let jobs = jobs.as_array().context("jobs")?.iter();
    let firings: Vec<_> = jobs.filter(|job| !job["fired"].is_null()).collect();
    let text = fs::read_to_string(counter)?;
    let ran: HashSet<&str> = text.lines().collect();
    ensure!(
        ran.len() == text.lines().count(),
        "a firing started twice: {text}"
    );
    let mut nominal: Vec<_> = firings.iter().map(|f| f["fired"].to_string()).collect();
    nominal.sort();
    nominal.dedup();
    ensure!(nominal.len() == firings.len(), "one time fired twice");
    let whole = seq(1, FIRED_LINES);
    let (mut done, mut cut) = (0, 0);
    for firing in firings {
        let id = id_of(firing)?;
        let receipt = receipt(cli, &id)?;
        ensure!(receipt["fired"] == firing["fired"], "{firing}: {receipt}");
        let logs = cli.run(&["logs", &id])?;
        ensure!(logs.status.success() && whole.starts_with(&logs.stdout), "{id}");
        match receipt["outcome"].as_str() {
            Some("succeeded") => {
                ensure!(logs.stdout.len() == whole.len(), "{id} is not whole");
                done += 1;
            }
            Some("interrupted") => cut += 1,
            _ => ensure!(receipt["started_at"].is_null(), "{receipt}"),
        }
    }
    eprintln!("{done} firings succeeded, {cut} were interrupted");
    ensure!(
        done > 0 && (done..=done + cut).contains(&ran.len()),
        "{} began, {done} succeeded, {cut} were interrupted",
        ran.len()
    );
    Ok(())
}

/// Every job that the hub knows, whatever kind it is of, has one receipt, which holds and says what the hub says.
fn each_has_its_receipt(cli: &Cli) -> Result<()> {
    let jobs = cli.json(&["jobs", "--limit", "100000"])?;
    let mut kinds = std::collections::BTreeMap::new();
    for known in jobs.as_array().context("jobs")? {
        let job = cli.json(&["job", &id_of(known)?])?;
        let receipts = job["receipts"].as_array().context("receipts")?;
        let outcome = receipts.first().map(|r| &r["outcome"]);
        ensure!(
            receipts.len() == 1 && outcome == Some(&job["executions"][0]["state"]),
            "{job}"
        );
        *kinds.entry(known["kind"].to_string()).or_insert(0) += 1;
    }
    eprintln!("each with its receipt: {kinds:?}");
    for kind in ["exec", "fetch", "collect"] {
        ensure!(kinds.contains_key(&format!("\"{kind}\"")), "no {kind}: {kinds:?}");
    }
    Ok(())
}

fn kill_at_random(split: &mut Split, kills: u64, dice: &mut Dice) -> Result<()> {
    for kill in 0..kills {
        let moment = Instant::now() + Duration::from_micros(dice.roll(LONGEST_US));
        wait_until("the moment", Duration::from_secs(5), || Instant::now() >= moment)?;
        match dice.roll(5) {
            0 | 1 => {
                split.hub()?.kill()?;
                split.start_hub().with_context(|| format!("kill {kill}: hub"))?;
            }
            2 | 3 => {
                split.agent()?.kill()?;
                split.spawn_agent()?;
            }
            // Both at once: nobody is left who remembers anything but the disks.
            _ => {
                split.hub()?.kill()?;
                split.agent()?.kill()?;
                split.spawn_agent()?;
                split.start_hub().with_context(|| format!("kill {kill}: both"))?;
            }
        }
        ensure!(
            split.agent()?.is_running(),
            "the agent did not start:\n{}",
            split.agent()?.stderr()
        );
    }
    Ok(())
}

fn check(cli: &Cli, name: &str, id: &str, started: &[&str]) -> Result<String> {
    let state = state(cli, id)?;
    let starts = started.iter().filter(|s| **s == name).count();
    ensure!(starts <= 1, "{name} started {starts} times");
    let receipt = receipt(cli, id)?;
    ensure!(
        receipt["outcome"] == state.as_str(),
        "{id} is {state}, its receipt says {receipt}"
    );
    // Held against the receipt by the client: whatever the node signed for is there, byte for byte.
    let logs = cli.run(&["logs", id])?;
    ensure!(
        logs.status.success(),
        "the output of {id} ({state}): {}",
        logs.stderr
    );
    let whole = seq(1, LINES);
    ensure!(
        whole.starts_with(&logs.stdout),
        "the output of {id} is not what it printed"
    );
    if state == "succeeded" {
        ensure!(starts == 1, "{name} succeeded without having started");
        ensure!(
            logs.stdout.len() == whole.len(),
            "the output of {id} is not whole"
        );
    }
    Ok(state)
}

#[test]
fn no_kill_starts_a_job_twice_or_loses_what_was_acknowledged() -> Result<()> {
    campaign(SplitOptions::default())
}

#[test]
fn no_kill_of_a_polling_agent_starts_a_job_twice_or_loses_what_was_acknowledged() -> Result<()> {
    campaign(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })
}

fn campaign(options: SplitOptions) -> Result<()> {
    let kills = number("LICTOR_KILLS").unwrap_or(20) / 2;
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("random bytes")?;
    let seed = number("LICTOR_SEED").unwrap_or(u64::from_le_bytes(random));
    eprintln!("LICTOR_SEED={seed} LICTOR_KILLS={kills}");
    let mut split = Split::start_with(options)?;
    let mark = mark();
    let counter = split.home().join("counter");
    let counter = counter.to_str().context("path")?;
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Accepted::default());
    let submitters: Vec<_> = (0..2)
        .map(|who| {
            let (cli, counter, mark) = (split.cli().clone(), counter.to_owned(), mark.clone());
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            thread::spawn(move || submit(&cli, (&counter, &mark), who, &stop, &accepted))
        })
        .collect();
    let carrier = {
        let (cli, dir, stop) = (
            split.cli().clone(),
            split.home().join("carried"),
            Arc::clone(&stop),
        );
        fs::create_dir(&dir)?;
        thread::spawn(move || carry(&cli, &dir.canonicalize()?, &stop))
    };
    let fired = split.home().join("fired");
    let fired = fired.to_str().context("path")?;
    let standing = schedule(split.cli(), fired)?;
    let killed = kill_at_random(&mut split, kills, &mut Dice(seed));
    stop.store(true, Ordering::Relaxed);
    for submitter in submitters {
        ensure!(submitter.join().is_ok(), "a submitter broke down");
    }
    let carried = carrier.join().ok().context("the carrier broke down")??;
    killed?;
    let accepted = std::mem::take(&mut *accepted.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(
        accepted.len() as u64 >= kills / 2,
        "only {} jobs were accepted",
        accepted.len()
    );
    let cli = split.cli().clone();
    cli.ok(&["schedule", "rm", &standing])?;
    reach(&cli, &standing, &["canceled"], Duration::from_secs(60))?;
    let known = all_ended(&cli, Duration::from_secs(60))
        .with_context(|| split.agent().map(|a| a.stderr()).unwrap_or_default())?;
    ensure!(
        known >= accepted.len(),
        "the hub knows {known} jobs of {}",
        accepted.len()
    );
    gone(&format!("sleep {mark}"))?;
    // What a kill has left beside its place goes with the next file for it.
    let carried_at = split.home().join("carried").canonicalize()?;
    let (file, there) = (carried_at.join("here"), carried_at.join("there"));
    let to = format!("local:{}/file", there.to_str().context("path")?);
    cli.ok(&["cp", "--replace", file.to_str().context("path")?, &to])?;
    let brought = carried_at.join("brought");
    let from = format!("local:{}/file", there.to_str().context("path")?);
    cli.ok(&[
        "cp",
        "--max-bytes",
        "8MiB",
        &from,
        brought.to_str().context("path")?,
    ])?;
    ensure!(fs::read(&brought)? == fs::read(&file)?, "another file came back");
    for entry in fs::read_dir(&there)? {
        let entry = entry?;
        let is_file = entry.file_name() == "file" && entry.metadata()?.len() == CARRIED as u64;
        ensure!(is_file, "{} is left", entry.path().display());
    }
    eprintln!("{carried} copies came through");
    let text = fs::read_to_string(counter)?;
    let started: Vec<&str> = text.lines().collect();
    let distinct: HashSet<_> = started.iter().collect();
    ensure!(distinct.len() == started.len(), "some job started twice: {text}");
    let mut states = Vec::new();
    for (name, id) in &accepted {
        states.push(check(&cli, name, id, &started)?);
    }
    each_has_its_receipt(&cli)?;
    check_firings(&cli, fired)?;
    let count = |word| states.iter().filter(|s| *s == word).count();
    eprintln!(
        "{} jobs: {} succeeded, {} interrupted",
        states.len(),
        count("succeeded"),
        count("interrupted")
    );
    audits_hold(&cli)
}
