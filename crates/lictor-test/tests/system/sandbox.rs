//! A kept sandbox, by the people who have a node: the receipts name it, and on the node it is listed, copied, put back and
//! removed, unless a job works there.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab};
use serde_json::{Value, json};

use crate::steps::{add_profile, id_of};

const KEEPS: &str = "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = { most = 1 }\n";

fn work(cli: &Cli, name: &str, options: &[&str], script: &str) -> Result<Done> {
    let mut all = vec!["run", "--json", "--profile", "keeps", "--sandbox", name];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", script]);
    cli.run(&all)
}

fn on_node(cli: &Cli, words: &[&str]) -> Result<Done> {
    let agent = cli.home().join("agent");
    let mut all = vec![
        "--json",
        "agent",
        "sandbox",
        "--dir",
        agent.to_str().context("path")?,
    ];
    all.extend(words);
    cli.run(&all)
}

fn listed(cli: &Cli) -> Result<Vec<Value>> {
    Ok(serde_json::from_slice(&on_node(cli, &["ls"])?.stdout)?)
}

#[test]
fn a_kept_sandbox_is_named_by_receipts_and_in_the_hands_of_whoever_has_the_node() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, KEEPS)?;
    let first = work(cli, "shop", &[], "echo one > a")?.result()?;
    let second = work(cli, "shop", &[], "cat a")?.result()?;
    let (of_first, of_second) = (&first["kept_sandbox"], &second["kept_sandbox"]);
    assert_eq!(
        (&of_first["name"], &of_first["new"]),
        (&json!("shop"), &json!(true))
    );
    assert_eq!(of_second["new"], json!(false), "{second}");
    assert_eq!(of_first["made_at"], of_second["made_at"]);
    let full = work(cli, "other", &[], "true")?;
    ensure!(full.text().contains("sandbox_limit"), "{}", full.text());
    ensure!(full.text().contains("lictor agent sandbox ls"), "{}", full.text());

    let all = listed(cli)?;
    let one = all.first().context("one")?;
    assert_eq!(
        (all.len(), &one["name"], &one["held_by"]),
        (1, &json!("shop"), &Value::Null)
    );
    ensure!(one["bytes"].as_u64() > Some(0), "{one}");
    ensure!(on_node(cli, &["snapshot", "shop", "before"])?.code()? == 0);
    let script = "echo two > a; echo up; exec sleep 600";
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
        script,
    ]);
    let mut long = long.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(long.stdout.take().context("piped")?).lines();
    assert_eq!(lines.next().context("a line")??, "up");
    let id = listed(cli)?[0]["held_by"]
        .as_str()
        .context("a job has it")?
        .to_owned();
    for words in [&["rm", "shop"][..], &["restore", "shop", "before"]] {
        let busy = on_node(cli, words)?;
        ensure!(
            busy.code()? == 125 && busy.stderr.contains("sandbox_busy"),
            "{}",
            busy.text()
        );
        ensure!(busy.stderr.contains(&id), "{}", busy.text());
    }
    cli.ok(&["cancel", &id])?;
    // Who hears of the end finds the sandbox free.
    long.wait()?;
    assert_eq!(listed(cli)?[0]["held_by"], Value::Null);
    ensure!(on_node(cli, &["restore", "shop", "before"])?.code()? == 0);
    let restored = work(cli, "shop", &[], "cat a")?;
    ensure!(restored.text().contains("one"), "{}", restored.text());
    let receipt = cli.ok(&["job", &id_of(&restored.result()?)?])?;
    ensure!(receipt.contains("kept       shop (kept since "), "{receipt}");
    ensure!(on_node(cli, &["rm", "shop"])?.code()? == 0);
    assert_eq!(listed(cli)?, Vec::<Value>::new());
    let unknown = on_node(cli, &["rm", "shop"])?;
    ensure!(unknown.stderr.contains("sandbox_unknown"), "{}", unknown.text());
    Ok(())
}
