//! Schedules further: their secrets, what is seen of a firing while it runs, scripts, several nodes, changed keys.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Lab, Split, SplitOptions, poll, wait_until};
use serde_json::Value;

use crate::fleet::Crew;
use crate::law::{change_law, new_key, starter};
use crate::steps::{SOON, audits_hold, gone, id_of, mark, reach, receipt};

const VALUE: &str = "gr8-Secr3t/of+the~lab%and ?more";

/// Signs a schedule that fires every two seconds.
pub(crate) fn add(cli: &Cli, options: &[&str], what: &[&str]) -> Result<String> {
    let mut words = vec!["schedule", "add", "--profile", "host", "--cron", "*/2 * * * * *"];
    words.extend(["--until", "1h"]);
    words.extend(options);
    words.extend(what);
    id_of(&cli.json(&words)?)
}

/// The firings that the hub knows of a schedule, newest first, as `lictor schedule show` tells them.
fn firings(cli: &Cli, id: &str) -> Result<Vec<Value>> {
    let shown = cli.json(&["schedule", "show", "--firings", "100", id])?;
    Ok(shown["firings"].as_array().context("firings")?.clone())
}

/// Firings that have ended like this, the newest first.
pub(crate) fn ended_as(cli: &Cli, id: &str, outcome: &str) -> Result<Vec<Value>> {
    let all = firings(cli, id)?;
    let so = |firing: &Value| {
        let receipts = firing["receipts"].as_array();
        receipts.is_some_and(|all| !all.is_empty() && all.iter().all(|r| r["outcome"] == outcome))
    };
    Ok(all.into_iter().filter(so).collect())
}

/// Waits until so many have ended like this.
pub(crate) fn ends(cli: &Cli, id: &str, outcome: &str, at_least: usize) -> Result<Vec<Value>> {
    poll(&format!("{at_least} firings to be {outcome}"), SOON, || {
        ended_as(cli, id, outcome)
            .ok()
            .filter(|all| all.len() >= at_least)
    })
    .with_context(|| cli.ok(&["schedule", "show", id]).unwrap_or_default())
}

#[test]
fn firings_use_a_secret_that_their_node_keeps_also_without_a_hub_and_none_shows_it() -> Result<()> {
    let mut split = Split::start()?;
    let cli = split.cli().clone();
    let words = ["--json", "secret", "set", "db", "--nodes", "local"];
    let set = cli.run_with_input(&words, VALUE.as_bytes().to_vec())?;
    ensure!(set.code()? == 0, "{}", set.stderr);
    let counter = split.home().join("counter");
    let script = format!(
        "cat; sha256sum < $LICTOR_SECRET_DB | tee -a {}",
        counter.display()
    );
    let what = ["local", "--", "sh", "-c", &script];
    let id = add(&cli, &["--secret", "db"], &what)?;
    let shown = cli.ok(&["schedule", "show", &id])?;
    ensure!(shown.contains("db"), "who looks at it sees which: {shown}");
    let first = ends(&cli, &id, "succeeded", 1)?;
    let sum = Digest::of(VALUE.as_bytes()).to_string();
    let sum = sum.strip_prefix("sha256:").context("a digest")?;
    ensure!(
        cli.ok(&["logs", &id_of(&first[0])?])?.starts_with(sum),
        "its value"
    );
    // The node has all that it needs, whatever the hub has.
    cli.ok(&["secret", "rm", "db"])?;
    split.hub()?.kill()?;
    let lines = || fs::read_to_string(&counter).unwrap_or_default().lines().count();
    let before = lines();
    wait_until("firings without a hub", SOON, || lines() >= before + 2)?;
    split.start_hub()?;
    ends(&cli, &id, "succeeded", before + 2)?;
    // As its standard input, and said aloud: the output has the name and not the value.
    let set = cli.run_with_input(&words, VALUE.as_bytes().to_vec())?;
    ensure!(set.code()? == 0, "{}", set.stderr);
    let aloud = add(&cli, &["--secret", "db=stdin"], &["local", "--", "cat"])?;
    let told = ends(&cli, &aloud, "succeeded", 1)?;
    let told = cli.ok(&["logs", &id_of(&told[0])?])?;
    ensure!(told.contains("db") && !told.contains(VALUE), "{told}");
    for id in [&id, &aloud] {
        cli.ok(&["schedule", "rm", id])?;
        reach(&cli, id, &["canceled"], SOON)?;
    }
    audits_hold(&cli)
}

#[test]
fn a_firing_is_seen_while_it_runs_and_can_be_followed_and_canceled() -> Result<()> {
    seen_while_it_runs(SplitOptions::default())
}

#[test]
fn a_firing_of_a_polling_node_is_seen_while_it_runs_and_can_be_followed_and_canceled() -> Result<()> {
    seen_while_it_runs(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })
}

fn seen_while_it_runs(options: SplitOptions) -> Result<()> {
    let mut split = Split::start_with(options)?;
    let cli = split.cli().clone();
    let mark = mark();
    let line = format!("echo begun; exec sleep {mark}");
    let id = add(&cli, &["--overlap", "wait"], &["local", "--", "sh", "-c", &line])?;
    let running = || -> Option<Value> {
        let jobs = cli.json(&["jobs"]).ok()?;
        let mut jobs = jobs.as_array()?.iter();
        let job = jobs.find(|j| !j["fired"].is_null() && j["executions"][0]["state"] == "running")?;
        Some(job.clone())
    };
    let firing = poll("a firing that runs", SOON, running)?;
    let one = id_of(&firing)?;
    let shown = cli.ok(&["schedule", "show", &id])?;
    ensure!(shown.contains("running") && shown.contains(&one), "{shown}");
    ensure!(cli.ok(&["jobs"])?.contains("(scheduled) "));
    wait_until("what it has said so far", SOON, || {
        cli.run(&["job", &one])
            .is_ok_and(|shown| shown.text().contains("by the schedule"))
            && cli
                .json(&["job", &one])
                .is_ok_and(|job| job["executions"][0]["log_bytes"].as_u64() > Some(0))
    })?;
    // A hub that comes back offers it to nobody, and goes on to show it.
    split.hub()?.kill()?;
    split.start_hub()?;
    let again = poll("the same firing, still there", SOON, running)?;
    ensure!(id_of(&again)? == one, "another one: {again}");
    cli.ok(&["cancel", &one])?;
    reach(&cli, &one, &["canceled"], SOON)?;
    ensure!(receipt(&cli, &one)?["code"] == "canceled");
    ensure!(cli.ok(&["logs", &one])? == "begun\n");
    // Its schedule stands, and fires the next.
    let next = poll("the next", SOON, || {
        running().filter(|next| next["job_id"] != one.as_str())
    })?;
    cli.ok(&["schedule", "rm", &id])?;
    reach(&cli, &id, &["canceled"], SOON)?;
    cli.ok(&["cancel", &id_of(&next)?])?;
    reach(&cli, &id_of(&next)?, &["canceled"], SOON)?;
    gone(&format!("sleep {mark}"))?;
    audits_hold(&cli)
}

#[test]
fn a_script_is_fired_with_its_interpreter_its_arguments_and_its_terms() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let file = lab.home().join("count.py");
    fs::write(
        &file,
        "#!/usr/bin/env python3\nimport os, sys\nprint(sys.argv[1:], os.environ['MODE'], oct(os.umask(0)))\n",
    )?;
    let script = file.to_str().context("path")?;
    let options = [
        "--script",
        script,
        "--interpreter",
        "python3",
        "--env",
        "MODE=nightly",
    ];
    let id = add(
        cli,
        &[&options[..], &["--umask", "0027"]].concat(),
        &["local", "--", "a", "b c"],
    )?;
    let done = ends(cli, &id, "succeeded", 1)?;
    let told = cli.ok(&["logs", &id_of(&done[0])?])?;
    ensure!(told == "['a', 'b c'] nightly 0o27\n", "{told}");
    // What was signed is the text, and not the file.
    fs::write(&file, "print('another')\n")?;
    let more = ends(cli, &id, "succeeded", done.len() + 1)?;
    ensure!(cli.ok(&["logs", &id_of(&more[0])?])? == told);
    Ok(())
}

#[test]
fn each_of_several_nodes_fires_every_time_once_and_the_jitter_spreads_them() -> Result<()> {
    let crew = Crew::of(&[
        ("web-1", &["role=web"]),
        ("web-2", &["role=web"]),
        ("web-3", &["role=web"]),
    ])?;
    let cli = crew.cli();
    let counter = crew.lab.home().join("counter");
    let script = format!("echo \"$PWD\" >> {}", counter.display());
    let what = ["role=web", "--", "sh", "-c", &script];
    let id = add(cli, &["--yes", "--jitter", "1s"], &what)?;
    let shown = cli.json(&["schedule", "show", &id])?;
    let nodes = shown["nodes"].as_array().context("nodes")?;
    let next: Vec<_> = nodes.iter().map(|n| n["next"][0].to_string()).collect();
    ensure!(next.len() == 3, "{shown}");
    let distinct: std::collections::BTreeSet<_> = next.iter().collect();
    ensure!(distinct.len() > 1, "all at one moment: {next:?}");
    let all = poll("two times on each node", SOON, || {
        let whole = |f: &Value| f["receipts"].as_array().is_some_and(|r| r.len() == 3);
        let all = ended_as(cli, &id, "succeeded").ok()?;
        Some(all.into_iter().filter(whole).collect::<Vec<_>>()).filter(|all| all.len() >= 2)
    })?;
    cli.ok(&["schedule", "rm", &id])?;
    wait_until("its end everywhere", SOON, || {
        let job = cli.json(&["job", &id]).unwrap_or_default();
        let executions = job["executions"].as_array();
        executions.is_some_and(|all| all.iter().all(|e| e["state"] == "canceled"))
    })?;
    for firing in &all {
        let receipts = firing["receipts"].as_array().context("receipts")?;
        let by: BTreeMap<_, _> = receipts.iter().map(|r| (r["node_id"].to_string(), r)).collect();
        ensure!(by.len() == 3, "one receipt of each node: {firing}");
        ensure!(
            receipts
                .iter()
                .all(|r| r["fired"]["nominal"] == firing["nominal"]),
            "{firing}"
        );
    }
    // Each place is that of one firing on one node.
    let text = fs::read_to_string(&counter)?;
    let places: std::collections::BTreeSet<_> = text.lines().collect();
    ensure!(places.len() == text.lines().count(), "one ran twice: {text}");
    Ok(())
}

#[test]
fn a_schedule_signed_by_a_key_that_left_the_roster_fires_no_more_and_one_by_its_successor_does() -> Result<()>
{
    let lab = Lab::start()?;
    let cli = lab.cli();
    let (older, newer) = (new_key(cli, "older")?, new_key(cli, "newer")?);
    change_law(cli, "roster.toml", &older)?;
    let counter = lab.home().join("counter");
    let line = format!("echo x >> {}", counter.display());
    let runs = || fs::read_to_string(&counter).unwrap_or_default().lines().count();
    let first = add(cli, &["--key", "older"], &["local", "--", "sh", "-c", &line])?;
    let revoked = add(cli, &["--key", "older"], &["local", "--", "true"])?;
    for id in [&first, &revoked] {
        ends(cli, id, "succeeded", 1)?;
    }
    let roster = cli.home().join("org/roster.toml");
    fs::write(&roster, fs::read_to_string(&roster)?.replace(&older, ""))?;
    change_law(cli, "roster.toml", &newer)?;
    // Nobody can prove any more who asked for it, so no client takes what the node says of it: it is in the node's own log.
    let agent = lab.home().join("agent");
    let agent = agent.to_str().context("path")?;
    wait_until("a firing that is refused", SOON, || {
        cli.ok(&["audit", "--agent", agent, "show"])
            .is_ok_and(|told| told.contains("signer_unknown"))
    })?;
    let before = runs();
    // Signed again by the successor it goes on; the other fires nothing.
    let second = add(cli, &["--key", "newer"], &["local", "--", "true"])?;
    ends(cli, &second, "succeeded", 2)?;
    ensure!(runs() == before, "it fired");
    ends_all_the_same(cli, (&first, &revoked))?;
    audits_hold(cli)
}

/// Whoever may cancel or revoke ends a schedule that nobody can prove any more; the hub says how it stands.
fn ends_all_the_same(cli: &Cli, (removed, revoked): (&str, &str)) -> Result<()> {
    let stands = |id: &str| -> Result<String> {
        let all = cli.json(&["schedule", "ls"])?;
        let one = all.as_array().into_iter().flatten().find(|s| s["job_id"] == id);
        let state = one.context("it is listed")?["executions"][0]["state"].as_str();
        Ok(state.context("a state")?.to_owned())
    };
    for id in [removed, revoked] {
        assert_eq!(stands(id)?, "running");
    }
    let done = cli.run(&["schedule", "rm", removed])?;
    ensure!(
        done.code()? == 0 && done.stderr.contains("nobody who is in the roster has signed"),
        "{}",
        done.stderr
    );
    wait_until("it is canceled", SOON, || {
        stands(removed).is_ok_and(|state| state == "canceled")
    })?;
    cli.ok(&["org", "revoke", "schedule", revoked])?;
    cli.ok(&["org", "push"])?;
    wait_until("it is ended", SOON, || {
        stands(revoked).is_ok_and(|state| state == "denied")
    })
}

#[test]
fn explain_says_what_becomes_of_a_firing_where_a_job_would_be_asked_about() -> Result<()> {
    let lab = starter()?;
    let explain = |options: &[&str], argv: &[&str]| -> Result<(i32, Value)> {
        let words = [
            &["--json", "explain", "--profile", "host"],
            options,
            &["--"],
            argv,
        ]
        .concat();
        let done = lab.cli().run(&words)?;
        Ok((done.code()?, done.result()?))
    };
    let shell = ["sh", "-c", "echo changed"];
    let (_, asked) = explain(&[], &shell)?;
    assert_eq!(asked["prediction"], "ask", "{asked}");
    let (status, fired) = explain(&["--scheduled"], &shell)?;
    assert_eq!((status, &fired["prediction"]), (126, &"deny".into()), "{fired}");
    ensure!(
        fired["why"][0]
            .as_str()
            .is_some_and(|why| why.contains("[schedule_gated]")),
        "{fired}"
    );
    let (_, allowed) = explain(&["--scheduled"], &["uname"])?;
    assert_eq!(allowed["prediction"], "allow", "{allowed}");
    let draft = lab.home().join("org");
    let rule = "@id(\"nobody-nightly\")\nforbid (principal, action == Action::\"exec\", resource) when { context.scheduled };\n";
    fs::write(draft.join("policies/nightly.cedar"), rule)?;
    let by = ["--dir", draft.to_str().context("path")?];
    assert_eq!(explain(&by, &["uname"])?.1["prediction"], "allow");
    let (_, fired) = explain(&[&by[..], &["--scheduled"]].concat(), &["uname"])?;
    assert_eq!(fired["rules"][0]["id"], "nobody-nightly", "{fired}");
    Ok(())
}

#[test]
fn a_time_of_day_is_that_of_the_schedules_zone_on_the_node() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    // Half an hour beside everybody, and five hours from UTC: these hours are now there, and not here.
    let now = lictor_proto::Timestamp::now().as_millis() / 60_000;
    let there = ((now + 330) / 60) % 24;
    let cron = format!("*/2 * {there},{} * * *", (there + 1) % 24);
    let add = |zone: &str| -> Result<String> {
        let words = [
            "schedule",
            "add",
            "--profile",
            "host",
            "--cron",
            &cron,
            "--tz",
            zone,
        ];
        let more = ["--until", "1d", "--start-within", "30s", "local", "--", "true"];
        id_of(&cli.json(&[&words[..], &more[..]].concat())?)
    };
    let (kolkata, utc) = (add("Asia/Kolkata")?, add("UTC")?);
    ends(cli, &kolkata, "succeeded", 2)?;
    ensure!(
        firings(cli, &utc)?.is_empty(),
        "the same hours of UTC are not now"
    );
    let shown = cli.ok(&["schedule", "show", &kolkata])?;
    ensure!(
        shown.contains("(Asia/Kolkata)") && shown.contains("within 30s"),
        "{shown}"
    );
    Ok(())
}

#[test]
fn times_that_come_while_the_firing_before_runs_are_refused_or_begun_after_it_as_was_signed() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let go = lab.home().join("go");
    let line = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let what = ["local", "--", "sh", "-c", &line];
    let skips = add(cli, &["--overlap", "skip"], &what)?;
    let waits = add(cli, &["--overlap", "wait"], &what)?;
    let refused = ends(cli, &skips, "denied", 2)?;
    for firing in &refused {
        ensure!(firing["receipts"][0]["code"] == "schedule_overlap", "{firing}");
    }
    ensure!(ended_as(cli, &waits, "denied")?.is_empty(), "that one waits");
    fs::write(&go, "")?;
    ends(cli, &skips, "succeeded", 2)?;
    ends(cli, &waits, "succeeded", 2)?;
    Ok(())
}

#[test]
fn a_schedule_obeys_newer_policy_at_once_and_a_revocation_ends_it() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let work = ["local", "--", "true"];
    let (id, other) = (add(cli, &[], &work)?, add(cli, &[], &work)?);
    ends(cli, &id, "succeeded", 1)?;
    let rule = "@id(\"nothing-by-itself\")\nforbid (principal, action == Action::\"exec\", resource) when { context.scheduled };\n";
    let policy = cli.home().join("org/policies/nightly.cedar");
    fs::write(&policy, rule)?;
    change_law(cli, "policies/nightly.cedar", "")?;
    // Others may have been denied for coming while the one before ran.
    poll("a firing that the rule denies", SOON, || {
        let denied = ended_as(cli, &id, "denied").ok()?;
        let by_rule = |f: &Value| f["receipts"][0]["policy_ids"][0] == "nothing-by-itself";
        denied.iter().any(by_rule).then_some(())
    })?;
    fs::remove_file(&policy)?;
    cli.ok(&["org", "sign"])?;
    cli.ok(&["org", "push"])?;
    let before = ended_as(cli, &id, "succeeded")?.len();
    ends(cli, &id, "succeeded", before + 1)?;
    cli.ok(&["org", "revoke", "schedule", &id])?;
    cli.ok(&["org", "push"])?;
    reach(cli, &id, &["denied"], SOON)?;
    ensure!(receipt(cli, &id)?["code"] == "schedule_revoked");
    let over = firings(cli, &id)?.len();
    let before = ended_as(cli, &other, "succeeded")?.len();
    ends(cli, &other, "succeeded", before + 2)?;
    ensure!(
        firings(cli, &id)?.len() == over,
        "it fires no more, and another does"
    );
    Ok(())
}
