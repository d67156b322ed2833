//! What is signed under law that somebody else's home has not got yet, and predictions for who a job is to run as.

use std::fs;

use anyhow::{Result, ensure};
use lictor_test::Cli;
use serde_json::json;

use crate::law::{change_law, second_operator, starter};
use crate::steps::{SOON, ended, id_of, reach};

const GATE: &str = "@id(\"scripts-need-another\") @approvals(\"1\") @approvers(\"ops\")\n\
     forbid (principal, action == Action::\"script\", resource);\n";

#[test]
fn approvers_are_shown_all_of_a_job_that_was_signed_under_law_which_their_home_has_not() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    let law = |cli: &Cli| -> Result<u64> { Ok(cli.json(&["org", "show"])?["bundle"].as_u64().unwrap_or(0)) };
    let asks = |by: &Cli, script: &str| -> Result<String> {
        let words = [
            "run",
            "--json",
            "--detach",
            "--valid",
            "10m",
            "--profile",
            "sandbox",
            "--named-script",
            script,
        ];
        let asked = by.run(&[&words[..], &["local"]].concat())?;
        let id = id_of(&asked.result()?)?;
        reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;
        Ok(id)
    };
    let scripts = lab.home().join("org/scripts");
    fs::create_dir_all(&scripts)?;
    let approves = |id: &str, words: &str| -> Result<()> {
        let before = law(&bob)?;
        let shown = bob.run(&["approve", "--yes", id])?;
        ensure!(shown.code()? == 0, "{}", shown.stderr);
        ensure!(shown.text().contains(words), "{}", shown.text());
        ensure!(law(&bob)? > before, "its law was newer");
        ensure!(ended(lab.cli(), id)? == "succeeded");
        Ok(())
    };
    // The script, the rule and the person who asks came with law that bob has not seen.
    fs::write(scripts.join("first.sh"), "#!/bin/sh\necho the-first-script\n")?;
    change_law(lab.cli(), "policies/host.cedar", GATE)?;
    let carol = second_operator(&lab, "carol", "\"ops\"")?;
    approves(&asks(&carol, "first.sh")?, "echo the-first-script")?;
    // He knows who asks, and what she asks for is newer.
    fs::write(scripts.join("second.sh"), "#!/bin/sh\necho the-second-script\n")?;
    change_law(lab.cli(), "policies/host.cedar", "")?;
    approves(&asks(lab.cli(), "second.sh")?, "echo the-second-script")
}

#[test]
fn what_is_done_with_a_workspace_is_predicted_for_the_user_that_is_named() -> Result<()> {
    let lab = starter()?;
    let draft = lab.home().join("org");
    let rule = "@id(\"as-daemon\") permit (principal, action == Action::\"workspace\", resource)\n\
         when { context has user && context.user == \"daemon\" };\n";
    fs::write(draft.join("policies/draft.cedar"), rule)?;
    let profiles = fs::read_to_string(draft.join("profiles.toml"))?;
    let sandbox = "[profiles.sandbox]\n";
    ensure!(profiles.contains(sandbox), "{profiles}");
    let users = format!("{sandbox}run_as_users = [\"daemon\"]\n");
    fs::write(draft.join("profiles.toml"), profiles.replacen(sandbox, &users, 1))?;
    let dir = draft.to_str().unwrap_or_default();
    let explain = |options: &[&str]| {
        let words = [&["--json", "explain", "--dir", dir], options].concat();
        lab.cli().run(&words)
    };
    let remove = ["--workspace", "remove", "--sandbox", "shop"];
    assert_eq!(explain(&remove)?.result()?["prediction"], "deny");
    let named = explain(&[&remove[..], &["--user", "daemon"]].concat())?.result()?;
    assert_eq!(
        (&named["prediction"], &named["rules"][0]["id"]),
        (&json!("allow"), &json!("as-daemon")),
        "{named}"
    );
    // What no such job can have is refused, and not predicted without it.
    let refused = |options: &[&str], word: &str| -> Result<()> {
        let done = explain(options)?;
        ensure!(
            done.code()? != 0 && done.stderr.contains(word),
            "{options:?}: {}",
            done.stderr
        );
        Ok(())
    };
    refused(&[&remove[..], &["--umask", "077"]].concat(), "cannot be signed")?;
    refused(
        &["--fetch", "/workspace/f", "--user", "daemon"],
        "cannot be signed",
    )?;
    let commit = "https://git.example/shop@0123456789012345678901234567890123456789";
    for kind in [
        &remove[..],
        &["--fetch", "/workspace/f"],
        &["--collect", "/etc/hostname"],
    ] {
        refused(&[kind, &["--git", commit]].concat(), "cannot be used with")?;
    }
    Ok(())
}
