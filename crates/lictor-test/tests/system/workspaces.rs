//! Workspaces, from another machine than the one that has them: by signed jobs, judged and with receipts.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab};
use serde_json::{Value, json};

use crate::git_host;
use crate::law::change_law;
use crate::steps::{add_profile, audits_hold, id_of, receipt, result_of};

const KEEPS: &str = "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n";

fn work(cli: &Cli, name: &str, script: &str) -> Result<Done> {
    git_host::work(cli, ("keeps", name), script)
}

fn workspace(cli: &Cli, words: &[&str]) -> Result<Done> {
    git_host::workspace(cli, "keeps", words)
}

fn does(cli: &Cli, words: &[&str]) -> Result<Value> {
    let done = workspace(cli, words)?;
    ensure!(done.code()? == 0, "{words:?}: {}\n{}", done.text(), done.stderr);
    result_of(&done)
}

fn fails(cli: &Cli, words: &[&str], code: &str) -> Result<()> {
    git_host::fails(&workspace(cli, words)?, code)
}

fn listed(cli: &Cli, words: &[&str]) -> Result<Vec<Value>> {
    git_host::listed(cli, "keeps", words)
}

#[test]
fn a_workspace_is_seen_copied_put_back_and_removed_from_afar() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, KEEPS)?;
    assert_eq!(listed(cli, &["ls", "local"])?, Vec::<Value>::new());
    for (words, code) in [
        (&["show", "local", "shop"][..], "sandbox_unknown"),
        (&["rm", "local", "shop"], "sandbox_unknown"),
        (&["snapshot", "local", "shop", "one"], "sandbox_unknown"),
    ] {
        fails(cli, words, code)?;
    }
    // Nothing has come into being by asking for it.
    assert_eq!(listed(cli, &["ls", "local"])?, Vec::<Value>::new());
    ensure!(work(cli, "shop", "echo one > a")?.code()? == 0);
    ensure!(work(cli, "shed", "echo tools > b")?.code()? == 0);
    let names: Vec<Value> = listed(cli, &["ls", "local"])?
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, [json!("shed"), json!("shop")]);

    let made = does(cli, &["snapshot", "local", "shop", "before"])?;
    let signed = receipt(cli, &id_of(&made)?)?;
    assert_eq!(signed["sandbox"]["name"], "shop", "{signed}");
    ensure!(work(cli, "shop", "echo two > a; echo new > c")?.code()? == 0);
    let one = listed(cli, &["show", "local", "shop"])?;
    assert_eq!(one.len(), 1, "{one:?}");
    assert_eq!(one[0]["snapshots"], json!(["before"]));
    fails(cli, &["restore", "local", "shop", "never"], "sandbox_unknown")?;
    let there = work(cli, "shop", "cat a c")?;
    ensure!(there.text().contains("two"), "{}", there.text());
    does(cli, &["restore", "local", "shop", "before"])?;
    let restored = work(cli, "shop", "cat a; ls")?;
    ensure!(restored.text() == "one\na\n", "{}", restored.text());

    does(cli, &["rm", "local", "shop"])?;
    fails(cli, &["show", "local", "shop"], "sandbox_unknown")?;
    let anew = work(cli, "shop", "ls -A | wc -l")?;
    ensure!(anew.text().trim() == "0", "{}", anew.text());
    let other = work(cli, "shed", "cat b")?;
    ensure!(other.text().contains("tools"), "{}", other.text());
    audits_hold(cli)
}

#[test]
fn a_workspace_is_one_jobs_and_everybody_sees_whose() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, KEEPS)?;
    let mut long = cli.command(&[
        "run",
        "--profile",
        "keeps",
        "--sandbox",
        "shop",
        "local",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 600",
    ]);
    let mut long = long.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(long.stdout.take().context("piped")?).lines();
    assert_eq!(lines.next().context("a line")??, "up");
    // Whoever looks waits for nobody.
    let one = listed(cli, &["show", "local", "shop"])?;
    let holder = one[0]["held_by"].as_str().context("somebody has it")?.to_owned();
    // Whoever wants it waits, and is told for what; it is removed once the other has ended.
    let mut removal = cli.command(&["workspace", "--json", "--profile", "keeps", "rm", "local", "shop"]);
    let mut removal = removal.stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(removal.stdout.take().context("piped")?).lines();
    let waits = said.find(|line| line.as_ref().is_ok_and(|l| l.contains("sandbox_busy")));
    let waits = waits.context("nobody says that it waits")??;
    ensure!(waits.contains(&holder), "it does not say for whom: {waits}");
    cli.ok(&["cancel", &holder])?;
    long.wait()?;
    ensure!(removal.wait()?.success(), "it was not removed");
    fails(cli, &["show", "local", "shop"], "sandbox_unknown")
}

#[test]
fn policy_decides_about_each_operation_and_workspace() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, KEEPS)?;
    ensure!(work(cli, "shop", "echo one > a")?.code()? == 0);
    ensure!(work(cli, "pay", "echo one > a")?.code()? == 0);
    does(cli, &["snapshot", "local", "pay", "before"])?;
    let rule = "\n@id(\"pay-stays\") forbid (principal, action == Action::\"workspace\", resource)\n\
                when { context.sandbox == \"pay\" && [\"remove\", \"restore\"].contains(context.operation) };\n";
    change_law(cli, "policies/demo.cedar", rule)?;
    fails(cli, &["rm", "local", "pay"], "forbidden")?;
    fails(cli, &["restore", "local", "pay", "before"], "forbidden")?;
    does(cli, &["snapshot", "local", "pay", "after"])?;
    does(cli, &["rm", "local", "shop"])?;
    // Another profile has other workspaces.
    add_profile(
        cli,
        "\n[profiles.other]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    let other = cli.run(&["workspace", "--json", "--profile", "other", "rm", "local", "pay"])?;
    assert_eq!(result_of(&other)?["code"], "forbidden");
    let list = cli.run(&["workspace", "--json", "--profile", "other", "ls", "local"])?;
    ensure!(!list.text().contains("pay"), "{}", list.text());
    assert_eq!(listed(cli, &["ls", "local"])?.len(), 1);
    Ok(())
}
