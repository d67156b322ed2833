//! Policy, approvals, revocation, a second node; receipts and audit logs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab, LabOptions, Program, Split, SplitOptions, wait_until};

use crate::steps::{SOON, detached, ended, id_of, reach, receipt, sh};

/// `lictor up --starter-policy`.
pub(crate) fn starter() -> Result<Lab> {
    Lab::start_with(LabOptions {
        arguments: vec!["--starter-policy".to_owned()],
        ..LabOptions::default()
    })
}

/// Appends to a file of the org's directory, signs and pushes.
pub(crate) fn change_law(cli: &Cli, file: &str, text: &str) -> Result<()> {
    let path = cli.home().join("org").join(file);
    let old = fs::read_to_string(&path)?;
    fs::write(&path, old + text)?;
    cli.ok(&["org", "check"])?;
    cli.ok(&["org", "sign"])?;
    cli.ok(&["org", "push"])?;
    Ok(())
}

/// Another key of the operator, and what the roster says of it.
pub(crate) fn new_key(cli: &Cli, name: &str) -> Result<String> {
    let config = fs::read_to_string(cli.home().join("config.toml"))?;
    let operator = config.lines().find_map(|l| l.strip_prefix("operator = "));
    let operator = operator.context("an operator")?.trim_matches('"').to_owned();
    cli.ok(&["keys", "new", name])?;
    let public = cli.ok(&["keys", "export-public", name])?;
    Ok(format!(
        "\n[[operators.\"{operator}\".keys]]\npublic = \"{}\"\n",
        public.trim()
    ))
}

/// A second operator with a home of their own, in the roster and in these groups.
pub(crate) fn second_operator(lab: &Lab, name: &str, groups: &str) -> Result<Cli> {
    second_operator_at(lab.cli(), lab.url(), name, groups)
}

/// The same, of the hub at this address.
pub(crate) fn second_operator_at(first: &Cli, url: &str, name: &str, groups: &str) -> Result<Cli> {
    let cli = Cli::new(&first.home().join(name))?;
    cli.ok(&["keys", "new", name])?;
    let public = cli.ok(&["keys", "export-public", name])?;
    let entry = format!(
        "\n[operators.{name}]\nkind = \"person\"\ngroups = [{groups}]\n[[operators.{name}.keys]]\npublic = \"{}\"\n",
        public.trim()
    );
    change_law(first, "roster.toml", &entry)?;
    let token = first.json(&["tokens", "new", "--scope", "submit", name])?;
    fs::write(
        token_file(first, name),
        token["secret"].as_str().context("token")?,
    )?;
    let done = connect((first, url), &cli, name)?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    Ok(cli)
}

fn token_file(first: &Cli, name: &str) -> PathBuf {
    first.home().join(format!("{name}.token"))
}

/// Types `lictor connect` with the token made before.
fn connect((first, url): (&Cli, &str), cli: &Cli, name: &str) -> Result<Done> {
    let config: String = fs::read_to_string(first.home().join("config.toml"))?;
    let org = config
        .lines()
        .find_map(|l| l.strip_prefix("org = "))
        .context("org in config.toml")?;
    let token_file = token_file(first, name);
    cli.run(&[
        "connect",
        "--org",
        org.trim_matches('"'),
        "--operator",
        name,
        "--key",
        name,
        "--token-file",
        token_file.to_str().context("path")?,
        url,
    ])
}

/// Lets a home ask the hub for news with its next command.
pub(crate) fn asks_again(cli: &Cli) -> Result<()> {
    fs::remove_file(cli.home().join("trust/refreshed")).context("it has not asked yet")
}

#[test]
fn a_home_that_is_pinned_stays_pinned_whatever_is_wrong_with_it() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    let again = connect((lab.cli(), lab.url()), &bob, "bob")?;
    assert_eq!(again.code()?, 0, "once more is fine: {}", again.stderr);
    let law = bob.home().join("trust/law.json");
    fs::write(&law, "{\"roots\":[],")?;
    let broken = connect((lab.cli(), lab.url()), &bob, "bob")?;
    assert_eq!(broken.code()?, 125, "{}", broken.stderr);
    assert_eq!(
        fs::read_to_string(&law)?,
        "{\"roots\":[],",
        "nothing was pinned anew"
    );
    Ok(())
}

#[test]
fn law_that_a_home_has_and_the_hub_has_not_is_handed_to_it() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    let before = bob.json(&["org", "show"])?["bundle"]
        .as_u64()
        .context("a version")?;
    lab.cli().ok(&["org", "sign"])?;
    lab.cli().ok(&["org", "revoke", "operator", "mallory"])?;
    asks_again(lab.cli())?;
    lab.cli().ok(&["approvals"])?;
    asks_again(&bob)?;
    bob.ok(&["approvals"])?;
    let after = bob.json(&["org", "show"])?;
    assert_eq!(after["bundle"].as_u64(), Some(before + 1), "{after}");
    assert_eq!(after["revocations"], 1, "{after}");
    Ok(())
}

#[test]
fn the_starter_policy_permits_denies_with_its_rule_and_asks() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let host = |argv: &[&str]| {
        let mut words = vec!["run", "--json", "--profile", "host", "local", "--"];
        words.extend(argv);
        cli.run(&words)
    };
    let allowed = host(&["uname"])?;
    assert_eq!(allowed.code()?, 0, "{}", allowed.stderr);
    assert_eq!(allowed.result()?["rules"][0], "ops-on-host");

    let denied = host(&["python3", "-c", "print(1)"])?;
    assert_eq!(denied.code()?, 126);
    let result = denied.result()?;
    assert_eq!(result["status"], "denied");
    assert_eq!(result["decision"], "deny");
    assert_eq!(result["rules"][0], "nothing-opaque-outside-sandboxes");
    assert!(result["started_at"].is_null());

    let sandboxed = cli.run(&["run", "--json", "local", "--", "sh", "-c", "eval 'echo opaque'"])?;
    assert_eq!(sandboxed.code()?, 0, "{}", sandboxed.stderr);
    assert_eq!(sandboxed.result()?["rules"][0], "ops-in-sandbox");

    let asked = sh(cli, &["--detach"], "echo change")?;
    let id = id_of(&asked.result()?)?;
    reach(cli, &id, &["awaiting_approval"], SOON)?;
    let waiting = cli.json(&["approvals"])?;
    assert_eq!(waiting[0]["job_id"], id.as_str());
    Ok(())
}

#[test]
fn a_job_that_waits_runs_once_a_second_person_approves() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let id = id_of(&sh(lab.cli(), &["--detach"], "echo changed")?.result()?)?;
    reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;

    let own = lab.cli().run(&["approve", "--yes", &id])?;
    assert_eq!(own.code()?, 126, "nobody approves their own: {}", own.stderr);

    let listed = bob.json(&["approvals"])?;
    assert_eq!(listed[0]["job_id"], id.as_str());
    let asked = bob.run(&["approve", "--json", &id])?;
    assert_eq!(asked.code()?, 125, "nobody was shown what is approved");
    assert!(asked.stderr.contains("nobody is shown"), "{}", asked.stderr);
    let shown = bob.ok(&["approve", "--yes", &id])?;
    assert!(shown.contains("law        "), "{shown}");
    assert_eq!(ended(lab.cli(), &id)?, "succeeded");
    assert_eq!(lab.cli().ok(&["logs", &id])?, "changed\n");
    let receipt = receipt(lab.cli(), &id)?;
    assert_eq!(
        receipt["approvals"].as_array().map(Vec::len),
        Some(1),
        "{receipt}"
    );
    Ok(())
}

#[test]
fn a_new_bundle_reaches_the_node_and_counts_there() -> Result<()> {
    new_law_counts(Lab::start()?.cli())
}

#[test]
fn law_and_a_revocation_reach_an_agent_that_polls() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })?;
    let id = detached(split.cli(), "sleep 600")?;
    reach(split.cli(), &id, &["running"], SOON)?;
    split.cli().ok(&["org", "revoke", "job", &id])?;
    split.cli().ok(&["org", "push"])?;
    assert_eq!(ended(split.cli(), &id)?, "canceled");
    assert_eq!(receipt(split.cli(), &id)?["code"], "job_revoked");
    new_law_counts(split.cli())
}

/// A job runs until a new rule forbids it.
fn new_law_counts(cli: &Cli) -> Result<()> {
    assert_eq!(sh(cli, &[], "true")?.code()?, 0);
    let rule = "\n@id(\"no-shells\")\n@reason(\"shells are over\")\nforbid (principal, action == Action::\"shell\", resource);\n";
    let policies = cli.home().join("org/policies");
    let file = fs::read_dir(policies)?
        .flatten()
        .next()
        .context("a policy file")?;
    let file = Path::new("policies").join(file.file_name());
    change_law(cli, file.to_str().context("path")?, rule)?;
    let denied = sh(cli, &[], "true")?;
    assert_eq!(denied.code()?, 126);
    assert_eq!(denied.result()?["rules"][0], "no-shells");
    assert_eq!(denied.result()?["code"], "forbidden");
    Ok(())
}

#[test]
fn a_revoked_key_is_stopped() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    let uname = ["run", "--json", "--profile", "host", "local", "--", "uname"];
    let before = bob.run(&uname)?;
    assert_eq!(before.code()?, 0, "{}", before.stderr);
    let key = bob.json(&["keys", "show", "bob"])?;
    let key = key["key_id"].as_str().or(key["id"].as_str()).context("key id")?;
    lab.cli().ok(&["org", "revoke", "key", key])?;
    lab.cli().ok(&["org", "push"])?;
    let after = bob.run(&uname)?;
    assert_ne!(after.code()?, 0, "{}", after.text());
    let said = after.text() + &after.stderr;
    assert!(said.contains("key_revoked"), "{said}");
    // Whoever was not revoked goes on.
    assert_eq!(lab.cli().run(&uname)?.code()?, 0);
    Ok(())
}

#[test]
fn a_second_node_joins_by_grant_and_token() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let grant = cli.json(&["nodes", "grant", "web-1"])?;
    let token = grant["token"].as_str().context("token")?;
    let dir = lab.home().join("web-1");
    let dir = dir.to_str().context("path")?;
    let stranger = Cli::new(Path::new("/nonexistent"))?;
    let joined = stranger.json(&["agent", "enroll", "--token", token, "--dir", dir])?;
    assert_eq!(joined["name"], "web-1");
    let mut agent = Program::start(stranger.command(&["agent", "run", "--dir", dir]))?;
    let connected = || {
        let nodes = cli.json(&["nodes"]).unwrap_or_default();
        let mut all = nodes.as_array().into_iter().flatten();
        all.any(|n| n["name"] == "web-1" && n["connected"] == true)
    };
    wait_until("web-1", SOON, connected).with_context(|| agent.stderr())?;
    let done = cli.run(&["run", "--json", "--profile", "host", "web-1", "--", "uname"])?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let id = id_of(&done.result()?)?;
    let receipt = receipt(cli, &id)?;
    assert_eq!(receipt["node_id"], joined["node_id"]);

    let again = lab.home().join("web-2");
    let words = [
        "agent",
        "enroll",
        "--token",
        token,
        "--dir",
        again.to_str().context("path")?,
    ];
    assert_ne!(
        stranger.run(&words)?.code()?,
        0,
        "a token for one machine is used up"
    );
    assert!(agent.terminate()?.success());
    Ok(())
}

#[test]
fn explain_predicts_with_the_deciding_rules() -> Result<()> {
    let lab = starter()?;
    let explain = |argv: &[&str]| {
        let mut words = vec!["--json", "explain", "--profile", "host", "--"];
        words.extend(argv);
        lab.cli().run(&words)
    };
    let allowed = explain(&["uname"])?;
    assert_eq!(allowed.code()?, 0, "{}", allowed.stderr);
    assert_eq!(allowed.result()?["prediction"], "allow");
    let asks = explain(&["touch", "/x"])?.result()?;
    assert_eq!(asks["prediction"], "ask");
    let denied = explain(&["python3", "-c", "1"])?;
    assert_eq!(denied.code()?, 126);
    let denied = denied.result()?;
    assert_eq!(denied["prediction"], "deny");
    assert_eq!(denied["rules"][0]["id"], "nothing-opaque-outside-sandboxes");
    Ok(())
}

#[test]
fn a_receipt_verifies_and_a_changed_one_does_not() -> Result<()> {
    let lab = Lab::start()?;
    let id = id_of(&sh(lab.cli(), &[], "echo proven")?.result()?)?;
    let verified = lab.cli().json(&["receipt", "verify", &id])?;
    assert_eq!(verified["verified"], true);
    assert_eq!(verified["output_verified"], true);
    assert_eq!(verified["output"], "whole");
    assert_eq!(verified["receipts_missing"], 0);
    let file = lab.home().join("receipt.json");
    let path = file.to_str().context("path")?;
    lab.cli().ok(&["receipt", "show", &id, "--out", path])?;
    let bytes = fs::read(&file)?;
    let shown = lab.cli().ok(&["receipt", "show", &id, "--node", "local"])?;
    assert_eq!(shown.as_bytes(), bytes);
    let of_file = lab.cli().json(&["receipt", "verify", path])?;
    assert_eq!(of_file["receipt"], verified["receipt"]);
    assert_eq!(of_file["output_verified"], false, "nobody read it");
    // The key id at the end is only a hint.
    for at in (0..bytes.len() * 3 / 4).step_by(bytes.len() / 16) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&file, changed)?;
        assert_eq!(
            lab.cli().run(&["receipt", "verify", path])?.code()?,
            125,
            "byte {at}"
        );
    }
    let unknown = "j_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(lab.cli().run(&["receipt", "verify", unknown])?.code()?, 125);
    Ok(())
}

#[test]
fn a_log_that_was_cut_off_at_its_end_is_found_by_the_receipts_of_its_node() -> Result<()> {
    let lab = Lab::start()?;
    assert_eq!(sh(lab.cli(), &[], "echo one")?.code()?, 0);
    let id = id_of(&sh(lab.cli(), &[], "echo two")?.result()?)?;
    let head = receipt(lab.cli(), &id)?["audit_head"].clone();
    let head = head.as_str().context("a head")?;
    let agent = lab.home().join("agent");
    let agent = agent.to_str().context("path")?;
    let whole = lab
        .cli()
        .json(&["audit", "--agent", agent, "verify", "--head", head])?;
    assert_eq!(whole["known_heads"], 2, "{whole}");
    assert!(
        whole["log"].as_str().is_some_and(|l| l.starts_with("n_")),
        "{whole}"
    );

    let text = lab.cli().ok(&["audit", "--agent", agent, "export"])?;
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .iter()
        .position(|l| l.contains(head))
        .context("the head's record")?;
    let file = lab.home().join("export.jsonl");
    let path = file.to_str().context("path")?;
    fs::write(&file, lines[..end].join("\n") + "\n")?;
    let cut = lab.cli().run(&["audit", "verify", path])?;
    assert_eq!(cut.code()?, 125, "{}", cut.text());
    assert!(cut.stderr.contains("does not occur"), "{}", cut.stderr);

    // Whoever has seen no receipts finds it by a head alone.
    let stranger = Cli::new(&lab.home().join("stranger"))?;
    assert_eq!(stranger.run(&["audit", "verify", path])?.code()?, 0);
    let named = stranger.run(&["audit", "verify", "--head", head, path])?;
    assert_eq!(named.code()?, 125, "{}", named.text());
    Ok(())
}

#[test]
fn any_record_changed_in_an_exported_audit_log_is_found() -> Result<()> {
    let lab = Lab::start()?;
    assert_eq!(sh(lab.cli(), &[], "echo audited")?.code()?, 0);
    let agent = lab.home().join("agent");
    let agent = agent.to_str().context("path")?;
    for source in [vec!["audit", "export"], vec!["audit", "--agent", agent, "export"]] {
        let text = lab.cli().ok(&source)?;
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines.len() > 3, "{source:?} has only {} records", lines.len());
        let file = lab.home().join("export.jsonl");
        let verify = |text: String| -> Result<i32> {
            fs::write(&file, text)?;
            lab.cli()
                .run(&["audit", "verify", file.to_str().context("path")?])?
                .code()
        };
        assert_eq!(verify(text.clone())?, 0, "{source:?} as it is");
        let without = [&lines[..1], &lines[2..]].concat().join("\n") + "\n";
        assert_ne!(verify(without)?, 0, "{source:?} without its second record");
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_ne!(verify(swapped.join("\n") + "\n")?, 0, "{source:?} reordered");
        let changed = text.replacen("job", "jab", 1);
        assert_ne!(changed, text);
        assert_ne!(verify(changed)?, 0, "{source:?} changed");
    }
    Ok(())
}
