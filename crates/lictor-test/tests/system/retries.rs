//! The same work again: previewed, asked about, batch by batch, and not where its output is for another command.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::approvals::at_a_terminal;
use crate::fleet::{Crew, are, path, results};
use crate::steps::{id_of, mark};

const TWO: [(&str, &[&str]); 2] = [("web-1", &["role=web"]), ("web-2", &["role=web"])];

fn jobs(crew: &Crew) -> Result<usize> {
    let jobs = crew.cli().json(&["jobs"])?;
    Ok(jobs.as_array().context("a list")?.len())
}

#[test]
fn a_retry_is_previewed_asked_about_and_goes_batch_by_batch() -> Result<()> {
    let crew = Crew::of(&TWO)?;
    let cli = crew.cli();
    let (go, ran) = (crew.lab.home().join(mark()), crew.lab.home().join(mark()));
    let script = format!("echo x >> {}; test -e {}", path(&ran)?, path(&go)?);
    let (_, lines) = crew.run_json(&["web-*"], &script)?;
    are(&results(&lines), &[("web-1", "failed"), ("web-2", "failed")]);
    let id = id_of(lines.last().context("lines")?)?;

    let dry = cli.json(&["retry", "--dry-run", "--batch", "1", &id])?;
    let batches: Vec<(&Value, &Value)> = dry["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|n| (&n["name"], &n["batch"]))
        .collect();
    assert_eq!(
        batches,
        [(&json!("web-1"), &json!(1)), (&json!("web-2"), &json!(2))]
    );
    let no = at_a_terminal(cli, &["retry", &id], "no\n")?;
    ensure!(
        no.contains("2 nodes: web-1, web-2") && no.contains("nothing was signed"),
        "{no}"
    );
    assert_eq!(jobs(&crew)?, 1, "and nothing was");

    // All at once it begins on both; batch by batch it stops at the first.
    fs::remove_file(&ran)?;
    let both = cli.run(&["--json", "retry", &id])?;
    are(
        &results(&both.json_lines()?),
        &[("web-1", "failed"), ("web-2", "failed")],
    );
    assert_eq!(fs::read_to_string(&ran)?.lines().count(), 2);
    fs::remove_file(&ran)?;
    let one = cli.run(&["--json", "retry", "--batch", "1", &id])?;
    assert_eq!(one.code()?, 125, "{}", one.stderr);
    are(
        &results(&one.json_lines()?),
        &[("web-1", "failed"), ("web-2", "held")],
    );
    assert_eq!(
        fs::read_to_string(&ran)?.lines().count(),
        1,
        "it began on the second"
    );
    let stopped = id_of(one.json_lines()?.last().context("lines")?)?;
    assert_eq!(
        cli.json(&["job", &stopped])?["job"]["retry_of"],
        cli.json(&["job", &id])?["digest"]
    );

    fs::write(&go, "")?;
    let done = cli.run(&["--json", "retry", "--batch", "1", "--max-failures", "2", &id])?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    are(
        &results(&done.json_lines()?),
        &[("web-1", "succeeded"), ("web-2", "succeeded")],
    );
    Ok(())
}

#[test]
fn what_was_brought_from_a_node_is_asked_for_again_and_not_tried_again() -> Result<()> {
    let crew = Crew::of(&TWO[..1])?;
    let cli = crew.cli();
    let file = crew.lab.home().join(mark());
    fs::write(&file, "two words")?;
    let place = crew.lab.home().join(mark());
    let (from, to) = (format!("web-1:{}", path(&file)?), path(&place)?);
    let small = cli.run(&["cp", "--json", "--max-bytes", "1", &from, to])?;
    ensure!(small.code()? == 79, "{}\n{}", small.text(), small.stderr);
    let id = cli.json(&["jobs"])?[0]["job_id"]
        .as_str()
        .context("a job")?
        .to_owned();
    let again = cli.run(&["retry", &id])?;
    ensure!(
        again.code()? == 125 && again.stderr.contains("lictor cp NODE:/path"),
        "{}",
        again.stderr
    );
    ensure!(
        again.stdout.is_empty() && jobs(&crew)? == 1,
        "nothing was signed, nothing printed"
    );
    Ok(())
}
