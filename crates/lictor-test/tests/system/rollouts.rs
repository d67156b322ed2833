//! One job spread over its nodes: batches, a stop and going on, releases that the law demands, retry, and cancels for
//! some of its nodes.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lictor_test::wait_until;
use serde_json::Value;

use crate::fleet::{Crew, are, path, results};
use crate::steps::{SOON, id_of, mark};

const THREE: [(&str, &[&str]); 3] = [("web-1", &[]), ("web-2", &[]), ("web-3", &[])];

/// A demand for releases, of jobs on several nodes.
const RELEASED: &str = r#"
@id("released") @releasers("ops")
forbid (principal, action in [Action::"exec", Action::"shell"], resource) when { context.nodes > 1 };
"#;

/// What the hub says of a job's executions, by name.
fn states(crew: &Crew, id: &str) -> Result<Vec<(String, String)>> {
    let job = crew.cli().json(&["job", id])?;
    let all = job["executions"].as_array().context("executions")?;
    let word = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = all
        .iter()
        .map(|e| (word(e, "node_name"), word(e, "state")))
        .collect();
    all.sort();
    Ok(all)
}

fn reach(crew: &Crew, id: &str, expected: &[(&str, &str)]) -> Result<()> {
    let mut last = Vec::new();
    let there = wait_until(&format!("{id} to be {expected:?}"), SOON, || {
        last = states(crew, id).unwrap_or_default();
        last.iter()
            .map(|(n, s)| (n.as_str(), s.as_str()))
            .eq(expected.iter().copied())
    });
    there.with_context(|| format!("last seen: {last:?}"))
}

/// Adds a rule to the law, and gives it to the hub.
fn rule(crew: &Crew, text: &str) -> Result<()> {
    let law = crew.lab.home().join("org/policies/demo.cedar");
    fs::write(&law, fs::read_to_string(&law)? + text)?;
    crew.cli().ok(&["org", "sign"])?;
    crew.cli().ok(&["org", "push"])?;
    Ok(())
}

fn detached(crew: &Crew, options: &[&str], script: &str) -> Result<String> {
    let mut words = vec!["run", "--json", "--detach", "--profile", "host"];
    words.extend(options);
    words.extend(["--", "sh", "-c", script]);
    id_of(&crew.cli().run(&words)?.result()?)
}

#[test]
fn a_rollout_goes_batch_by_batch_stops_at_a_failure_and_goes_on_when_somebody_says_so() -> Result<()> {
    let crew = Crew::of(&THREE)?;
    let order = ["--batch", "1", "web-3", "web-2", "web-1"];
    let dry = crew
        .cli()
        .json(&[&["run", "--dry-run"][..], &order[..], &["--", "true"]].concat())?;
    let planned: Vec<_> = dry["nodes"].as_array().into_iter().flatten().collect();
    let planned: Vec<_> = planned
        .iter()
        .map(|n| (n["name"].as_str(), n["batch"].as_u64()))
        .collect();
    let as_named = [
        (Some("web-3"), Some(1)),
        (Some("web-2"), Some(2)),
        (Some("web-1"), Some(3)),
    ];
    assert_eq!(planned, as_named);

    // Without a stop rule in the way, all of them begin.
    let ran = crew.lab.home().join(mark());
    let script = format!("echo x >> {}; case $PWD in *web-2-1*) exit 3;; esac", path(&ran)?);
    let (done, lines) = crew.run_json(&["--batch", "1", "--max-failures", "2", "web-*"], &script)?;
    assert_eq!(done.code()?, 1, "{}", done.stderr);
    are(
        &results(&lines),
        &[
            ("web-1", "succeeded"),
            ("web-2", "failed"),
            ("web-3", "succeeded"),
        ],
    );
    fs::remove_file(&ran)?;

    let (done, lines) = crew.run_json(&order, &script)?;
    assert_eq!(done.code()?, 125, "{}", done.stderr);
    are(
        &results(&lines),
        &[("web-1", "held"), ("web-2", "failed"), ("web-3", "succeeded")],
    );
    let held = lines
        .iter()
        .find(|l| l["node"] == "web-1" && l["event"] == "result");
    assert_eq!(held.context("no result")?["code"], "rollout_stopped");
    assert_eq!(
        fs::read_to_string(&ran)?.lines().count(),
        2,
        "it began on the third"
    );
    let id = id_of(lines.last().context("no lines")?)?;
    let shown = crew.cli().json(&["rollout", "show", &id])?;
    assert_eq!(
        (&shown["rollout"]["state"], &shown["rollout"]["batch"]),
        (&"stopped".into(), &2.into())
    );

    crew.cli().ok(&["rollout", "continue", &id])?;
    let logs = crew.cli().run(&["logs", "-f", &id])?;
    assert_eq!(logs.code()?, 1, "{}", logs.stderr);
    reach(
        &crew,
        &id,
        &[
            ("web-1", "succeeded"),
            ("web-2", "failed"),
            ("web-3", "succeeded"),
        ],
    )?;
    assert_eq!(fs::read_to_string(&ran)?.lines().count(), 3, "once on each");
    wait_until("the rollout to end", SOON, || {
        let shown = crew.cli().json(&["rollout", "show", &id]).unwrap_or_default();
        shown["rollout"]["state"] == "ended"
    })?;
    let again = crew.cli().run(&["rollout", "continue", &id])?;
    assert!(again.stderr.contains("ended"), "{}", again.stderr);

    // A retry is for those that failed, and says what it tries again.
    let first = crew.cli().json(&["job", &id])?;
    let retried = crew.cli().run(&["--json", "retry", "--failed", &id])?.result()?;
    assert_eq!(
        (&retried["status"], &retried["exit_code"]),
        (&"failed".into(), &3.into())
    );
    let second = crew.cli().json(&["job", &id_of(&retried)?])?;
    assert_eq!(second["job"]["retry_of"], first["digest"]);
    assert_eq!(second["executions"].as_array().map(Vec::len), Some(1));
    assert_eq!(second["executions"][0]["node_name"], "web-2");
    let nothing = detached(&crew, &["web-1"], "true")?;
    reach(&crew, &nothing, &[("web-1", "succeeded")])?;
    let refused = crew.cli().run(&["retry", &nothing])?;
    assert!(
        refused.stderr.contains("nothing to try again"),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[test]
fn a_rollout_goes_on_where_it_was_when_its_hub_was_killed() -> Result<()> {
    let mut crew = Crew::of(&THREE)?;
    let (go, ran) = (crew.lab.home().join(mark()), crew.lab.home().join(mark()));
    let script = format!(
        "echo x >> {}; while [ ! -e {} ]; do sleep 0.02; done",
        path(&ran)?,
        path(&go)?
    );
    let id = detached(&crew, &["--batch", "1,2", "--concurrency", "1", "web-*"], &script)?;
    reach(
        &crew,
        &id,
        &[("web-1", "running"), ("web-2", "held"), ("web-3", "held")],
    )?;
    crew.lab.kill()?;
    crew.lab.come_back()?;
    for (name, _) in THREE {
        crew.is_there(name, true)?;
    }
    let held = states(&crew, &id)?;
    are(&held[1..], &[("web-2", "held"), ("web-3", "held")]);
    fs::write(&go, "")?;
    let all = [
        ("web-1", "succeeded"),
        ("web-2", "succeeded"),
        ("web-3", "succeeded"),
    ];
    reach(&crew, &id, &all)?;
    assert_eq!(fs::read_to_string(&ran)?.lines().count(), 3, "once on each");
    Ok(())
}

#[test]
fn a_rollout_pauses_after_the_first_batch_until_somebody_goes_on_or_cancels_what_is_held() -> Result<()> {
    let mut crew = Crew::of(&THREE)?;
    let pausing = |crew: &Crew| -> Result<String> {
        let id = detached(
            crew,
            &["--batch", "1,2", "--pause", "30m", "--valid", "1h", "web-*"],
            "true",
        )?;
        wait_until("the pause", SOON, || {
            let shown = crew.cli().json(&["rollout", "show", &id]).unwrap_or_default();
            shown["rollout"]["state"] == "pausing"
        })?;
        reach(
            crew,
            &id,
            &[("web-1", "succeeded"), ("web-2", "held"), ("web-3", "held")],
        )?;
        Ok(id)
    };
    let id = pausing(&crew)?;
    crew.cli().ok(&["rollout", "continue", &id])?;
    reach(
        &crew,
        &id,
        &[
            ("web-1", "succeeded"),
            ("web-2", "succeeded"),
            ("web-3", "succeeded"),
        ],
    )?;

    let id = pausing(&crew)?;
    for _ in 0..2 {
        crew.cli().ok(&["cancel", "--node", "web-2", &id])?;
        reach(
            &crew,
            &id,
            &[("web-1", "succeeded"), ("web-2", "canceled"), ("web-3", "held")],
        )?;
    }
    crew.stop(2)?;
    for _ in 0..2 {
        crew.cli().ok(&["cancel", &id])?;
        reach(
            &crew,
            &id,
            &[("web-1", "succeeded"), ("web-2", "canceled"), ("web-3", "held")],
        )?;
    }
    let shown = crew.cli().json(&["rollout", "show", &id])?;
    assert_eq!(shown["rollout"]["state"], "stopped");
    crew.start(2)?;
    reach(
        &crew,
        &id,
        &[
            ("web-1", "succeeded"),
            ("web-2", "canceled"),
            ("web-3", "canceled"),
        ],
    )?;
    let short = [
        "run", "--batch", "1", "--pause", "2h", "--valid", "1h", "web-*", "--", "true",
    ];
    let refused = crew.cli().run(&short)?;
    assert!(refused.stderr.contains("--valid"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn a_job_begins_only_where_it_was_released_and_a_cancel_ends_what_waits_for_that() -> Result<()> {
    let crew = Crew::of(&THREE)?;
    // Without the demand both begin by themselves.
    let done = crew.run_json(&["web-1", "web-2"], "true")?.0;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    rule(&crew, RELEASED)?;
    let one = crew.run_json(&["web-1"], "true")?.0;
    assert_eq!(one.code()?, 0, "the rule is about several nodes: {}", one.stderr);

    let id = detached(&crew, &["--batch", "1,2", "web-*"], "echo begun")?;
    reach(
        &crew,
        &id,
        &[
            ("web-1", "awaiting_release"),
            ("web-2", "held"),
            ("web-3", "held"),
        ],
    )?;
    let unasked = crew.cli().run(&["release", "--batch", "1", &id])?;
    assert_eq!(unasked.code()?, 125, "nobody was asked");
    let asked = crew.cli().run(&["release", "--json", "--node", "web-1", &id])?;
    assert!(asked.stderr.contains("nobody is shown"), "{}", asked.stderr);
    // A hub that calls all of them batch 1 would have them all released.
    for unseen in ["--yes", "--json"] {
        let refused = crew.cli().run(&["release", unseen, "--batch", "1", &id])?;
        assert_eq!(refused.code()?, 125, "{unseen}");
        assert!(refused.stderr.contains("the hub's word"), "{}", refused.stderr);
    }
    let shown = crew.cli().ok(&["release", "--yes", "--node", "web-1", &id])?;
    ensure!(shown.contains("on 1 of its 3 nodes: web-1"), "{shown}");
    let second = [
        ("web-1", "succeeded"),
        ("web-2", "awaiting_release"),
        ("web-3", "awaiting_release"),
    ];
    reach(&crew, &id, &second)?;
    crew.cli().ok(&["cancel", "--node", "web-3", &id])?;
    reach(
        &crew,
        &id,
        &[
            ("web-1", "succeeded"),
            ("web-2", "awaiting_release"),
            ("web-3", "canceled"),
        ],
    )?;
    crew.cli().ok(&["release", "--yes", "--node", "web-2", &id])?;
    reach(
        &crew,
        &id,
        &[
            ("web-1", "succeeded"),
            ("web-2", "succeeded"),
            ("web-3", "canceled"),
        ],
    )?;
    let receipts = crew.cli().json(&["job", &id])?;
    let mut all = receipts["receipts"].as_array().into_iter().flatten();
    ensure!(
        all.any(|r| r["outcome"] == "succeeded" && r["approvals"].as_array().is_some_and(|a| a.len() == 1))
    );
    Ok(())
}

#[test]
fn parts_of_all_nodes_say_how_large_a_batch_is_and_when_it_stops() -> Result<()> {
    let crew = Crew::of(&[("web-1", &[]), ("web-2", &[]), ("web-3", &[]), ("web-4", &[])])?;
    let all = ["web-1", "web-2", "web-3", "web-4"];
    let ran = crew.lab.home().join(mark());
    // It fails on the first two, one after the other.
    let script = format!("echo ran >> {0}; [ $(wc -l < {0}) -gt 2 ]", path(&ran)?);
    let options = |most: &'static str| [&["--batch", "25%", "--max-failures", most][..], &all].concat();
    let stopped = detached(&crew, &options("50%"), &script)?;
    let expected = [
        ("web-1", "failed"),
        ("web-2", "failed"),
        ("web-3", "held"),
        ("web-4", "held"),
    ];
    reach(&crew, &stopped, &expected)?;
    let shown = crew.cli().json(&["rollout", "show", &stopped])?;
    ensure!(shown.to_string().contains("stopped"), "{shown}");
    // One failure more may be, and the same goes through.
    fs::remove_file(&ran)?;
    let through = detached(&crew, &options("75%"), &script)?;
    let expected = [
        ("web-1", "failed"),
        ("web-2", "failed"),
        ("web-3", "succeeded"),
        ("web-4", "succeeded"),
    ];
    reach(&crew, &through, &expected)
}
