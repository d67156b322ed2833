//! The hub's object store: a bucket that speaks S3, and how much of it an org may have.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Bucket, Cli, Split, SplitOptions, wait_until};

use crate::steps::{self, SOON, audits_hold, detached, ended};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let files = steps::files_below(dir);
    files.into_iter().map(|(path, _)| path).collect()
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

/// Somebody who has said how much comes, and has sent this much of it.
fn begun(cli: &Cli, port: u16, content: &[u8], sent: usize) -> Result<TcpStream> {
    let made = cli.json(&["tokens", "new", "--scope", "submit", "uploads"])?;
    let secret = made["secret"].as_str().context("a token")?;
    let hex = Digest::of(content).to_string().replace("sha256:", "");
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "PUT /api/v1/blobs/{hex} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {secret}\r\ncontent-length: {}\r\n\r\n",
        content.len()
    )?;
    stream.write_all(&content[..sent])?;
    Ok(stream)
}

/// A file goes to the node through the store.
fn copies(cli: &Cli, at: &Path) -> Result<()> {
    let (file, to) = (at.join("whole"), at.join("whole-there"));
    fs::write(&file, content(6_000_000))?;
    let put = format!("local:{}", to.display());
    cli.ok(&["cp", "--replace", file.to_str().context("path")?, &put])?;
    ensure!(fs::read(&to)? == fs::read(&file)?, "another file");
    Ok(())
}

#[test]
fn what_broken_uploads_leave_in_a_bucket_is_aborted_at_once_or_when_the_hub_is_back() -> Result<()> {
    let bucket = Bucket::start()?;
    let mut split = Split::start_with(SplitOptions {
        hub_settings: bucket.settings(),
        ..SplitOptions::default()
    })?;
    let dir = tempfile::tempdir()?;
    let large = content(12_000_000);
    let port = split.port();
    let is_there = |n| wait_until("a part in the bucket", SOON, || bucket.unfinished().len() >= n);
    let is_gone = || wait_until("nothing in the bucket", SOON, || bucket.unfinished().is_empty());

    // Who brings it goes away.
    let stream = begun(split.cli(), port, &large, 6_000_000)?;
    is_there(2)?;
    drop(stream);
    is_gone()?;

    // The hub goes away, and nobody is left who knows of it but its database.
    let _stream = begun(split.cli(), port, &large, 6_000_000)?;
    is_there(2)?;
    split.hub()?.kill()?;
    ensure!(!bucket.unfinished().is_empty(), "a kill cleans nothing up");
    split.start_hub()?;
    is_gone()?;

    copies(split.cli(), &dir.path().canonicalize()?)?;
    ensure!(
        bucket.unfinished().is_empty(),
        "what was completed leaves nothing"
    );
    audits_hold(split.cli())
}

#[test]
fn what_a_killed_hub_has_begun_to_store_in_files_is_gone_when_it_is_back() -> Result<()> {
    let mut split = Split::start()?;
    let dir = tempfile::tempdir()?;
    let objects = split.home().join("hub/objects");
    let large = content(12_000_000);
    let _stream = begun(split.cli(), split.port(), &large, 6_000_000)?;
    wait_until("a part of it", SOON, || !files_below(&objects).is_empty())?;
    split.hub()?.kill()?;
    ensure!(!files_below(&objects).is_empty(), "a kill cleans nothing up");
    split.start_hub()?;
    ensure!(files_below(&objects).is_empty(), "{:?}", files_below(&objects));
    copies(split.cli(), &dir.path().canonicalize()?)?;
    assert_eq!(files_below(&objects).len(), 1);
    Ok(())
}

#[test]
fn uploads_under_way_count_and_are_free_again_when_they_break_off() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        hub_settings: "max_stored_mib_per_org = 12\n".to_owned(),
        ..SplitOptions::default()
    })?;
    let dir = tempfile::tempdir()?;
    let at = dir.path().canonicalize()?;
    let stream = begun(split.cli(), split.port(), &content(9_000_000), 8_900_000)?;
    let objects = split.home().join("hub/objects");
    wait_until("its first part", SOON, || {
        let mut files = files_below(&objects).into_iter();
        files.any(|f| fs::metadata(f).is_ok_and(|m| m.len() >= 5 << 20))
    })?;
    let file = at.join("second");
    fs::write(&file, vec![7; 8_000_000])?;
    let to = format!("local:{}/there", at.display());
    let words = ["cp", file.to_str().context("path")?, &to];
    let refused = split.cli().run(&words)?;
    ensure!(
        refused.code()? != 0 && refused.stderr.contains("[limit_exceeded]"),
        "{}",
        refused.stderr
    );
    ensure!(!at.join("there").exists());
    drop(stream);
    wait_until("it is free again", SOON, || {
        split.cli().run(&words).is_ok_and(|done| done.status.success())
    })?;
    Ok(())
}

#[cfg(unix)]
#[test]
fn nobody_but_its_user_reads_the_hubs_database() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut split = Split::start()?;
    let hub = split.home().join("hub");
    split.hub()?.terminate()?;
    // As an earlier hub has made it.
    fs::set_permissions(hub.join("hub.db"), fs::Permissions::from_mode(0o644))?;
    split.start_hub()?;
    split.cli().ok(&["jobs"])?;
    let mut seen = 0;
    for entry in fs::read_dir(&hub)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("hub.db") {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
            seen += 1;
        }
    }
    ensure!(seen >= 2, "the database and its log");
    Ok(())
}
