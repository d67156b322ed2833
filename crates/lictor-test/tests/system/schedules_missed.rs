//! Schedules of nodes that were away for a week, and of scripts and nodes that the law and facts name.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Timestamp;
use lictor_test::{Lab, Split, wait_until};
use serde_json::{Value, json};

use crate::archive::Later;
use crate::law::change_law;
use crate::schedules_more::{add, ended_as, ends};
use crate::steps::{SOON, id_of, reach};

/// What a week away is to a node: its warden, with the journal that the agent left, a week later.
#[test]
fn what_was_missed_is_left_out_or_its_last_time_made_up_for_as_was_signed() -> Result<()> {
    let mut split = Split::start()?;
    let cli = split.cli().clone();
    let counter = |name: &str| split.home().join(name);
    let (skipped, made_up) = (counter("skipped"), counter("made-up"));
    // Once an hour, ten minutes before what will be now there.
    let minute = (Timestamp::now().as_millis() / 60_000 + 51) % 60;
    let cron = format!("{minute} * * * *");
    let hourly = |missed: &str, to: &Path| -> Result<String> {
        let line = format!("echo x >> {}", to.display());
        let words = [
            "schedule",
            "add",
            "--profile",
            "host",
            "--cron",
            &cron,
            "--until",
            "20d",
        ];
        let more = [
            "--missed",
            missed,
            "--start-within",
            "2h",
            "local",
            "--",
            "sh",
            "-c",
            &line,
        ];
        id_of(&cli.json(&[&words[..], &more[..]].concat())?)
    };
    let (skips, once) = (hourly("skip", &skipped)?, hourly("once", &made_up)?);
    for id in [&skips, &once] {
        reach(&cli, id, &["running"], SOON)?;
    }
    split.agent()?.kill()?;
    let later = Later::start(&split)?;
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    wait_until("the last time to be made up for", SOON, || lines(&made_up) == 1)?;
    let agent = split.home().join("agent");
    let agent = agent.to_str().context("a path")?;
    let missed = |id: &str| {
        let digest = cli.json(&["schedule", "show", id]).unwrap_or_default()["digest"].to_string();
        let digest = digest.trim_matches('"').to_owned();
        let events = cli
            .ok(&["--json", "audit", "--agent", agent, "show"])
            .unwrap_or_default();
        let so =
            |line: &&str| line.contains("schedule_missed") && (line.contains(id) || line.contains(&digest));
        events.lines().filter(so).count()
    };
    // How many times, and up to which, the warden's own tests look at.
    wait_until("what was missed to be told", SOON, || {
        missed(&skips) >= 1 && missed(&once) >= 1
    })?;
    later.end()?;
    ensure!(
        (lines(&skipped), lines(&made_up)) == (0, 1),
        "{} and {}",
        lines(&skipped),
        lines(&made_up)
    );
    Ok(())
}

#[test]
fn a_schedule_fires_a_script_of_the_law_on_nodes_chosen_by_what_they_are() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let scripts = lab.home().join("org/scripts");
    fs::create_dir_all(&scripts)?;
    fs::write(scripts.join("greet"), "#!/bin/sh\necho \"hello $1\"\n")?;
    change_law(cli, "profiles.toml", "")?;
    // Whoever the hub has heard of says what it is with its first heartbeat.
    let options = ["--named-script", "greet", "--fact", "os=linux", "--yes"];
    let id = add(cli, &options, &["--all", "--", "world"])?;
    let shown = cli.json(&["schedule", "show", &id])?;
    ensure!(
        shown["schedule"]["expect"] == json!({ "os": "linux" })
            && shown["schedule"]["spec"]["name"] == "greet",
        "{shown}"
    );
    let done = ends(cli, &id, "succeeded", 1)?;
    let first = id_of(&done[0])?;
    ensure!(cli.ok(&["logs", &first])? == "hello world\n");
    // What was signed is the script as it was then: firings are refused once the law has another one.
    fs::write(scripts.join("greet"), "#!/bin/sh\necho \"goodbye $1\"\n")?;
    change_law(cli, "profiles.toml", "")?;
    // Others may have been refused for coming while the one before ran.
    wait_until("a firing refused for its script", SOON, || {
        let mismatches = |f: &Value| f["receipts"][0]["code"] == "script_mismatch";
        ended_as(cli, &id, "denied").is_ok_and(|all| all.iter().any(mismatches))
    })?;
    for firing in ended_as(cli, &id, "succeeded")? {
        let said = cli.ok(&["logs", &id_of(&firing)?])?;
        ensure!(said == "hello world\n", "another script ran: {said}");
    }
    Ok(())
}
