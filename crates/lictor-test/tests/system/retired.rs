//! Machines that were revoked: what is about the others of a job goes on, and nothing of theirs is believed.

use anyhow::{Context as _, Result, ensure};
use lictor_test::Cli;
use serde_json::Value;

use crate::fleet::{Crew, path};
use crate::law::{asks_again, change_law, second_operator_at};
use crate::steps::{SOON, appears, id_of, mark};

const TWO: [(&str, &[&str]); 2] = [("web-1", &["role=web"]), ("web-2", &["role=web"])];

/// The id under which a node is listed.
pub(crate) fn node_id(cli: &Cli, name: &str) -> Result<String> {
    let nodes = cli.json(&["nodes"])?;
    let mut all = nodes.as_array().into_iter().flatten();
    let node = all.find(|n| n["name"] == name).context("no such node")?;
    Ok(node["node_id"].as_str().context("id")?.to_owned())
}

/// Revokes a machine, for good; gives its id.
fn retire(crew: &Crew, name: &str) -> Result<String> {
    let id = node_id(crew.cli(), name)?;
    crew.cli().ok(&["org", "revoke", "node", &id])?;
    crew.cli().ok(&["org", "push"])?;
    Ok(id)
}

/// The state of each node of a job, by name, as the hub says.
pub(crate) fn states(cli: &Cli, id: &str) -> Result<Vec<(String, String)>> {
    let job = cli.json(&["job", id])?;
    let word = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let all = job["executions"].as_array().context("executions")?;
    let mut all: Vec<_> = all
        .iter()
        .map(|e| (word(e, "node_name"), word(e, "state")))
        .collect();
    all.sort();
    Ok(all)
}

/// Waits until one node of a job is in this state.
pub(crate) fn node_is(cli: &Cli, id: &str, (name, state): (&str, &str)) -> Result<()> {
    let mut last = Vec::new();
    let there = lictor_test::wait_until(&format!("{id} to be {state} on {name}"), SOON, || {
        last = states(cli, id).unwrap_or_default();
        last.iter().any(|(n, s)| n == name && s == state)
    });
    there.with_context(|| format!("last seen: {last:?}"))
}

fn submit(cli: &Cli, options: &[&str], targets: &[&str], script: &str) -> Result<String> {
    let mut words = vec!["run", "--json", "--detach", "--profile", "host"];
    words.extend(options);
    words.extend(targets);
    words.extend(["--", "sh", "-c", script]);
    id_of(&cli.run(&words)?.result()?)
}

/// A job on both that says a word and stays until it is canceled, once both have said it.
fn stays(crew: &Crew, mark: &str) -> Result<String> {
    let begun = crew.lab.home().join(mark);
    let begun = path(&begun)?;
    let script = format!(
        "echo here; case $PWD in *web-2*) touch {begun}-2;; *) touch {begun}-1;; esac; exec sleep {mark}"
    );
    let id = submit(crew.cli(), &["--valid", "1h"], &["web-1", "web-2"], &script)?;
    for n in 1..=2 {
        appears(&crew.lab.home().join(format!("{mark}-{n}")))?;
    }
    Ok(id)
}

#[test]
fn a_revoked_machine_keeps_nobody_from_what_is_about_the_others_of_a_job() -> Result<()> {
    let crew = Crew::of(&TWO)?;
    let cli = crew.cli();
    // While both are trusted, all of this is about both.
    let (first, second) = (mark(), mark());
    let before = stays(&crew, &first)?;
    ensure!(cli.json(&["job", &before])?["unproven"] == serde_json::json!([]));
    let logs = cli.ok(&["logs", &before])?;
    ensure!(
        logs.contains("web-1 | here") && logs.contains("web-2 | here"),
        "{logs}"
    );
    cli.ok(&["cancel", &before])?;
    node_is(cli, &before, ("web-1", "canceled"))?;
    node_is(cli, &before, ("web-2", "canceled"))?;
    cli.ok(&["receipt", "verify", &before])?;

    let id = stays(&crew, &second)?;
    let cron = ["--cron", "0 3 * * *", "--until", "7d", "--profile", "host"];
    let standing = [
        &["schedule", "add", "--json"][..],
        &cron,
        &["web-1", "web-2", "--", "true"],
    ]
    .concat();
    let standing = id_of(&cli.run(&standing)?.result()?)?;
    let gone_one = retire(&crew, "web-2")?;

    let shown = cli.json(&["job", &id])?;
    assert_eq!(shown["unproven"][0]["node_id"], gone_one.as_str(), "{shown}");
    assert_eq!(shown["unproven"][0]["code"], "node_revoked");
    let text = cli.ok(&["job", &id])?;
    ensure!(
        text.contains(&format!("nothing proves {gone_one}")) && text.contains("node_revoked: web-2"),
        "{text}"
    );
    let logs = cli.run(&["logs", &id])?;
    ensure!(
        logs.code()? == 0 && logs.text() == "web-1 | here\n",
        "{}",
        logs.text()
    );
    ensure!(
        logs.stderr.contains(&gone_one),
        "who is left out is said: {}",
        logs.stderr
    );
    let asked = cli.run(&["logs", "--node", &gone_one, &id])?;
    ensure!(
        asked.code()? == 125 && asked.stderr.contains("[node_revoked]"),
        "{}",
        asked.stderr
    );

    let later = submit(cli, &["--after", &id, "--valid", "1h"], &["web-1"], "echo later")?;
    // The revoked one by its id, which is all that is signed about it; then all.
    cli.ok(&["cancel", "--node", &gone_one, &id])?;
    cli.ok(&["cancel", &id])?;
    node_is(cli, &id, ("web-1", "canceled"))?;
    node_is(cli, &later, ("web-1", "succeeded"))?;
    let verified = cli.run(&["receipt", "verify", &id])?;
    ensure!(verified.text().contains("hold"), "{}", verified.text());
    ensure!(
        verified.code()? == 125 && verified.stderr.contains(&gone_one),
        "{}",
        verified.stderr
    );

    let again = cli.run(&["retry", "--detach", &id])?;
    ensure!(
        again.code()? == 0 && again.stderr.contains(&gone_one),
        "{}",
        again.stderr
    );
    let again = again.text().trim().to_owned();
    assert_eq!(states(cli, &again)?.len(), 1, "on web-1 alone");
    cli.ok(&["cancel", &again])?;

    let schedule = cli.ok(&["schedule", "show", &standing])?;
    ensure!(
        schedule.contains("on web-1: ") && schedule.contains("node_revoked: web-2"),
        "{schedule}"
    );
    cli.ok(&["schedule", "rm", &standing])?;
    node_is(cli, &standing, ("web-1", "canceled"))?;
    cli.ok(&["jobs", "--node", &gone_one])?;
    cli.ok(&["review"])?;
    Ok(())
}

#[test]
fn a_job_is_approved_and_released_for_those_of_its_machines_that_are_not_revoked() -> Result<()> {
    let crew = Crew::of(&TWO)?;
    let cli = crew.cli();
    let bob = second_operator_at(cli, crew.lab.url(), "bob", "\"ops\"")?;
    change_law(
        cli,
        "policies/demo.cedar",
        "@id(\"several-need-another\") @approvals(\"1\") @approvers(\"ops\")\n\
         forbid (principal, action in [Action::\"exec\", Action::\"shell\"], resource) when { context.nodes > 1 };\n",
    )?;
    asks_again(&bob)?;
    let waits = || -> Result<String> {
        let id = submit(cli, &["--valid", "1h"], &["web-1", "web-2"], "echo done")?;
        node_is(cli, &id, ("web-1", "awaiting_approval"))?;
        node_is(cli, &id, ("web-2", "awaiting_approval"))?;
        Ok(id)
    };
    let both = waits()?;
    bob.ok(&["approve", "--yes", &both])?;
    node_is(cli, &both, ("web-1", "succeeded"))?;
    node_is(cli, &both, ("web-2", "succeeded"))?;
    assert_eq!(cli.run(&["logs", "-f", &both])?.code()?, 0);

    let (id, other) = (waits()?, waits()?);
    let gone_one = retire(&crew, "web-2")?;
    asks_again(&bob)?;
    bob.ok(&["reject", "--reason", "not without web-2", &other])?;
    let listed = bob.json(&["approvals"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    let shown = bob.ok(&["approve", "--yes", &id])?;
    ensure!(shown.contains(&format!("nothing proves {gone_one}")), "{shown}");
    node_is(cli, &id, ("web-1", "succeeded"))?;
    let states = states(cli, &id)?;
    ensure!(states[1].1 != "succeeded", "the revoked one ran it: {states:?}");
    let followed = cli.run(&["logs", "-f", &both])?;
    assert_eq!(
        followed.code()?,
        125,
        "of the other nothing proves any more how it ended: {}",
        followed.stderr
    );
    Ok(())
}
