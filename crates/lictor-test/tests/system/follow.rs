//! Detached jobs, followers, cancel, and clients that go away.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result};
use lictor_test::{Lab, Program};

use crate::steps::{SOON, appears, assert_same, detached, ended, gone, mark, reach, receipt, seq, sh};

/// A script that prints, waits for a file, and prints again.
fn in_two_parts(file: &str, last: u32) -> String {
    format!("seq 1 50000; while [ ! -e {file} ]; do sleep 0.02; done; seq 50001 {last}")
}

#[test]
fn a_late_follower_gets_all_from_the_start_and_two_get_the_same() -> Result<()> {
    let lab = Lab::start()?;
    let go = lab.home().join("go");
    let id = detached(lab.cli(), &in_two_parts(go.to_str().context("path")?, 90_000))?;
    reach(lab.cli(), &id, &["running"], SOON)?;
    let followers: Vec<_> = (0..2)
        .map(|_| {
            let (cli, id) = (lab.cli().clone(), id.clone());
            thread::spawn(move || cli.run(&["logs", "-f", &id]))
        })
        .collect();
    fs::write(&go, "")?;
    for follower in followers {
        let done = follower
            .join()
            .map_err(|_| anyhow::anyhow!("a follower broke down"))??;
        assert_eq!(done.code()?, 0, "{}", done.stderr);
        assert_same(&done.stdout, &seq(1, 90_000));
    }
    let after = lab.cli().run(&["logs", "-f", &id])?;
    assert_same(&after.stdout, &seq(1, 90_000));
    let stored = lab.cli().run(&["logs", &id])?;
    assert_same(&stored.stdout, &seq(1, 90_000));
    Ok(())
}

/// All files below a directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn output_is_stored_compressed_and_comes_back_byte_by_byte() -> Result<()> {
    /// How a frame of Zstandard begins (RFC 8878, section 3.1.1).
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let lab = Lab::start()?;
    let words = [
        "run",
        "--profile",
        "host",
        "--detach",
        "local",
        "--",
        "seq",
        "1",
        "2000000",
    ];
    let id = lab.cli().ok(&words)?.trim().to_owned();
    let printed = seq(1, 2_000_000);
    let live = lab.cli().run(&["logs", "-f", &id])?;
    assert_eq!(live.code()?, 0, "{}", live.stderr);
    assert_same(&live.stdout, &printed);

    let objects = files(&lab.home().join("hub/objects"))?;
    assert!(!objects.is_empty(), "{} bytes are in no object", printed.len());
    let mut stored = 0;
    for object in &objects {
        let bytes = fs::read(object)?;
        assert!(bytes.starts_with(&MAGIC), "{} is no zstd", object.display());
        stored += bytes.len();
    }
    assert!(
        stored * 2 < printed.len(),
        "{stored} bytes hold {}",
        printed.len()
    );
    let late = lab.cli().run(&["logs", &id])?;
    assert_eq!(late.code()?, 0, "{}", late.stderr);
    assert_same(&late.stdout, &printed);
    Ok(())
}

#[test]
fn a_cancel_ends_the_whole_tree() -> Result<()> {
    let lab = Lab::start()?;
    let m = mark();
    let id = detached(
        lab.cli(),
        &format!("setsid sleep {m} & trap '' TERM; sleep {m}; sleep {m}"),
    )?;
    reach(lab.cli(), &id, &["running"], SOON)?;
    lab.cli().ok(&["cancel", &id])?;
    assert_eq!(ended(lab.cli(), &id)?, "canceled");
    gone(&format!("sleep {m}"))?;
    lab.cli().ok(&["receipt", "verify", &id])?;
    Ok(())
}

#[test]
fn a_client_that_is_killed_does_not_change_its_job() -> Result<()> {
    let lab = Lab::start()?;
    let go = lab.home().join("go");
    let script = in_two_parts(go.to_str().context("path")?, 60_000);
    let words = [
        "run",
        "--json",
        "--profile",
        "host",
        "local",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut client = Program::start(lab.cli().command(&words))?;
    let id = client.line("the job's id", SOON, |line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(event["job_id"].as_str()?.to_owned())
    })?;
    client.kill()?;
    fs::write(&go, "")?;
    assert_eq!(ended(lab.cli(), &id)?, "succeeded");
    let logs = lab.cli().run(&["logs", &id])?;
    assert_eq!(logs.code()?, 0, "{}", logs.stderr);
    assert_same(&logs.stdout, &seq(1, 60_000));
    Ok(())
}

#[test]
fn a_detached_job_is_listed_and_its_receipt_verifies() -> Result<()> {
    let lab = Lab::start()?;
    let file = lab.home().join("made");
    let id = detached(lab.cli(), &format!("echo made > {}", file.display()))?;
    appears(&file)?;
    assert_eq!(ended(lab.cli(), &id)?, "succeeded");
    let jobs = lab.cli().json(&["jobs"])?;
    assert_eq!(jobs[0]["job_id"], id.as_str());
    let verified = lab.cli().json(&["receipt", "verify", &id])?;
    assert_eq!(verified["verified"], true);
    assert_eq!(receipt(lab.cli(), &id)?["outcome"], "succeeded");
    Ok(())
}

#[test]
fn states_are_told_in_their_order() -> Result<()> {
    let lab = Lab::start()?;
    for _ in 0..8 {
        let lines = sh(lab.cli(), &[], "echo x")?.json_lines()?;
        let states: Vec<_> = lines.iter().filter_map(|l| l["state"].as_str()).collect();
        let running = states.iter().position(|s| *s == "running");
        let leased = states.iter().position(|s| *s == "leased");
        assert!(
            running.is_none() || leased.is_none() || leased < running,
            "{states:?}"
        );
    }
    Ok(())
}

#[test]
fn an_interrupt_cancels_the_job() -> Result<()> {
    let lab = Lab::start()?;
    let m = mark();
    let script = format!("echo up; sleep {m}");
    let words = ["run", "--profile", "host", "local", "--", "sh", "-c", &script];
    let mut client = Program::start(lab.cli().command(&words))?;
    client.line("output", SOON, |line| (line == "up").then_some(()))?;
    client.signal(rustix::process::Signal::INT);
    let status = client.wait(SOON)?;
    assert!(!status.success(), "{status}");
    gone(&format!("sleep {m}"))
}

#[test]
fn output_that_cannot_be_written_is_an_error_of_ours() -> Result<()> {
    let lab = Lab::start()?;
    let mut command = lab
        .cli()
        .command(&["run", "--profile", "host", "local", "--", "seq", "1", "100000"]);
    let done = command.stdout(fs::File::create("/dev/full")?).output()?;
    assert_eq!(done.status.code(), Some(125));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("could not write the output"), "{said}");
    Ok(())
}

#[test]
fn what_is_printed_of_a_job_that_goes_on_is_provisional() -> Result<()> {
    let lab = Lab::start()?;
    let go = lab.home().join("go");
    let id = detached(lab.cli(), &in_two_parts(go.to_str().context("path")?, 60_000))?;
    reach(lab.cli(), &id, &["running"], SOON)?;
    let early = lab.cli().run(&["--json", "logs", &id])?;
    assert_eq!(early.code()?, 0, "{}", early.stderr);
    assert_eq!(early.result()?["confirmed"], false);
    let note: serde_json::Value = serde_json::from_str(&early.stderr)?;
    assert!(
        note["note"].as_str().is_some_and(|n| n.contains("provisional")),
        "{note}"
    );
    fs::write(&go, "")?;
    ended(lab.cli(), &id)?;
    let late = lab.cli().run(&["--json", "logs", &id])?;
    assert_eq!(late.result()?["confirmed"], true);
    assert_eq!(late.result()?["status"], "succeeded");
    Ok(())
}
