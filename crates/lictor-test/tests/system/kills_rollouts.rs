//! SIGKILL for hub and agents at the steps of a rollout: where it has stopped, where somebody has it go on, and where nodes
//! wait for a release. What a kill leaves is looked at once a later job has run on the same node.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, wait_until};
use serde_json::Value;

use crate::kills_people::Second;
use crate::law::change_law;
use crate::steps::{SOON, audits_hold, id_of};

const RELEASED: &str = "@id(\"released\") @releasers(\"ops\")\n\
     forbid (principal, action in [Action::\"exec\", Action::\"shell\"], resource)\n\
     when { context.nodes > 1 && context.reason == \"released\" };\n";

fn submit(cli: &Cli, options: &[&str], script: &str) -> Result<String> {
    let mut words = vec!["run", "--json", "--detach", "--profile", "host", "--valid", "1h"];
    words.extend(options);
    words.extend(["--", "sh", "-c", script]);
    id_of(&cli.run(&words)?.result()?)
}

/// Where a job stands on `local` and on `web-2`, by the hub.
fn states(cli: &Cli, id: &str) -> [String; 2] {
    let job = cli.json(&["job", id]).unwrap_or_default();
    ["local", "web-2"].map(|name| {
        let mut all = job["executions"].as_array().into_iter().flatten();
        let one = all.find(|e| e["node_name"] == name);
        let state = one.and_then(|e| e["state"].as_str());
        state.unwrap_or_default().to_owned()
    })
}

fn reach(cli: &Cli, id: &str, expected: [&str; 2]) -> Result<()> {
    let mut last = Default::default();
    let there = wait_until(&format!("{id} to be {expected:?}"), SOON, || {
        last = states(cli, id);
        last == expected
    });
    there.with_context(|| format!("last seen: {last:?}"))
}

/// Whatever the hub had for this node before has been offered or not by the time that a later job has ended there.
fn witness(cli: &Cli, node: &str) -> Result<()> {
    let done = cli.run(&["run", "--wait", "--profile", "host", node, "--", "true"])?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    Ok(())
}

fn rollout(cli: &Cli, id: &str) -> Result<Value> {
    Ok(cli.json(&["rollout", "show", id])?["rollout"]["state"].clone())
}

#[test]
fn a_stopped_rollout_a_continued_one_and_releases_outlive_kills_and_begin_nothing_twice() -> Result<()> {
    let mut split = Split::start()?;
    let cli = split.cli().clone();
    let demo = cli.home().join("org/policies/demo.cedar");
    let law = fs::read_to_string(&demo)?;
    let only = "when { resource.name == \"local\" };";
    ensure!(law.contains(only), "the demo's law is another one: {law}");
    fs::write(&demo, law.replacen(only, ";", 1))?;
    change_law(&cli, "policies/demo.cedar", RELEASED)?;
    let mut second = Second::join(&cli)?;
    let ran = cli.home().join("ran");
    let runs = || fs::read_to_string(&ran).unwrap_or_default().lines().count();
    let script = format!("echo ran >> {0}; [ $(wc -l < {0}) -gt 1 ]", ran.display());

    // The first fails: it stops, also for a hub and a node that were away since.
    let stops = ["--batch", "1", "--max-failures", "1", "local", "web-2"];
    let id = submit(&cli, &stops, &script)?;
    split.hub()?.kill()?;
    split.start_hub()?;
    reach(&cli, &id, ["failed", "held"])?;
    wait_until("it has stopped", SOON, || {
        rollout(&cli, &id).is_ok_and(|state| state == "stopped")
    })?;
    split.hub()?.kill()?;
    second.die_and_come_back()?;
    split.start_hub()?;
    witness(&cli, "web-2")?;
    assert_eq!((rollout(&cli, &id)?, runs()), ("stopped".into(), 1));
    assert_eq!(states(&cli, &id), ["failed", "held"]);

    // Somebody has it go on; what was said is not lost with the hub.
    cli.ok(&["rollout", "continue", &id])?;
    split.hub()?.kill()?;
    split.start_hub()?;
    reach(&cli, &id, ["failed", "succeeded"])?;
    assert_eq!(runs(), 2, "once on each");

    // Nobody begins unreleased, and who was released begins once.
    fs::remove_file(&ran)?;
    let asks = ["--batch", "1", "--reason", "released", "local", "web-2"];
    let id = submit(&cli, &asks, &format!("echo ran >> {}", ran.display()))?;
    reach(&cli, &id, ["awaiting_release", "held"])?;
    split.hub()?.kill()?;
    split.agent()?.kill()?;
    split.start_hub()?;
    split.spawn_agent()?;
    witness(&cli, "local")?;
    assert_eq!(states(&cli, &id), ["awaiting_release", "held"]);
    cli.ok(&["release", "--yes", "--node", "local", &id])?;
    split.hub()?.kill()?;
    split.start_hub()?;
    reach(&cli, &id, ["succeeded", "awaiting_release"])?;
    second.die_and_come_back()?;
    witness(&cli, "web-2")?;
    assert_eq!((states(&cli, &id)[1].as_str(), runs()), ("awaiting_release", 1));
    cli.ok(&["release", "--yes", "--node", "web-2", &id])?;
    split.hub()?.kill()?;
    split.start_hub()?;
    reach(&cli, &id, ["succeeded", "succeeded"])?;
    assert_eq!(runs(), 2, "once on each");
    audits_hold(&cli)
}
