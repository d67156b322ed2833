//! The hub's object store: a bucket that speaks S3, and how much of it an org may have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Bucket, Split, SplitOptions};

use crate::steps::{audits_hold, detached, ended};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => found.push(path),
        }
    }
    found
}

fn content(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8 ^ (n >> 9) as u8).collect()
}

#[test]
fn a_hub_keeps_files_and_logs_in_a_bucket() -> Result<()> {
    let bucket = Bucket::start()?;
    let mut split = Split::start_with(SplitOptions {
        hub_settings: bucket.settings(),
        ..SplitOptions::default()
    })?;
    let dir = tempfile::tempdir()?;
    let at = dir.path().canonicalize()?;
    let (file, to, back) = (at.join("here"), at.join("there"), at.join("back"));
    // Two whole parts and some.
    fs::write(&file, content(12_000_000))?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let put = ["cp", &text(&file)?, &format!("local:{}", text(&to)?)];
    split.cli().ok(&put)?;
    ensure!(fs::read(&to)? == fs::read(&file)?, "another file");
    split
        .cli()
        .ok(&["cp", &format!("local:{}", text(&to)?), &text(&back)?])?;
    ensure!(fs::read(&back)? == fs::read(&file)?, "another file came back");
    let id = detached(split.cli(), "head -c 400000 /dev/urandom | base64 -w 0")?;
    ensure!(ended(split.cli(), &id)? == "succeeded");
    let stored = files_below(&bucket.objects().join("hub-1"));
    for kind in ["stdin", "logs"] {
        let has = stored.iter().any(|p| p.iter().any(|part| part == kind));
        ensure!(has, "no {kind} in the bucket: {stored:?}");
    }
    ensure!(
        files_below(&split.home().join("hub/objects")).is_empty(),
        "something is beside the bucket"
    );
    // It is there for the next hub, too; and one that has no right key says so and does not begin.
    let before = split.cli().run(&["logs", &id])?;
    split.hub()?.terminate()?;
    bucket.write_keys("another secret")?;
    ensure!(split.start_hub().is_err(), "it began without a right key");
    bucket.write_keys("a secret of the test's own")?;
    split.start_hub()?;
    let after = split.cli().run(&["logs", &id])?;
    ensure!(
        after.code()? == 0 && after.stdout == before.stdout,
        "{}",
        after.stderr
    );
    ensure!(after.stdout.len() > 500_000);
    audits_hold(split.cli())
}

#[test]
fn no_org_has_more_stored_than_it_may() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        hub_settings: "max_stored_mib_per_org = 4\n".to_owned(),
        ..SplitOptions::default()
    })?;
    let dir = tempfile::tempdir()?;
    let at = dir.path().canonicalize()?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let copy = |name: &str, bytes: u32| {
        let file = at.join(name);
        fs::write(&file, content(bytes))?;
        let to = format!("local:{}/{name}-there", text(&at)?);
        split.cli().run(&["cp", &text(&file)?, &to])
    };
    ensure!(copy("first", 3_000_000)?.code()? == 0);
    let refused = copy("second", 2_000_000)?;
    ensure!(
        refused.code()? != 0 && refused.stderr.contains("[limit_exceeded]"),
        "{}",
        refused.stderr
    );
    ensure!(!at.join("second-there").exists());
    // What is there already counts once, and what fits still comes.
    let again = at.join("again");
    let to = format!("local:{}", text(&again)?);
    split.cli().ok(&["cp", &text(&at.join("first"))?, &to])?;
    ensure!(copy("third", 1_000_000)?.code()? == 0);
    Ok(())
}
