//! Schedules through the real CLI, hub and agent: added, fired, shown, removed; fired without a hub; killed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Lab, Split, SplitOptions, poll, wait_until};
use serde_json::Value;

use crate::steps::{SOON, audits_hold, detached, id_of, reach, sh, state};

/// Signs a schedule that fires every two seconds on the demo's node.
fn add(cli: &Cli, options: &[&str], script: &str) -> Result<String> {
    let mut words = vec!["schedule", "add", "--profile", "host", "--cron", "*/2 * * * * *"];
    words.extend(["--until", "1h"]);
    words.extend(options);
    words.extend(["local", "--", "sh", "-c", script]);
    id_of(&cli.json(&words)?)
}

/// What the hub has been told of a schedule's firings, each with receipts that the client has verified.
fn firings(cli: &Cli, id: &str) -> Result<Vec<Value>> {
    let shown = cli.json(&["schedule", "show", "--firings", "100", id])?;
    let firings = shown["firings"].as_array().context("firings")?.clone();
    for firing in &firings {
        ensure!(
            firing["refused"].as_array().is_some_and(Vec::is_empty),
            "{firing}"
        );
        ensure!(
            firing["receipts"][0]["fired"]["nominal"] == firing["nominal"],
            "the receipt names the time: {firing}"
        );
    }
    Ok(firings)
}

fn succeeded(cli: &Cli, id: &str) -> Result<Vec<Value>> {
    let all = firings(cli, id)?;
    let done = all
        .into_iter()
        .filter(|f| f["receipts"][0]["outcome"] == "succeeded");
    Ok(done.collect())
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn a_schedule_fires_is_shown_and_ends_when_it_is_removed() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let id = add(cli, &["--jitter", "1s", "--reason", "nightly"], "echo hello")?;
    reach(cli, &id, &["running"], SOON)?;
    let fired = poll("two firings", SOON, || {
        succeeded(cli, &id).ok().filter(|all| all.len() >= 2)
    })?;
    let first = id_of(&fired[0])?;
    ensure!(cli.ok(&["logs", &first])? == "hello\n", "its output");
    let shown = cli.ok(&["job", &first])?;
    ensure!(shown.contains(&format!("by the schedule {id}")), "{shown}");
    ensure!(shown.contains("receipt    succeeded"), "{shown}");
    let jobs = cli.ok(&["jobs"])?;
    ensure!(jobs.contains("(scheduled) "), "{jobs}");
    let listed = cli.json(&["schedule", "ls"])?;
    ensure!(listed[0]["job_id"] == id.as_str(), "{listed}");
    let shown = cli.json(&["schedule", "show", &id])?;
    ensure!(
        shown["nodes"][0]["next"].as_array().is_some_and(|n| n.len() == 3),
        "{shown}"
    );
    let words = cli.ok(&["schedule", "show", &id])?;
    for line in [
        "fires      */2 * * * * * (UTC)",
        "jitter     1s",
        "the hub says kept",
        "reason     nightly",
    ] {
        ensure!(words.contains(line), "{line}: {words}");
    }
    cli.ok(&["schedule", "rm", &id])?;
    reach(cli, &id, &["canceled"], SOON)?;
    let words = cli.ok(&["schedule", "show", &id])?;
    ensure!(words.contains("receipt    canceled"), "{words}");
    // What runs every two seconds would have fired before another one has.
    let before = lines_of(cli, &id)?;
    let witness = add(cli, &[], "true")?;
    poll("the witness", SOON, || {
        succeeded(cli, &witness).ok().filter(|all| all.len() >= 2)
    })?;
    ensure!(lines_of(cli, &id)? == before, "it still fires");
    audits_hold(cli)
}

fn lines_of(cli: &Cli, id: &str) -> Result<usize> {
    Ok(firings(cli, id)?.len())
}

#[test]
fn what_makes_no_schedule_is_said_before_anything_is_signed() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let refused = |options: &[&str], word: &str| -> Result<()> {
        let mut all = vec!["schedule", "add", "--profile", "host"];
        all.extend(options);
        all.extend(["local", "--", "true"]);
        let done = cli.run(&all)?;
        ensure!(
            !done.status.success() && done.stderr.contains(word),
            "{}",
            done.stderr
        );
        Ok(())
    };
    refused(&["--cron", "0 3 * * *"], "--until")?;
    refused(&["--cron", "0 25 * * *", "--until", "1h"], "cron")?;
    refused(&["--cron", "0 3 * *", "--until", "1h"], "five fields")?;
    refused(
        &["--cron", "0 3 * * *", "--tz", "Europe/Nowhere", "--until", "1h"],
        "no such time zone",
    )?;
    refused(&["--cron", "0 3 29 2 *", "--until", "1h"], "never comes")?;
    refused(&["--cron", "0 3 * * *", "--until", "31d"], "30 days")?;
    ensure!(
        cli.json(&["schedule", "ls"])?
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    let preview = cli.json(&[
        "schedule",
        "add",
        "--cron",
        "0 3 * * *",
        "--until",
        "7d",
        "--dry-run",
        "--all",
        "--",
        "true",
    ])?;
    ensure!(preview["event"] == "dry_run", "{preview}");
    Ok(())
}

#[test]
fn a_schedule_fires_without_a_hub_and_its_results_come_when_there_is_one() -> Result<()> {
    without_a_hub(SplitOptions::default())
}

#[test]
fn a_schedule_of_a_polling_node_fires_without_a_hub_and_its_results_come_when_there_is_one() -> Result<()> {
    without_a_hub(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })
}

fn without_a_hub(options: SplitOptions) -> Result<()> {
    let mut split = Split::start_with(options)?;
    let cli = split.cli().clone();
    let counter = split.home().join("counter");
    let script = format!("echo x >> {}; echo told", counter.display());
    let id = add(&cli, &[], &script)?;
    reach(&cli, &id, &["running"], SOON)?;
    split.hub()?.kill()?;
    let before = lines(&counter);
    wait_until("three firings without a hub", SOON, || {
        lines(&counter) >= before + 3
    })?;
    split.start_hub()?;
    let told = poll("their results", SOON, || {
        succeeded(&cli, &id).ok().filter(|all| all.len() >= before + 3)
    })?;
    for firing in &told {
        ensure!(cli.ok(&["logs", &id_of(firing)?])? == "told\n", "{firing}");
    }
    cli.ok(&["schedule", "rm", &id])?;
    reach(&cli, &id, &["canceled"], SOON)?;
    audits_hold(&cli)
}

#[test]
fn a_schedule_that_is_removed_while_its_node_is_away_ends_when_it_comes_back() -> Result<()> {
    let mut split = Split::start_with(SplitOptions {
        lease_seconds: Some(40),
        ..SplitOptions::default()
    })?;
    let cli = split.cli().clone();
    let id = add(&cli, &[], "true")?;
    reach(&cli, &id, &["running", "lost"], SOON)?;
    split.agent()?.kill()?;
    // The hub has given it up as lost before somebody removes it.
    reach(&cli, &id, &["lost"], SOON * 3)?;
    cli.ok(&["schedule", "rm", &id])?;
    split.spawn_agent()?;
    reach(&cli, &id, &["canceled"], SOON)?;
    Ok(())
}

#[test]
fn no_kill_of_the_agent_has_a_schedule_fire_one_time_twice_or_loses_a_result() -> Result<()> {
    let mut split = Split::start()?;
    let cli = split.cli().clone();
    let counter = split.home().join("counter");
    let script = format!("echo x >> {}; echo told", counter.display());
    let id = add(&cli, &["--missed", "once"], &script)?;
    reach(&cli, &id, &["running"], SOON)?;
    for kill in 0..6 {
        let before = lines(&counter);
        wait_until("a firing", SOON, || lines(&counter) > before)?;
        // At, and at some moments after, what was just fired.
        let moment = Instant::now() + Duration::from_millis(kill * 20);
        wait_until("the moment", SOON, || Instant::now() >= moment)?;
        split.agent()?.kill()?;
        split.spawn_agent()?;
    }
    let before = lines(&counter);
    wait_until("a firing after the last kill", SOON, || lines(&counter) > before)?;
    cli.ok(&["schedule", "rm", &id])?;
    reach(&cli, &id, &["canceled"], SOON)?;
    let told = |all: &[Value], outcome: &str| {
        let of = all.iter().filter(|f| f["receipts"][0]["outcome"] == outcome);
        of.count()
    };
    // Whatever ran has ended, with a receipt: each line is of one firing.
    let all = poll("every result", SOON, || {
        let all = firings(&cli, &id).ok()?;
        let ran = told(&all, "succeeded") + told(&all, "interrupted");
        (ran >= lines(&counter)).then_some(all)
    })?;
    let (done, cut) = (told(&all, "succeeded"), told(&all, "interrupted"));
    ensure!(
        (done..=done + cut).contains(&lines(&counter)),
        "{} lines, {done} succeeded, {cut} interrupted",
        lines(&counter)
    );
    let mut nominal: Vec<_> = all.iter().map(|f| f["nominal"].to_string()).collect();
    let count = nominal.len();
    nominal.sort();
    nominal.dedup();
    ensure!(nominal.len() == count, "one time fired twice");
    ensure!(state(&cli, &id)? == "canceled");
    audits_hold(&cli)
}

#[test]
fn a_job_after_another_waits_visibly_and_begins_when_that_has_ended() -> Result<()> {
    let mut split = Split::start()?;
    let cli = split.cli().clone();
    let go = split.home().join("go");
    let first = detached(
        &cli,
        &format!("while [ ! -e {} ]; do sleep 0.05; done", go.display()),
    )?;
    reach(&cli, &first, &["running"], SOON)?;
    let done = sh(&cli, &["--detach", "--after", &first], "echo second")?;
    ensure!(done.status.success(), "{}", done.stderr);
    let second = id_of(&done.result()?)?;
    wait_until("it is said to wait", SOON, || {
        cli.ok(&["jobs"])
            .is_ok_and(|jobs| jobs.contains("queued (after another)"))
    })?;
    let shown = cli.ok(&["job", &second])?;
    ensure!(shown.contains(&format!("after      {first}")), "{shown}");
    ensure!(shown.contains("[after_waiting]"), "{shown}");
    // It is in nobody's way.
    ensure!(sh(&cli, &[], "true")?.status.success(), "another job runs");
    // Neither a new agent, which ends the first, nor a hub that was away has it begin before its time or be lost.
    split.hub()?.kill()?;
    split.start_hub()?;
    ensure!(state(&cli, &second)? == "queued");
    fs::write(&go, "")?;
    reach(&cli, &first, &["succeeded"], SOON)?;
    reach(&cli, &second, &["succeeded"], SOON)?;
    ensure!(cli.ok(&["logs", &second])? == "second\n");
    Ok(())
}
