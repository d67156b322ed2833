//! Files to several nodes as `lictor run` goes to them: batch by batch, after other jobs, previewed, narrowed, left to themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::fleet::{Crew, are, path, results};
use crate::retired::{node_is, states};
use crate::steps::{appears, id_of, mark};

const THREE: [(&str, &[&str]); 3] = [
    ("web-1", &["role=web"]),
    ("web-2", &["role=web"]),
    ("web-3", &["role=db"]),
];

/// A crew, a file, and a directory for it, which all nodes share: the second that puts a file finds it there.
fn set() -> Result<(Crew, tempfile::TempDir, String)> {
    let crew = Crew::of(&THREE)?;
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let at = dir.path().canonicalize()?;
    fs::write(at.join("app.conf"), "level = 2\n")?;
    Ok((crew, dir, path(&at)?.to_owned()))
}

fn names(value: &Value) -> Vec<(&str, u64)> {
    let nodes = value["nodes"].as_array().into_iter().flatten();
    nodes
        .map(|n| {
            (
                n["name"].as_str().unwrap_or_default(),
                n["batch"].as_u64().unwrap_or_default(),
            )
        })
        .collect()
}

#[test]
fn a_file_goes_batch_by_batch_and_stops_where_it_goes_wrong() -> Result<()> {
    let (crew, _dir, at) = set()?;
    let cli = crew.cli();
    let file = format!("{at}/app.conf");
    let copy = |options: &[&str], to: &str| {
        let mut words = vec!["cp", "--json"];
        words.extend(options);
        let to = format!("web-*:{at}/{to}");
        words.extend([file.as_str(), to.as_str()]);
        cli.run(&words)
    };
    let dry = copy(&["--dry-run", "--batch", "1,2"], "one")?;
    assert_eq!(
        names(&dry.json_lines()?[0]),
        [("web-1", 1), ("web-2", 2), ("web-3", 2)]
    );
    assert_eq!(cli.json(&["jobs"])?, serde_json::json!([]), "nothing was signed");

    // All at once, each of them begins.
    let done = copy(&[], "one")?;
    let lines = done.json_lines()?;
    let ended = results(&lines);
    assert_eq!(
        ended.iter().filter(|(_, how)| how == "failed").count(),
        2,
        "{ended:?}"
    );
    // With a canary the third never does.
    let done = copy(&["--batch", "1"], "two")?;
    assert_eq!(done.code()?, 125, "{}", done.stderr);
    let lines = done.json_lines()?;
    are(
        &results(&lines),
        &[("web-1", "succeeded"), ("web-2", "failed"), ("web-3", "held")],
    );
    let id = id_of(lines.last().context("lines")?)?;
    let shown = cli.json(&["rollout", "show", &id])?;
    assert_eq!(shown["rollout"]["state"], "stopped", "{shown}");
    cli.ok(&["rollout", "continue", &id])?;
    node_is(cli, &id, ("web-3", "failed"))?;

    let done = copy(
        &[
            "--batch",
            "1,2",
            "--concurrency",
            "1",
            "--max-failures",
            "100%",
            "--replace",
        ],
        "two",
    )?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert_eq!(fs::read_to_string(format!("{at}/two"))?, "level = 2\n");
    // A file that stops is not followed by the next.
    fs::write(format!("{at}/b.conf"), "b\n")?;
    fs::create_dir(format!("{at}/full"))?;
    fs::write(format!("{at}/full/app.conf"), "mine\n")?;
    let (second, to) = (format!("{at}/b.conf"), format!("web-*:{at}/full/"));
    let done = cli.run(&["cp", "--json", "--batch", "1", &file, &second, &to])?;
    ensure!(done.code()? != 0, "{}", done.stderr);
    ensure!(!fs::exists(format!("{at}/full/b.conf"))?, "the second file went");
    Ok(())
}

#[test]
fn a_file_is_put_after_another_job_and_a_job_comes_after_a_file() -> Result<()> {
    let (crew, _dir, at) = set()?;
    let cli = crew.cli();
    let (file, to, go) = (
        format!("{at}/app.conf"),
        format!("web-1:{at}/there"),
        crew.lab.home().join(mark()),
    );
    let begun = crew.lab.home().join(mark());
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done",
        path(&begun)?,
        path(&go)?
    );
    let before = [
        "run",
        "--json",
        "--detach",
        "--profile",
        "host",
        "web-1",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let before = id_of(&cli.run(&before)?.result()?)?;
    appears(&begun)?;
    let copied = cli.ok(&["cp", "--detach", "--valid", "1h", "--after", &before, &file, &to])?;
    let copied = copied.trim();
    let seen = format!("cat {at}/there");
    let after = [
        "run",
        "--json",
        "--detach",
        "--profile",
        "host",
        "--valid",
        "1h",
        "--after",
        copied,
        "web-1",
        "--",
        "sh",
        "-c",
        &seen,
    ];
    let after = id_of(&cli.run(&after)?.result()?)?;
    let shown = cli.json(&["job", copied])?;
    assert_eq!(shown["executions"][0]["code"], "after_waiting", "{shown}");
    ensure!(!fs::exists(format!("{at}/there"))?, "it is there before its time");
    fs::write(&go, "")?;
    node_is(cli, &after, ("web-1", "succeeded"))?;
    assert_eq!(cli.ok(&["logs", &after])?, "level = 2\n");
    Ok(())
}

#[test]
fn all_nodes_get_a_file_but_those_that_are_left_out() -> Result<()> {
    let (crew, _dir, at) = set()?;
    let cli = crew.cli();
    let (file, to) = (format!("{at}/app.conf"), format!(":{at}/there"));
    let dry = |words: &[&str]| -> Result<Vec<String>> {
        let all = [
            &["cp", "--json", "--dry-run"][..],
            words,
            &[file.as_str(), to.as_str()],
        ]
        .concat();
        let done = cli.run(&all)?;
        ensure!(done.code()? == 0, "{}", done.stderr);
        let value = done.result()?;
        Ok(names(&value)
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect())
    };
    assert_eq!(dry(&["--all"])?, ["local", "web-1", "web-2", "web-3"]);
    assert_eq!(
        dry(&["--all", "-x", "role=web", "--fact", "os=linux"])?,
        ["local", "web-3"]
    );
    let none = cli.run(&["cp", "--dry-run", "--all", "--fact", "os=plan9", &file, &to])?;
    ensure!(none.stderr.contains("os=linux"), "{}", none.stderr);
    let both = cli.run(&["cp", "--all", &file, &format!("web-1:{at}/there")])?;
    ensure!(
        both.code()? == 125 && both.stderr.contains(":/path"),
        "{}",
        both.stderr
    );
    let done = cli.run(&["cp", "--all", "-x", "web-*", &file, &to])?;
    ensure!(
        done.code()? == 0 && fs::exists(format!("{at}/there"))?,
        "{}",
        done.stderr
    );
    let id = cli.json(&["jobs"])?[0]["job_id"]
        .as_str()
        .context("a job")?
        .to_owned();
    assert_eq!(states(cli, &id)?, [("local".to_owned(), "succeeded".to_owned())]);
    // What is verified here is waited for.
    let from = cli.run(&[
        "cp",
        "--detach",
        &format!("web-1:{at}/app.conf"),
        &format!("{at}/back"),
    ])?;
    ensure!(
        from.code()? == 125 && from.stderr.contains("--detach is for files to nodes"),
        "{}",
        from.stderr
    );
    Ok(())
}
