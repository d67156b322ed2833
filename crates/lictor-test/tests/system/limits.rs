//! What is said about limits that a job met: on the terminal, in JSON, and later.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Lab, Split, SplitOptions, wait_until};
use serde_json::json;

use crate::steps::{add_profile, id_of, reach};

/// Held on every host: what does not take cgroup controllers.
const TIGHT: &str = "\n[profiles.tight]\nbackend = \"host\"\nnetwork = \"host\"\n\
                     limits = { cpu_seconds = 1, keep = \"1KiB\", timeout = \"1m\" }\n";

#[test]
fn limits_that_a_job_met_are_named_in_words_and_in_json() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, TIGHT)?;
    let run = |more: &[&str], script: &str| {
        let mut all = vec!["run", "--profile", "tight"];
        all.extend(more);
        all.extend(["local", "--", "sh", "-c", script]);
        cli.run(&all)
    };
    let busy = run(&[], "while :; do :; done")?;
    ensure!(
        busy.stderr
            .contains("limit met: processor time: a process had used all that it may"),
        "{}",
        busy.stderr
    );
    let result = run(&["--json"], "while :; do :; done")?.result()?;
    assert_eq!(result["limits_hit"], json!(["cpu"]), "{result}");
    for measured in ["memory_peak_bytes", "read_bytes", "written_bytes"] {
        ensure!(result.get(measured).is_some(), "{measured}: {result}");
    }
    let shown = cli.ok(&["job", &id_of(&result)?])?;
    ensure!(shown.contains("limit met  processor time: "), "{shown}");
    ensure!(shown.contains(" in user mode, "), "{shown}");

    let wordy = run(&["--json"], "head -c 10000 /dev/zero")?.result()?;
    assert_eq!(wordy["limits_hit"], json!(["output"]), "{wordy}");
    let late = run(&["--json", "--timeout", "200ms"], "sleep 60")?.result()?;
    assert_eq!(late["limits_hit"], json!(["wall_time"]), "{late}");
    let quick = run(&["--json"], "true")?.result()?;
    assert_eq!(quick["limits_hit"], json!([]), "{quick}");
    Ok(())
}

const SOON: Duration = Duration::from_secs(60);

fn hub_with(settings: &str) -> Result<Split> {
    Split::start_with(SplitOptions {
        hub_settings: settings.to_owned(),
        ..SplitOptions::default()
    })
}

#[test]
fn what_is_over_the_orgs_limit_waits_visibly_and_nothing_is_dropped_or_ended() -> Result<()> {
    let split = hub_with("max_running_per_org = 1\nmax_queued_per_org = 3\n")?;
    let cli = split.cli();
    let gate = split.home().join("gate");
    let gate = gate.to_str().context("path is not UTF-8")?;
    let script = "until [ -e \"$1\" ]; do sleep 0.05; done";
    let submit = || {
        let words = [
            "run",
            "--json",
            "--detach",
            "--valid",
            "1h",
            "--profile",
            "host",
            "local",
            "--",
        ];
        cli.run(&[&words[..], &["sh", "-c", script, "sh", gate]].concat())
    };
    let running = id_of(&submit()?.result()?)?;
    reach(cli, &running, &["running"], SOON)?;
    let mut held = vec![id_of(&submit()?.result()?)?, id_of(&submit()?.result()?)?];
    wait_until("each says why it waits", SOON, || {
        held.iter().all(|id| {
            let shown = cli.json(&["job", id]).unwrap_or_default();
            let execution = &shown["executions"][0];
            execution["state"] == "queued" && execution["code"] == "too_many_running"
        })
    })?;
    let behind = cli.json(&["job", &held[1]])?;
    assert_eq!(
        behind["executions"][0]["ahead"], 1,
        "its place in the queue: {behind}"
    );
    // The counts are read every two seconds; what is queued is counted in at once.
    let refused = loop {
        let done = submit()?;
        if done.code()? != 0 {
            break done;
        }
        held.push(id_of(&done.result()?)?);
        ensure!(held.len() <= 3, "more wait than may");
    };
    assert_eq!(refused.code()?, 125, "{}", refused.stderr);
    ensure!(
        refused.text().contains("queue_full") || refused.stderr.contains("queue_full"),
        "{}",
        refused.stderr
    );
    let shown = cli.json(&["job", &running])?;
    assert_eq!(shown["executions"][0]["state"], "running", "it was let alone");
    fs::write(gate, "")?;
    for id in held.iter().chain([&running]) {
        assert_eq!(
            reach(cli, id, &["succeeded", "failed", "canceled", "lost"], SOON)?,
            "succeeded"
        );
    }
    Ok(())
}

#[test]
fn commands_of_a_token_that_asks_too_often_wait_and_then_work() -> Result<()> {
    let split = hub_with("requests_per_second = 2\nrequest_burst = 2\n")?;
    let made = split
        .cli()
        .json(&["tokens", "new", "--scope", "read", "--rate", "1", "slow"])?;
    let secret = made["secret"].as_str().context("no secret")?;
    let authorization = format!("Authorization: Bearer {secret}");
    let url = format!("http://127.0.0.1:{}/api/v1/jobs", split.port());
    // Without our client, which waits: the hub refuses, and says for how long.
    let curl = || -> Result<String> {
        let words = ["-s", "-i", "-H", authorization.as_str(), url.as_str()];
        let done = std::process::Command::new("curl").args(words).output()?;
        Ok(String::from_utf8_lossy(&done.stdout).to_lowercase())
    };
    let mut refused = None;
    for _ in 0..50 {
        let answer = curl()?;
        if answer.contains(" 429 ") {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.context("fifty requests at once were let through")?;
    ensure!(refused.contains("retry-after: 1"), "{refused}");
    ensure!(
        refused.contains("application/problem+json") && refused.contains("rate_limited"),
        "{refused}"
    );
    for _ in 0..3 {
        split
            .cli()
            .ok(&["run", "--profile", "host", "local", "--", "true"])?;
    }
    Ok(())
}
