//! What waits for a node: its place, what is in its way, and how all of it is taken back.

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Split, SplitOptions, wait_until};
use serde_json::Value;

use crate::fleet::{Crew, path};
use crate::law::{change_law, new_key, second_operator_at};
use crate::steps::{SOON, detached, ended, id_of, mark, reach, receipt};

/// What the hub says of a job on one node.
fn on(cli: &lictor_test::Cli, id: &str, node: &str) -> Value {
    let job = cli.json(&["job", id]).unwrap_or_default();
    let mut all = job["executions"].as_array().into_iter().flatten();
    all.find(|e| e["node"] == node || e["node_name"] == node)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_stuck_job_takes_one_place_of_its_node_and_what_waits_says_how_many_are_before_it() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        agent_settings: "[limits]\nmax_jobs = 2\n".to_owned(),
        ..SplitOptions::default()
    })?;
    let cli = split.cli();
    let mark = mark();
    let stuck = || detached(cli, &format!("exec sleep {mark}"));
    let first = stuck()?;
    reach(cli, &first, &["running"], SOON)?;
    // There is another place: nothing waits for the stuck one.
    for _ in 0..3 {
        assert_eq!(ended(cli, &detached(cli, "true")?)?, "succeeded");
    }
    let second = stuck()?;
    reach(cli, &second, &["running"], SOON)?;
    let third = detached(cli, "true")?;
    let fourth = detached(cli, "true")?;
    let ahead = |id: &str| cli.json(&["job", id]).unwrap_or_default()["executions"][0]["ahead"].clone();
    wait_until("each has its place in the queue", SOON, || {
        (ahead(&third), ahead(&fourth)) == (0.into(), 1.into())
    })?;
    let listed = cli.json(&["jobs", "--queued", "--node", "local"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    cli.ok(&["cancel", &first])?;
    assert_eq!(ended(cli, &first)?, "canceled");
    for id in [&third, &fourth] {
        assert_eq!(ended(cli, id)?, "succeeded");
    }
    assert_eq!(cli.json(&["job", &second])?["executions"][0]["state"], "running");
    cli.ok(&["cancel", &second])?;
    ended(cli, &second)?;
    Ok(())
}

#[test]
fn all_that_waits_for_a_node_is_taken_back_at_once_and_nothing_of_other_nodes() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    crew.stop(1)?;
    let ran = crew.lab.home().join(mark());
    let submit = |crew: &Crew, targets: &[&str]| -> Result<String> {
        let words = ["run", "--json", "--detach", "--valid", "1h", "--profile", "host"];
        let rest = ["--", "sh", "-c", "echo ran >> \"$1\"", "sh", path(&ran)?];
        id_of(&crew.cli().run(&[&words[..], targets, &rest].concat())?.result()?)
    };
    let both = submit(&crew, &["web-1", "web-2"])?;
    let mut waiting = vec![both.clone()];
    for _ in 0..3 {
        waiting.push(submit(&crew, &["web-2"])?);
    }
    wait_until("the one that is there", SOON, || {
        on(crew.cli(), &both, "web-1")["state"] == "succeeded"
    })?;
    let unnamed = crew.cli().run(&["cancel", "--queued"])?;
    ensure!(
        unnamed.code()? != 0 && unnamed.stderr.contains("--node"),
        "{}",
        unnamed.stderr
    );

    // Nobody is asked here, so nothing is signed; what would be is shown.
    for (words, shown) in [(vec!["--json"], 0), (Vec::new(), waiting.len())] {
        let purge = ["cancel", "--queued", "--node", "web-2"];
        let unseen = crew.cli().run(&[&words[..], &purge].concat())?;
        assert_eq!(unseen.code()?, 125, "{}", unseen.stderr);
        ensure!(unseen.stderr.contains("--yes"), "{}", unseen.stderr);
        let text = unseen.text();
        let listed = waiting.iter().filter(|id| text.contains(id.as_str()));
        assert_eq!(listed.count(), shown, "{text}");
    }
    for id in &waiting {
        assert_ne!(on(crew.cli(), id, "web-2")["code"], "canceled");
    }

    let purged = crew
        .cli()
        .json(&["cancel", "--queued", "--yes", "--node", "web-2"])?;
    assert_eq!(purged.as_array().map(Vec::len), Some(4), "{purged}");
    for id in &waiting {
        let there = on(crew.cli(), id, "web-2");
        assert_eq!(
            (&there["state"], &there["code"]),
            (&"queued".into(), &"canceled".into())
        );
    }
    crew.start(1)?;
    for id in &waiting {
        wait_until("its end, without a start", SOON, || {
            on(crew.cli(), id, "web-2")["state"] == "canceled"
        })?;
        ensure!(receipt(crew.cli(), id)?.is_object(), "{id} has no receipt");
    }
    let started = std::fs::read_to_string(&ran)?;
    assert_eq!(started, "ran\n", "on the other node, once");
    // What comes after it runs.
    let after = submit(&crew, &["web-2"])?;
    assert_eq!(ended(crew.cli(), &after)?, "succeeded");
    Ok(())
}

#[test]
fn what_waits_in_any_state_is_taken_back_once_and_what_nobody_proves_is_left_and_named() -> Result<()> {
    let mut crew = Crew::of(&[("web-1", &[]), ("web-2", &[])])?;
    let cli = crew.cli().clone();
    let both = ["--node", "web-1", "--node", "web-2"];
    let purge = |options: &[&str]| cli.run(&[&["cancel", "--queued"], &both[..], options].concat());
    let nothing = purge(&[])?;
    assert_eq!(nothing.code()?, 0, "{}", nothing.stderr);
    assert_eq!(
        nothing.text(),
        "nothing waits for web-1 or web-2; nothing was signed\n"
    );
    assert_eq!(purge(&["--json", "--yes"])?.result()?, serde_json::json!([]));

    second_operator_at(&cli, crew.lab.url(), "bob", "\"ops\"")?;
    let older = new_key(&cli, "older")?;
    change_law(&cli, "roster.toml", &older)?;
    let gate = "@id(\"asked\") @approvals(\"1\") @approvers(\"ops\")\n\
                forbid (principal, action == Action::\"exec\", resource) when { context.called == \"id\" };\n";
    change_law(&cli, "policies/demo.cedar", gate)?;
    let submit = |options: &[&str], program: &str| -> Result<String> {
        let words = [
            "run",
            "--json",
            "--detach",
            "--valid",
            "1h",
            "--profile",
            "host",
            "--yes",
        ];
        let rest = ["web-1", "web-2", "--", program];
        id_of(&cli.run(&[&words[..], options, &rest].concat())?.result()?)
    };
    let asked = submit(&[], "id")?;
    for node in ["web-1", "web-2"] {
        wait_until("it is asked about", SOON, || {
            on(&cli, &asked, node)["state"] == "awaiting_approval"
        })?;
    }
    crew.stop(0)?;
    crew.stop(1)?;
    let (unproven, queued) = (submit(&["--key", "older"], "true")?, submit(&[], "true")?);
    let rollout = submit(&["--batch", "1"], "true")?;
    let states = |id: &str| ["web-1", "web-2"].map(|node| on(&cli, id, node)["state"].clone());
    ensure!(states(&queued) == ["queued", "queued"], "{:?}", states(&queued));
    ensure!(
        states(&rollout).contains(&"held".into()),
        "{:?}",
        states(&rollout)
    );
    let roster = cli.home().join("org/roster.toml");
    std::fs::write(&roster, std::fs::read_to_string(&roster)?.replace(&older, ""))?;
    change_law(&cli, "roster.toml", "")?;

    let purged = purge(&["--json", "--yes"])?;
    assert_eq!(purged.code()?, 125, "{}", purged.stderr);
    ensure!(
        purged.stderr.contains(&unproven) && purged.stderr.contains("signer_unknown"),
        "{}",
        purged.stderr
    );
    let purged = purged.result()?;
    let all = purged.as_array().context("an array")?;
    // One for each job, also where both of its nodes are named.
    let nodes = serde_json::json!(["web-1", "web-2"]);
    for id in [&asked, &queued, &rollout] {
        let of: Vec<_> = all.iter().filter(|one| one["job_id"] == id.as_str()).collect();
        ensure!(of.len() == 1, "{purged}");
        let mut names = of[0]["nodes"].as_array().context("nodes")?.clone();
        names.sort_by_key(Value::to_string);
        assert_eq!(Value::from(names), nodes);
    }
    assert_eq!(all.len(), 3, "{purged}");
    crew.start(0)?;
    crew.start(1)?;
    for id in [&asked, &queued, &rollout] {
        wait_until("its end on both", SOON, || states(id) == ["canceled", "canceled"])?;
    }
    Ok(())
}

#[test]
fn what_waits_for_a_node_that_stays_away_expires_and_does_not_run_when_that_is_back() -> Result<()> {
    let mut split = Split::start()?;
    let ran = split.home().join(mark());
    let script = format!("echo ran >> {}", ran.display());
    split.agent()?.kill()?;
    wait_until("the agent to be gone", SOON, || !split.is_connected())?;
    let submit = |valid: &str| -> Result<String> {
        id_of(&crate::steps::sh(split.cli(), &["--detach", "--valid", valid], &script)?.result()?)
    };
    let (short, long) = (submit("3s")?, submit("1h")?);
    assert_eq!(ended(split.cli(), &short)?, "expired");
    assert_eq!(crate::steps::state(split.cli(), &long)?, "queued");
    split.start_agent()?;
    // The one that is valid comes after the one that is not.
    assert_eq!(ended(split.cli(), &long)?, "succeeded");
    assert_eq!(std::fs::read_to_string(&ran)?, "ran\n", "one of the two");
    assert_eq!(crate::steps::state(split.cli(), &short)?, "expired");
    Ok(())
}
