//! One job on several nodes: who is meant, what comes of each, and what waits for those that are away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab, Program, wait_until};
use serde_json::Value;

use crate::steps::{SOON, id_of, mark, reach, seq};

/// A lab, and further nodes of its org.
pub(crate) struct Crew {
    pub(crate) lab: Lab,
    agents: Vec<(String, PathBuf, Option<Program>)>,
}

impl Crew {
    /// `lictor up`, and a node for each name, with these labels.
    pub(crate) fn of(nodes: &[(&str, &[&str])]) -> Result<Self> {
        let mut crew = Self {
            lab: Lab::start()?,
            agents: Vec::new(),
        };
        // The demo's operator may run anything, but on its one node only.
        let demo = crew.lab.home().join("org/policies/demo.cedar");
        let only = "when { resource.name == \"local\" };";
        let law = fs::read_to_string(&demo)?;
        ensure!(law.contains(only), "the demo's law is another one: {law}");
        fs::write(&demo, law.replacen(only, ";", 1))?;
        crew.cli().ok(&["org", "sign"])?;
        crew.cli().ok(&["org", "push"])?;
        for (name, labels) in nodes {
            crew.join(name, labels, &[])?;
        }
        Ok(crew)
    }

    pub(crate) fn cli(&self) -> &Cli {
        self.lab.cli()
    }

    /// Enrols a machine under a name, and starts its agent.
    fn join(&mut self, name: &str, labels: &[&str], grant: &[&str]) -> Result<()> {
        let mut words = vec!["nodes", "grant", name];
        words.extend(labels.iter().flat_map(|l| ["--label", l]));
        words.extend(grant);
        let grant = self.cli().json(&words)?;
        let token = grant["token"].as_str().context("token")?;
        let dir = self.lab.home().join(format!("{name}-{}", self.agents.len()));
        stranger()?.json(&["agent", "enroll", "--token", token, "--dir", path(&dir)?])?;
        self.agents.push((name.to_owned(), dir, None));
        self.start(self.agents.len() - 1)
    }

    pub(crate) fn start(&mut self, n: usize) -> Result<()> {
        let (name, dir, agent) = &mut self.agents[n];
        let dir = path(dir)?;
        *agent = Some(Program::start(
            stranger()?.command(&["agent", "run", "--dir", dir]),
        )?);
        let name = name.clone();
        self.is_there(&name, true)
    }

    pub(crate) fn stop(&mut self, n: usize) -> Result<()> {
        let agent = self.agents[n].2.as_mut().context("not running")?;
        ensure!(agent.terminate()?.success(), "{}", agent.stderr());
        self.agents[n].2 = None;
        let name = self.agents[n].0.clone();
        self.is_there(&name, false)
    }

    /// Waits until the hub says so.
    pub(crate) fn is_there(&self, name: &str, connected: bool) -> Result<()> {
        wait_until(&format!("{name} connected: {connected}"), SOON, || {
            let nodes = self.cli().json(&["nodes"]).unwrap_or_default();
            let mut all = nodes.as_array().into_iter().flatten();
            all.any(|n| n["name"] == name && n["connected"] == connected)
        })
    }

    fn run(&self, targets: &[&str], script: &str) -> Result<Done> {
        let mut words = vec!["run", "--profile", "host"];
        words.extend(targets);
        words.extend(["--", "sh", "-c", script]);
        self.cli().run(&words)
    }

    pub(crate) fn run_json(&self, targets: &[&str], script: &str) -> Result<(Done, Vec<Value>)> {
        let mut words = vec!["--json"];
        words.extend(targets);
        let done = self.run(&words, script)?;
        let lines = done.json_lines()?;
        Ok((done, lines))
    }

    /// Whom these targets mean.
    fn meant(&self, targets: &[&str]) -> Result<Vec<String>> {
        let mut words = vec!["run", "--dry-run"];
        words.extend(targets);
        words.extend(["--", "true"]);
        let value = self.cli().json(&words)?;
        let nodes = value["nodes"].as_array().context("nodes")?;
        Ok(nodes
            .iter()
            .map(|n| n["name"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// What is said to targets that mean nothing.
    fn refusal(&self, targets: &[&str]) -> Result<String> {
        let mut words = vec!["run", "--dry-run"];
        words.extend(targets);
        words.extend(["--", "true"]);
        let done = self.cli().run(&words)?;
        ensure!(done.code()? != 0, "{targets:?} was taken: {}", done.text());
        Ok(done.stderr)
    }
}

fn stranger() -> Result<Cli> {
    Cli::new(Path::new("/nonexistent"))
}

pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// The result of each node, by name.
pub(crate) fn results(lines: &[Value]) -> Vec<(String, String)> {
    let results = lines.iter().filter(|l| l["event"] == "result");
    let word = |l: &Value, key: &str| l[key].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = results.map(|l| (word(l, "node"), word(l, "status"))).collect();
    all.sort();
    all
}

pub(crate) fn are(results: &[(String, String)], expected: &[(&str, &str)]) {
    let results: Vec<_> = results.iter().map(|(n, s)| (n.as_str(), s.as_str())).collect();
    assert_eq!(results, expected);
}

const THREE: [(&str, &[&str]); 3] = [
    ("web-1", &["role=web", "region=eu"]),
    ("web-2", &["role=web", "region=us"]),
    ("db-1", &["role=db"]),
];

#[test]
fn targets_mean_nodes_by_what_is_signed_about_them() -> Result<()> {
    let crew = Crew::of(&THREE)?;
    let fleet = crew.lab.home().join("org/fleet.toml");
    let law = fs::read_to_string(&fleet)? + "\n[groups.front]\nlabels = { role = \"web\" }\n";
    fs::write(&fleet, law)?;
    crew.cli().ok(&["org", "sign"])?;
    crew.cli().ok(&["org", "push"])?;

    assert_eq!(crew.meant(&["web-1"])?, ["web-1"]);
    assert_eq!(crew.meant(&["web-*"])?, ["web-1", "web-2"]);
    assert_eq!(crew.meant(&["?b-1", "local"])?, ["db-1", "local"]);
    assert_eq!(crew.meant(&["role=web,region!=eu"])?, ["web-2"]);
    assert_eq!(crew.meant(&["region!=eu"])?, ["db-1", "local", "web-2"]);
    assert_eq!(crew.meant(&["@front", "db-1"])?, ["db-1", "web-1", "web-2"]);
    assert_eq!(crew.meant(&["--all"])?, ["db-1", "local", "web-1", "web-2"]);
    assert_eq!(
        crew.meant(&["--all", "-x", "@front", "--except", "local"])?,
        ["db-1"]
    );
    assert_eq!(crew.meant(&["--all", "--fact", "os=linux"])?.len(), 4);

    let said = crew.refusal(&["web-9"])?;
    assert!(said.contains("node_unknown"), "{said}");
    let said = crew.refusal(&["role=wbe", "web-1"])?;
    assert!(said.contains("role=web") && said.contains("role=db"), "{said}");
    let said = crew.refusal(&["@back"])?;
    assert!(said.contains("front"), "{said}");
    let said = crew.refusal(&["--all", "--fact", "os=plan9"])?;
    assert!(said.contains("os=linux"), "{said}");
    let said = crew.refusal(&["web-*", "-x", "role=web"])?;
    assert!(said.contains("--except"), "{said}");
    let said = crew.refusal(&["Web"])?;
    assert!(said.contains("is no target"), "{said}");
    Ok(())
}

#[test]
fn a_job_runs_on_several_nodes_and_each_is_proven() -> Result<()> {
    let crew = Crew::of(&THREE)?;
    let script = "seq 1 3; echo oops >&2";
    let done = crew.run(&["web-*", "db-1"], script)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    for node in ["web-1", "web-2", "db-1 "] {
        let lines: Vec<_> = (1..=3).map(|n| format!("{node} | {n}")).collect();
        let text = done.text();
        let own: Vec<_> = text.lines().filter(|l| l.starts_with(node)).collect();
        assert_eq!(own, lines);
        assert!(
            done.stderr.contains(&format!("{node} | oops\n")),
            "{}",
            done.stderr
        );
    }
    assert!(done.stderr.contains("3 nodes: 3 succeeded"), "{}", done.stderr);

    let (done, lines) = crew.run_json(&["web-*", "db-1"], script)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let all = [
        ("db-1", "succeeded"),
        ("web-1", "succeeded"),
        ("web-2", "succeeded"),
    ];
    are(&results(&lines), &all);
    let of = |event: &'static str| lines.iter().filter(move |l| l["event"] == event);
    assert!(of("result").all(|l| l["confirmed"] == true && l["node_id"].is_string()));
    assert!(of("stdout").all(|l| l["node"].is_string()));
    let last = lines.last().context("no lines")?;
    assert_eq!((&last["event"], &last["nodes"]), (&"summary".into(), &3.into()));
    assert_eq!(last["counts"]["succeeded"], 3);

    let id = id_of(last)?;
    let logs = crew.cli().run(&["logs", &id])?;
    assert_eq!(logs.code()?, 0, "{}", logs.stderr);
    assert_eq!(logs.text().lines().count(), 9, "{}", logs.text());
    let one = crew.cli().run(&["logs", "-f", "--node", "web-2", &id])?;
    assert_eq!((one.code()?, one.stdout), (0, seq(1, 3)), "{}", one.stderr);
    let jobs = crew.cli().ok(&["jobs"])?;
    assert!(jobs.contains("3 succeeded") && jobs.contains("3 nodes"), "{jobs}");
    Ok(())
}

#[test]
fn one_node_that_fails_is_told_from_the_others() -> Result<()> {
    let crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    // Each agent has a directory of its own, and works below it.
    let script = "case $PWD in *web-1-0*) exit 3;; esac";
    let (done, lines) = crew.run_json(&["web-*"], script)?;
    assert_eq!(done.code()?, 1, "{}", done.stderr);
    are(&results(&lines), &[("web-1", "failed"), ("web-2", "succeeded")]);
    let last = lines.last().context("no lines")?;
    assert_eq!((&last["counts"]["failed"], &last["exit"]), (&1.into(), &1.into()));
    let done = crew
        .cli()
        .run(&["run", "--profile", "nowhere", "web-*", "--", "true"])?;
    assert_eq!(done.code()?, 126, "{}", done.stderr);
    assert!(done.stderr.contains("[profile_unknown]"), "{}", done.stderr);
    Ok(())
}

#[test]
fn a_node_that_stands_still_does_not_hold_up_what_the_others_print() -> Result<()> {
    let crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    let go = crew.lab.home().join(mark());
    let go = path(&go)?;
    // The second one ends only when all of the first one's output has been seen here.
    let script = format!(
        "case $PWD in *web-1-0*) seq 1 200000;; *) while [ ! -e {go} ]; do sleep 0.02; done; echo freed;; esac"
    );
    let words = ["run", "--profile", "host", "web-*", "--", "sh", "-c", &script];
    let mut running = Program::start(crew.cli().command(&words))?;
    running.line("the last line of web-1", SOON, |l| {
        (l == "web-1 | 200000").then_some(())
    })?;
    fs::write(go, "")?;
    running.line("web-2's only line", SOON, |l| {
        (l == "web-2 | freed").then_some(())
    })?;
    assert!(running.wait(SOON)?.success(), "{}", running.stderr());
    Ok(())
}

#[test]
fn a_job_does_not_wait_for_nodes_that_are_away_and_runs_there_once_they_are_back() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    crew.stop(1)?;
    let ran = crew.lab.home().join(mark());
    let script = format!("echo x >> {}", path(&ran)?);
    let (done, lines) = crew.run_json(&["--valid", "1h", "web-*"], &script)?;
    assert_eq!(done.code()?, 125, "{}", done.stderr);
    are(&results(&lines), &[("web-1", "succeeded"), ("web-2", "queued")]);
    let away = lines
        .iter()
        .find(|l| l["node"] == "web-2" && l["event"] == "result");
    assert_eq!(away.context("no result")?["code"], "node_offline");
    let id = id_of(lines.last().context("no lines")?)?;

    let queued = crew.cli().ok(&["jobs", "--queued"])?;
    assert!(
        queued.contains(&id) && queued.contains("1 queued (offline)"),
        "{queued}"
    );
    let shown = crew.cli().ok(&["job", &id])?;
    assert!(shown.contains("[node_offline]"), "{shown}");

    crew.start(1)?;
    let logs = crew.cli().run(&["logs", "-f", &id])?;
    assert_eq!(logs.code()?, 0, "{}", logs.stderr);
    let again = crew.cli().ok(&["jobs", "--queued"])?;
    assert!(!again.contains(&id), "{again}");
    crew.stop(1)?;
    crew.start(1)?;
    let runs = fs::read_to_string(&ran)?.lines().count();
    assert_eq!(runs, 2, "once on each");
    Ok(())
}

#[test]
fn with_wait_a_job_waits_for_a_node_that_is_away() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    crew.stop(1)?;
    let words = [
        "run",
        "--wait",
        "--profile",
        "host",
        "web-*",
        "--",
        "echo",
        "here",
    ];
    let mut running = Program::start(crew.cli().command(&words))?;
    running.line("web-1's line", SOON, |l| (l == "web-1 | here").then_some(()))?;
    crew.start(1)?;
    running.line("web-2's line", SOON, |l| (l == "web-2 | here").then_some(()))?;
    assert!(running.wait(SOON)?.success(), "{}", running.stderr());
    Ok(())
}

#[test]
fn a_queued_job_is_canceled_without_its_node_and_as_often_as_one_likes() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[])])?;
    crew.stop(0)?;
    let ran = crew.lab.home().join(mark());
    let words = [
        "run",
        "--json",
        "--detach",
        "--valid",
        "1h",
        "--profile",
        "host",
        "web-1",
        "--",
        "touch",
    ];
    let id = id_of(&crew.cli().run(&[&words[..], &[path(&ran)?]].concat())?.result()?)?;
    let behind = id_of(&crew.cli().run(&[&words[..], &[path(&ran)?]].concat())?.result()?)?;
    let shown = crew.cli().json(&["job", &behind])?;
    assert_eq!(shown["executions"][0]["ahead"], 1, "its place in the queue");
    for id in [&id, &behind, &id] {
        crew.cli().ok(&["cancel", id])?;
    }
    let queued = crew.cli().ok(&["jobs", "--queued"])?;
    assert!(queued.contains("queued (cancel waits)"), "{queued}");
    crew.start(0)?;
    for id in [&id, &behind] {
        assert_eq!(reach(crew.cli(), id, &["canceled"], SOON)?, "canceled");
    }
    crew.cli().ok(&["cancel", &id])?;
    assert!(!ran.exists(), "it ran");
    Ok(())
}

#[test]
fn a_machine_that_is_enrolled_anew_never_gets_its_predecessors_queue() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[])])?;
    crew.stop(0)?;
    let ran = crew.lab.home().join(mark());
    let words = [
        "run",
        "--json",
        "--detach",
        "--valid",
        "1h",
        "--profile",
        "host",
        "web-1",
        "--",
        "touch",
    ];
    let id = id_of(&crew.cli().run(&[&words[..], &[path(&ran)?]].concat())?.result()?)?;
    let nodes = crew.cli().json(&["nodes"])?;
    let mut all = nodes.as_array().into_iter().flatten();
    let before = all.find(|n| n["name"] == "web-1").context("web-1")?;
    let before = before["node_id"].as_str().context("id")?.to_owned();
    crew.join("web-1", &[], &["--replaces", &before])?;
    // What waited for the machine would have come before this.
    let done = crew.run(&["web-1"], "true")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let shown = crew.cli().json(&["job", &id])?;
    assert_eq!(shown["executions"][0]["state"], "queued");
    assert!(!ran.exists(), "it ran on another machine");
    Ok(())
}

#[test]
fn an_interrupted_run_cancels_on_all_nodes() -> Result<()> {
    let crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    let mark = mark();
    let started = crew.lab.home().join(&mark);
    let script = format!("touch {}-$$; exec sleep {mark}", path(&started)?);
    let words = [
        "run",
        "--json",
        "--profile",
        "host",
        "web-*",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut running = Program::start(crew.cli().command(&words))?;
    let id = running.line("the start of both", SOON, {
        let running = std::cell::RefCell::new((None, 0));
        move |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let mut seen = running.borrow_mut();
            match line["event"].as_str()? {
                "submitted" => seen.0 = id_of(&line).ok(),
                "state" if line["state"] == "running" => seen.1 += 1,
                _ => {}
            }
            (seen.1 == 2).then(|| seen.0.clone()).flatten()
        }
    })?;
    running.signal(rustix::process::Signal::INT);
    assert!(!running.wait(SOON)?.success());
    crate::steps::gone(&format!("sleep {mark}"))?;
    let shown = crew.cli().json(&["job", &id])?;
    let states: Vec<_> = shown["executions"].as_array().into_iter().flatten().collect();
    assert!(states.iter().all(|e| e["state"] == "canceled"), "{shown}");
    Ok(())
}

#[test]
fn a_fact_that_was_chosen_by_is_checked_on_the_node() -> Result<()> {
    let crew = Crew::of(&[("web-1", &[])])?;
    let linux = ["--fact", "os=linux", "web-1"];
    let done = crew.run(&linux, "true")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let (done, lines) = crew.run_json(&["--fact", "os=linux", "--all"], "true")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let id = id_of(lines.last().context("no lines")?)?;
    let shown = crew.cli().json(&["job", &id])?;
    assert_eq!(shown["job"]["expect"], serde_json::json!({ "os": "linux" }));
    Ok(())
}
