//! Files to nodes and from them: whole or not at all, where they were meant, and nowhere else.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab, SmallDisk, needs_root, skip, wait_until};
use tempfile::TempDir;

use crate::law::change_law;
use crate::steps::{SOON, add_profile, all_ended, appears, audits_hold, id_of, receipt, result_of};

/// A directory that everybody may enter, by its real path.
fn place() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let real = dir.path().canonicalize()?;
    Ok((dir, real))
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("path")?.to_owned())
}

/// `lictor cp --json OPTIONS FILE local:TO`.
fn put(cli: &Cli, options: &[&str], file: &Path, to: &Path) -> Result<Done> {
    let mut all = vec!["cp", "--json"];
    all.extend(options);
    let (file, to) = (text(file)?, format!("local:{}", text(to)?));
    all.extend([file.as_str(), to.as_str()]);
    cli.run(&all)
}

/// `lictor cp --json OPTIONS local:FROM PLACE`.
fn take(cli: &Cli, options: &[&str], from: &Path, place: &Path) -> Result<Done> {
    let mut all = vec!["cp", "--json"];
    all.extend(options);
    let (from, place) = (format!("local:{}", text(from)?), text(place)?);
    all.extend([from.as_str(), place.as_str()]);
    cli.run(&all)
}

fn fails(done: &Done, status: i32, code: &str) -> Result<()> {
    ensure!(
        done.code()? == status && result_of(done)?["code"] == code,
        "not {code}: {}\n{}",
        done.text(),
        done.stderr
    );
    Ok(())
}

#[test]
fn a_file_is_put_on_a_node_whole_and_the_receipt_says_which() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = at.join("here");
    fs::write(&file, &content)?;
    let to = at.join("there");
    let done = put(lab.cli(), &["--mode", "0640"], &file, &to)?;
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    ensure!(fs::read(&to)? == content, "another file");
    ensure!(fs::metadata(&to)?.permissions().mode() & 0o7777 == 0o640);
    let receipt = receipt(lab.cli(), &id_of(&result_of(&done)?)?)?;
    let artifact = &receipt["artifacts"][0];
    let digest = lictor_proto::Digest::of(&content).to_string();
    ensure!(
        artifact["path"] == text(&to)? && artifact["size"] == 3_000_000 && artifact["sha256"] == digest,
        "{receipt}"
    );
    // It stays as it is, unless it is said.
    fs::write(&file, "new")?;
    fails(&put(lab.cli(), &[], &file, &to)?, 73, "destination_exists")?;
    ensure!(fs::read(&to)? == content, "it was replaced");
    let done = put(lab.cli(), &["--replace"], &file, &to)?;
    ensure!(done.code()? == 0 && fs::read(&to)? == b"new", "{}", done.stderr);
    // Nothing lies beside it, and an empty file is one, too.
    fs::write(&file, "")?;
    let empty = at.join("empty");
    ensure!(put(lab.cli(), &[], &file, &empty)?.code()? == 0);
    ensure!(fs::read(&empty)?.is_empty() && fs::read_dir(&at)?.count() == 3);
    audits_hold(lab.cli())
}

#[test]
fn the_result_of_a_copy_names_what_was_put_or_brought_with_its_digest() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let (file, there) = (at.join("here"), at.join("there"));
    fs::write(&file, "content")?;
    let result = result_of(&put(lab.cli(), &[], &file, &there)?)?;
    let artifact = &result["artifacts"][0];
    assert_eq!(artifact["path"], text(&there)?, "{result}");
    assert_eq!(artifact["size"], 7, "{result}");
    assert_eq!(
        artifact["sha256"],
        lictor_proto::Digest::of(b"content").to_string()
    );
    let back = result_of(&take(lab.cli(), &[], &there, &at.join("back"))?)?;
    ensure!(back["artifacts"][0]["sha256"].is_string(), "{back}");
    let none = crate::steps::sh(lab.cli(), &[], "true")?.result()?;
    assert_eq!(none["artifacts"], serde_json::json!([]));
    Ok(())
}

#[test]
fn a_file_belongs_to_whom_the_job_says() -> Result<()> {
    if let Err(missing) = needs_root("owners other than oneself") {
        skip(&missing);
        return Ok(());
    }
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let file = at.join("here");
    fs::write(&file, "content")?;
    let to = at.join("there");
    let done = put(lab.cli(), &["--owner", "nobody:65534"], &file, &to)?;
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    let meta = fs::metadata(&to)?;
    ensure!((meta.uid(), meta.gid()) == (65_534, 65_534), "{meta:?}");
    let none = put(lab.cli(), &["--owner", "no-such-user"], &file, &at.join("other"))?;
    fails(&none, 126, "owner_refused")?;
    ensure!(!at.join("other").exists());
    Ok(())
}

#[test]
fn a_file_goes_through_no_link_and_not_into_the_agents_own_directory() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let file = at.join("here");
    fs::write(&file, "content")?;
    fs::create_dir(at.join("real"))?;
    symlink(at.join("real"), at.join("linked"))?;
    symlink(at.join("elsewhere"), at.join("real/link"))?;
    ensure!(put(lab.cli(), &[], &file, &at.join("real/file"))?.code()? == 0);
    for refused in ["linked/other", "real/link", "real", "missing/file"] {
        let done = put(lab.cli(), &["--replace"], &file, &at.join(refused))?;
        fails(&done, 72, "destination_refused")?;
    }
    ensure!(!at.join("elsewhere").exists() && fs::read_dir(at.join("real"))?.count() == 2);
    // The agent's directory, and all below it, by whatever way.
    let home = lab.home().canonicalize()?;
    for own in ["agent/file", "agent/spool/file"] {
        let to = home.join(own);
        ensure!(to.parent().is_some_and(Path::is_dir), "{own}");
        fails(&put(lab.cli(), &[], &file, &to)?, 72, "destination_refused")?;
        ensure!(!to.exists());
    }
    let keys = take(lab.cli(), &[], &home.join("agent"), &at.join("keys"))?;
    fails(&keys, 77, "source_refused")?;
    // A path has one spelling.
    let up = format!("local:{}/real/../file", text(&at)?);
    let done = lab.cli().run(&["cp", &text(&file)?, &up])?;
    ensure!(
        done.code()? == 125 && done.stderr.contains("spec.to"),
        "{}",
        done.stderr
    );
    Ok(())
}

#[test]
fn files_lie_where_the_profile_lets_jobs_write() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o777))?;
    let file = at.join("here");
    fs::write(&file, "content")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    fs::create_dir(at.join("shown"))?;
    fs::set_permissions(at.join("shown"), fs::Permissions::from_mode(0o777))?;
    let shown = text(&at.join("shown"))?;
    add_profile(
        lab.cli(),
        &format!("\n[profiles.box]\nbackend = \"bubblewrap\"\nread_write = [\"{shown}\"]\n"),
    )?;
    let inside = put(lab.cli(), &["--profile", "box"], &file, &at.join("shown/file"))?;
    ensure!(inside.code()? == 0, "{}\n{}", inside.text(), inside.stderr);
    ensure!(fs::read(at.join("shown/file"))? == b"content");
    // What is not shown is nowhere, or the sandbox's own and gone with it.
    let to = at.join("file");
    put(lab.cli(), &["--profile", "box"], &file, &to)?;
    ensure!(!to.exists(), "it got out of the sandbox");
    let system = Path::new("/usr/lictor-test-file");
    fails(
        &put(lab.cli(), &["--profile", "box"], &file, system)?,
        72,
        "destination_refused",
    )?;
    ensure!(!system.exists());
    ensure!(
        put(lab.cli(), &[], &file, &at.join("file"))?.code()? == 0,
        "without the sandbox it can"
    );
    let back = take(
        lab.cli(),
        &["--profile", "box"],
        &at.join("shown"),
        &at.join("back"),
    )?;
    ensure!(back.code()? == 0, "{}\n{}", back.text(), back.stderr);
    ensure!(fs::read(at.join("back/file"))? == b"content");
    let hidden = take(lab.cli(), &["--profile", "box"], &at.join("file"), &at.join("no"))?;
    ensure!(
        hidden.code()? == 78 && !at.join("no").exists(),
        "{}",
        hidden.text()
    );
    Ok(())
}

#[test]
fn a_tree_is_brought_whole_without_its_links_and_nothing_special() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let tree = at.join("tree");
    fs::create_dir_all(tree.join("inner/empty"))?;
    let large: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 253) as u8).collect();
    fs::write(tree.join("large"), &large)?;
    fs::write(tree.join("inner/small"), "small")?;
    fs::write(at.join("outside"), "outside")?;
    symlink("../outside", tree.join("link"))?;
    ensure!(Command::new("mkfifo").arg(tree.join("pipe")).status()?.success());
    let done = take(lab.cli(), &[], &tree, &at.join("came"))?;
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    ensure!(fs::read(at.join("came/large"))? == large, "another file");
    ensure!(fs::read(at.join("came/inner/small"))? == b"small" && at.join("came/inner/empty").is_dir());
    ensure!(
        fs::read_dir(at.join("came"))?.count() == 2,
        "a link or a pipe was made"
    );
    let lines = done.json_lines()?;
    let last = lines.last().context("a line")?;
    ensure!(
        last["links"][0]["target"] == "../outside" && last["skipped"][0]["path"] == "pipe",
        "{last}"
    );
    let receipt = receipt(lab.cli(), &id_of(&result_of(&done)?)?)?;
    ensure!(
        receipt["artifacts"][0]["sha256"] == receipt["stdout"]["sha256"],
        "the artifact is what standard output brought: {receipt}"
    );
    // Into a directory under its own name, and never over anything.
    fs::create_dir(at.join("into"))?;
    ensure!(take(lab.cli(), &[], &tree.join("large"), &at.join("into"))?.code()? == 0);
    ensure!(fs::read(at.join("into/large"))? == large);
    let again = take(lab.cli(), &[], &tree.join("large"), &at.join("into"))?;
    ensure!(again.code()? == 125, "{}", again.text());
    let link = take(lab.cli(), &[], &tree.join("link"), &at.join("link"))?;
    fails(&link, 77, "source_refused")?;
    let much = take(lab.cli(), &["--max-bytes", "1MiB"], &tree, &at.join("much"))?;
    fails(&much, 79, "source_too_large")?;
    let left = |n: &str| n.starts_with(".lictor") || n == "much" || n == "link";
    for entry in fs::read_dir(&at)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(!left(&name), "{name} is left");
    }
    Ok(())
}

const RULES: &str = r#"
@id("not-into-etc") forbid (principal, action == Action::"fetch", resource) when { context.below.contains("/etc") };
@id("no-programs") forbid (principal, action == Action::"fetch", resource) when { context.executable };
@id("no-keys") forbid (principal, action == Action::"collect", resource) when { context.path like "*.key" };
"#;

#[test]
fn policy_sees_where_a_file_goes_and_what_it_may_be() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let file = at.join("here");
    fs::write(&file, "content")?;
    fs::write(at.join("a.key"), "key")?;
    let own = fs::read_dir(lab.home().join("org/policies"))?
        .next()
        .context("a policy")??;
    let policy = format!("policies/{}", own.file_name().to_string_lossy());
    let script = at.join("script");
    ensure!(put(lab.cli(), &["--mode", "0755"], &file, &script)?.code()? == 0);
    ensure!(take(lab.cli(), &[], &at.join("a.key"), &at.join("b.key"))?.code()? == 0);
    change_law(lab.cli(), &policy, RULES)?;
    let plain = put(lab.cli(), &["--mode", "0644"], &file, &at.join("plain"))?;
    ensure!(plain.code()? == 0, "{}", plain.stderr);
    for (mode, to, rule) in [
        ("0644", Path::new("/etc/lictor-test-file"), "not-into-etc"),
        ("0755", at.join("program").as_path(), "no-programs"),
    ] {
        let done = put(lab.cli(), &["--mode", mode], &file, to)?;
        fails(&done, 126, "forbidden")?;
        ensure!(result_of(&done)?["rules"][0] == rule, "{}", done.text());
        ensure!(!to.exists());
    }
    let key = take(lab.cli(), &[], &at.join("a.key"), &at.join("c.key"))?;
    fails(&key, 126, "forbidden")?;
    ensure!(!at.join("c.key").exists());
    Ok(())
}

#[test]
fn a_full_disk_is_said_before_anything_is_there() -> Result<()> {
    if let Err(missing) = SmallDisk::possible() {
        skip(&missing);
        return Ok(());
    }
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let small = at.join("small");
    fs::create_dir(&small)?;
    let disk = SmallDisk::over(&small, "3m")?;
    let file = at.join("here");
    fs::write(&file, vec![1; 4 << 20])?;
    fails(
        &put(lab.cli(), &[], &file, &small.join("file"))?,
        74,
        "destination_full",
    )?;
    ensure!(fs::read_dir(&small)?.next().is_none(), "something is there");
    fs::write(&file, vec![1; 256 << 10])?;
    let fits = put(lab.cli(), &[], &file, &small.join("file"))?;
    ensure!(fits.code()? == 0, "{}", fits.stderr);
    drop(disk);
    Ok(())
}

/// The agent and the hub are killed while files are on their way: there is the whole file, or the old one, and nothing
/// else; and what was brought is whole, or nothing.
#[test]
fn no_kill_leaves_a_part_of_a_file() -> Result<()> {
    let mut lab = Lab::start()?;
    let (_dir, at) = place()?;
    let file = at.join("here");
    let content: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 241) as u8).collect();
    fs::write(&file, &content)?;
    let target = at.join("target");
    fs::create_dir(&target)?;
    let to = target.join("file");
    for (round, wait_ms) in [0, 150, 400, 900, 1600].into_iter().enumerate() {
        fs::write(&to, "old")?;
        let back = at.join(format!("back-{round}"));
        let there = format!("local:{}", text(&to)?);
        let source = format!("local:{}", text(&file)?);
        let mut running = Vec::new();
        for words in [
            ["cp", "--replace", &text(&file)?, &there],
            ["cp", "--json", &source, &text(&back)?],
        ] {
            let mut command = lab.cli().command(&words);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            running.push(command.spawn()?);
        }
        let moment = std::time::Instant::now() + Duration::from_millis(wait_ms);
        wait_until("the moment", SOON, || std::time::Instant::now() >= moment)?;
        lab.kill()?;
        for client in &mut running {
            client.kill()?;
            client.wait()?;
        }
        lab.start_again()?;
        let now = fs::read(&to)?;
        ensure!(now == b"old" || now == content, "{} bytes are there", now.len());
        if back.exists() {
            ensure!(fs::read(&back)? == content, "a part was brought");
        }
        // A copy that the node had not begun is offered to it again, though its client is gone: it ends first, so that
        // the next one does not meet it.
        all_ended(lab.cli(), 3 * SOON)?;
        let now = fs::read(&to)?;
        ensure!(now == b"old" || now == content, "{} bytes are there", now.len());
        // Whatever it left beside it goes with the next file for the same place.
        let done = put(lab.cli(), &["--replace"], &file, &to)?;
        ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
        ensure!(fs::read(&to)? == content);
        let names: Vec<_> = fs::read_dir(&target)?.collect();
        ensure!(names.len() == 1, "{names:?}");
    }
    appears(&to)?;
    audits_hold(lab.cli())
}
