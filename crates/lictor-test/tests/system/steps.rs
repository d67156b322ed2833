//! Steps that several tests take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, poll, wait_until};
use serde_json::Value;

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// States that an execution does not leave any more.
pub(crate) const FINAL: [&str; 7] = [
    "succeeded",
    "failed",
    "timed_out",
    "canceled",
    "denied",
    "interrupted",
    "expired",
];

/// `lictor run --json --profile host [options] local -- sh -c SCRIPT`.
pub(crate) fn sh(cli: &Cli, options: &[&str], script: &str) -> Result<Done> {
    let mut all = vec!["run", "--json", "--profile", "host"];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", script]);
    cli.run(&all)
}

/// Adds to the law's profiles, signs it and gives it to the hub.
pub(crate) fn add_profile(cli: &Cli, text: &str) -> Result<()> {
    let profiles = cli.home().join("org/profiles.toml");
    fs::write(&profiles, fs::read_to_string(&profiles)? + text)?;
    cli.ok(&["org", "sign"])?;
    cli.ok(&["org", "push"])?;
    Ok(())
}

/// Submits a script and leaves; gives the job's id.
pub(crate) fn detached(cli: &Cli, script: &str) -> Result<String> {
    let done = sh(cli, &["--detach"], script)?;
    if !done.status.success() {
        bail!("submitting failed: {}\n{}", done.status, done.stderr);
    }
    id_of(&done.result()?)
}

/// The line that says how it ended.
pub(crate) fn result_of(done: &Done) -> Result<Value> {
    let lines = done.json_lines()?;
    let result = lines.into_iter().find(|l| l["event"] == "result");
    result.with_context(|| format!("no result: {}\n{}", done.text(), done.stderr))
}

/// A command that goes on while the test does.
pub(crate) fn begin(cli: &Cli, words: &[impl AsRef<str>]) -> Result<Child> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let mut command = cli.command(&words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// Every file below a directory, with its bytes.
pub(crate) fn files_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(files_below(&entry.path())),
            Ok(meta) => found.push((entry.path(), meta.len())),
            Err(_) => {}
        }
    }
    found
}

/// The job's id in an event or result.
pub(crate) fn id_of(value: &Value) -> Result<String> {
    Ok(value["job_id"].as_str().context("no job id")?.to_owned())
}

/// What the hub says of the one execution of a job.
pub(crate) fn state(cli: &Cli, id: &str) -> Result<String> {
    let job = cli.json(&["job", id])?;
    let state = job["executions"][0]["state"].as_str();
    Ok(state
        .with_context(|| format!("no execution in {job}"))?
        .to_owned())
}

/// Waits until a job is in one of these states; gives which.
pub(crate) fn reach(cli: &Cli, id: &str, states: &[&str], patience: Duration) -> Result<String> {
    let mut last = String::new();
    let there = poll(&format!("{id} to be {states:?}"), patience, || {
        last = state(cli, id).unwrap_or_else(|e| format!("{e:#}"));
        states.contains(&last.as_str()).then(|| last.clone())
    });
    there.with_context(|| format!("last seen: {last}"))
}

/// Waits until a job has ended; gives how.
pub(crate) fn ended(cli: &Cli, id: &str) -> Result<String> {
    reach(cli, id, &FINAL, SOON)
}

/// Waits until every job that the hub knows has ended; gives how many there are.
pub(crate) fn all_ended(cli: &Cli, patience: Duration) -> Result<usize> {
    let ended = || {
        let jobs = cli.json(&["jobs", "--limit", "100000"]).ok()?;
        let jobs = jobs.as_array()?;
        let is_open = |job: &Value| {
            let state = job["executions"][0]["state"].as_str().unwrap_or_default();
            !FINAL.contains(&state)
        };
        (!jobs.iter().any(is_open)).then_some(jobs.len())
    };
    poll("all jobs to have ended", patience, ended).with_context(|| cli.ok(&["jobs"]).unwrap_or_default())
}

/// The verified receipt of a job, from `lictor job --json`.
pub(crate) fn receipt(cli: &Cli, id: &str) -> Result<Value> {
    let job = cli.json(&["job", id])?;
    Ok(job["receipts"][0].clone())
}

/// Waits until a file is there.
pub(crate) fn appears(path: &Path) -> Result<()> {
    wait_until(&format!("{}", path.display()), SOON, || path.exists())
}

/// Waits until no process has these words in its command line.
pub(crate) fn gone(words: &str) -> Result<()> {
    wait_until(&format!("no process with {words}"), SOON, || {
        processes(words).is_empty()
    })
}

/// The ids of processes whose command line contains these words, arguments separated by blanks.
pub(crate) fn processes(words: &str) -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = all
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(words)
    })
    .collect()
}

/// A number that no other test's processes carry: sleeping for so many seconds marks a process as one's own.
pub(crate) fn mark() -> String {
    let mut bytes = [0; 4];
    // Random bytes can't fail on Linux once the machine is up.
    getrandom::fill(&mut bytes).expect("random bytes");
    format!("1{:010}", u32::from_le_bytes(bytes))
}

/// `seq FIRST LAST`.
pub(crate) fn seq(first: u32, last: u32) -> Vec<u8> {
    let lines: Vec<String> = (first..=last).map(|n| format!("{n}\n")).collect();
    lines.concat().into_bytes()
}

/// Asserts that two outputs are the same, by digest: the text of megabytes helps nobody.
#[track_caller]
pub(crate) fn assert_same(seen: &[u8], expected: &[u8]) {
    assert_eq!(seen.len(), expected.len(), "length of the output");
    assert_eq!(Digest::of(seen), Digest::of(expected), "digest of the output");
}

/// The audit logs of the hub and of the node in `home` hold.
pub(crate) fn audits_hold(cli: &Cli) -> Result<()> {
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("path is not UTF-8")?;
    cli.ok(&["audit", "verify"])?;
    cli.ok(&["audit", "--agent", agent, "verify"])?;
    Ok(())
}

/// Resident anonymous memory of a process, in bytes.
pub(crate) fn rss_anon(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line
        .and_then(|l| l.trim().strip_suffix("kB"))
        .context("RssAnon")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}
