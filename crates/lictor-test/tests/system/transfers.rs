//! Files that are large, and files that are on their way when something goes away: the agent, the cable.
//!
//! That a file goes on where it was, and does not begin anew, is shown by what could not begin anew: what the node has
//! already is spoilt in the hub's store meanwhile.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cable, Cli, Split, SplitOptions, can_make_namespaces, skip, wait_until};
use tempfile::TempDir;

use crate::steps::{SOON, audits_hold};

const MIB: u64 = 1024 * 1024;
/// More than any standard input may have.
const LARGE: u64 = 300 * MIB;
/// What is seen to have come before anything is cut: enough to be in the middle of it.
const SOME: u64 = 16 * MIB;
/// A dead connection is found within 30 s; the rest is for a slow machine.
const FOUND: Duration = Duration::from_secs(40);

fn place() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let real = dir.path().canonicalize()?;
    Ok((dir, real))
}

/// A file that no compression makes small.
fn noise(path: &Path, size: u64) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 20);
    while block.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    let mut file = fs::File::create(path)?;
    for n in 0..size / MIB {
        block[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all(&block)?;
    }
    Ok(())
}

fn digest(path: &Path) -> Result<Digest> {
    let mut hash = lictor_client::files::Hash::default();
    let file = fs::File::open(path)?;
    let (mut block, mut at) = (vec![0; 1 << 20], 0);
    loop {
        let n = file.read_at(&mut block, at)?;
        if n == 0 {
            return Ok(hash.finish());
        }
        hash.update(&block[..n]);
        at += n as u64;
    }
}

fn begin(cli: &Cli, words: &[&str]) -> Result<Child> {
    let mut command = cli.command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

fn succeeds(child: Child) -> Result<()> {
    let done = child.wait_with_output()?;
    let (out, said) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    ensure!(done.status.success(), "{}: {out}\n{said}", done.status);
    Ok(())
}

fn there(path: &Path) -> Result<String> {
    Ok(format!("local:{}", path.to_str().context("path")?))
}

/// Every file below a directory, with its bytes.
fn files_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(files_below(&entry.path())),
            Ok(meta) => found.push((entry.path(), meta.len())),
            Err(_) => {}
        }
    }
    found
}

/// How much of its only input the agent has.
fn spooled(split: &Split) -> u64 {
    let files = files_below(&split.home().join("agent/spool/stdin"));
    files.iter().map(|(_, size)| *size).max().unwrap_or(0)
}

/// Waits until the agent has some of a file, and not all.
fn is_on_its_way(split: &Split, size: u64) -> Result<()> {
    wait_until("some of the file on the node", SOON, || spooled(split) >= SOME)?;
    ensure!(spooled(split) < size, "it has come too fast to be cut");
    Ok(())
}

/// Changes the beginning of the hub's only stored input; what of it comes from there from now on is another.
fn spoil_beginning(split: &Split) -> Result<PathBuf> {
    let stored = files_below(&split.home().join("hub"));
    let input = stored.iter().find(|(path, _)| path.iter().any(|p| p == "stdin"));
    let (path, _) = input.context("the hub has stored no input")?;
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(&[0x55; 4096], 0)?;
    Ok(path.clone())
}

#[test]
fn a_file_of_300_mib_goes_on_where_it_was_when_its_agent_was_killed() -> Result<()> {
    let mut split = Split::start()?;
    let (_dir, at) = place()?;
    let (file, to) = (at.join("here"), at.join("there"));
    fs::File::create(&file)?.set_len(LARGE)?;
    let copy = begin(split.cli(), &["cp", file.to_str().context("path")?, &there(&to)?])?;
    is_on_its_way(&split, LARGE)?;
    split.agent()?.kill()?;
    ensure!(!to.exists(), "a part of it is there");
    let stored = spoil_beginning(&split)?;
    split.start_agent()?;
    succeeds(copy)?;
    ensure!(digest(&to)? == digest(&file)?, "another file");
    ensure!(digest(&stored)? != digest(&file)?, "it could have come anew");
    audits_hold(split.cli())
}

fn over_a_cable() -> Result<Option<Split>> {
    if let Err(missing) = can_make_namespaces() {
        skip(&missing);
        return Ok(None);
    }
    let split = Split::start_with(SplitOptions {
        cable: Some(Cable::new()?),
        ..SplitOptions::default()
    })?;
    Ok(Some(split))
}

fn cut_and_mend(split: &Split) -> Result<()> {
    wait_until("the hub to notice", FOUND, || !split.is_connected())?;
    split.cable()?.mend()
}

#[test]
fn a_file_goes_on_where_it_was_when_the_cable_was_cut() -> Result<()> {
    let Some(split) = over_a_cable()? else {
        return Ok(());
    };
    let (_dir, at) = place()?;
    let (file, to) = (at.join("here"), at.join("there"));
    fs::File::create(&file)?.set_len(LARGE)?;
    let copy = begin(split.cli(), &["cp", file.to_str().context("path")?, &there(&to)?])?;
    is_on_its_way(&split, LARGE)?;
    split.cable()?.cut()?;
    let stored = spoil_beginning(&split)?;
    cut_and_mend(&split)?;
    succeeds(copy)?;
    ensure!(digest(&to)? == digest(&file)?, "another file");
    ensure!(digest(&stored)? != digest(&file)?, "it could have come anew");
    audits_hold(split.cli())
}

#[test]
fn what_is_brought_goes_on_where_it_was_when_the_cable_was_cut() -> Result<()> {
    let Some(split) = over_a_cable()? else {
        return Ok(());
    };
    let (_dir, at) = place()?;
    let (file, back) = (at.join("here"), at.join("back"));
    noise(&file, LARGE)?;
    let copy = begin(
        split.cli(),
        &["cp", &there(&file)?, back.to_str().context("path")?],
    )?;
    let segments = || -> Vec<(PathBuf, u64)> {
        let stored = files_below(&split.home().join("hub"));
        let logs = stored.into_iter().filter(|(p, _)| p.iter().any(|p| p == "logs"));
        logs.filter(|(p, _)| p.extension().is_some_and(|e| e == "zst"))
            .collect()
    };
    let bytes = || segments().iter().map(|(_, size)| *size).sum::<u64>();
    wait_until("some of it at the hub", SOON, || bytes() >= SOME)?;
    split.cable()?.cut()?;
    let before: Vec<(PathBuf, u64)> = segments()
        .into_iter()
        .map(|(path, _)| fs::metadata(&path).map(|m| (path, m.ino())))
        .collect::<Result<_, _>>()?;
    ensure!(bytes() < LARGE, "it has come too fast to be cut");
    cut_and_mend(&split)?;
    succeeds(copy)?;
    ensure!(digest(&back)? == digest(&file)?, "another file");
    // What the hub had was not brought again: it is what it was, and nothing else begins there.
    for (path, ino) in &before {
        ensure!(
            fs::metadata(path)?.ino() == *ino,
            "{} was stored anew",
            path.display()
        );
    }
    let stored = bytes();
    ensure!(
        stored < LARGE + LARGE / 10,
        "{stored} bytes are stored of {LARGE}"
    );
    audits_hold(split.cli())
}
