//! Files that are large, and files that are on their way when something goes away: the agent, the cable.
//!
//! That a file goes on where it was, and does not begin anew, is shown by what could not begin anew: what the node has
//! already is spoilt in the hub's store meanwhile.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{
    Cable, Lab, LabOptions, SmallDisk, Split, SplitOptions, can_make_namespaces, skip, wait_until,
};
use tempfile::TempDir;

use crate::steps::{SOON, audits_hold, begin, ended, files_below, id_of, receipt, rss_anon};

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

/// What the hub has stored of a log, in bytes as they lie there.
fn stored_logs(split: &Split) -> u64 {
    let stored = files_below(&split.home().join("hub"));
    let logs = stored.into_iter().filter(|(p, _)| p.iter().any(|p| p == "logs"));
    logs.map(|(_, size)| size).sum()
}

#[test]
fn what_is_brought_when_its_agent_is_killed_ends_as_interrupted_and_can_be_asked_for_again_at_once()
-> Result<()> {
    let mut split = Split::start()?;
    let (_dir, at) = place()?;
    let (file, back) = (at.join("here"), at.join("there/back"));
    fs::create_dir(at.join("there"))?;
    noise(&file, LARGE)?;
    let words = ["cp", &there(&file)?, back.to_str().context("path")?];
    let copy = begin(split.cli(), &words)?;
    wait_until("some of it at the hub", SOON, || stored_logs(&split) >= SOME)?;
    split.agent()?.kill()?;
    ensure!(stored_logs(&split) < LARGE, "it has come too fast to be cut");
    split.start_agent()?;
    let done = copy.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success() && said.contains("interrupted"), "{said}");
    // The end is signed, and of what came nothing lies where files belong.
    let jobs = split.cli().json(&["jobs"])?;
    let id = id_of(&jobs[0])?;
    let receipt = receipt(split.cli(), &id)?;
    ensure!(
        receipt["outcome"] == "interrupted" && receipt["artifacts"].as_array().is_none_or(Vec::is_empty),
        "{receipt}"
    );
    ensure!(
        fs::read_dir(at.join("there"))?.next().is_none(),
        "something is left"
    );
    // Asked for again it is another job, and nothing of the first is in its way.
    split.cli().ok(&words)?;
    ensure!(digest(&back)? == digest(&file)?, "another file");
    ensure!(ended(split.cli(), &id)? == "interrupted", "an end is an end");
    audits_hold(split.cli())
}

#[test]
fn a_copy_either_way_comes_to_its_end_when_its_hub_was_killed() -> Result<()> {
    let mut split = Split::start()?;
    let (_dir, at) = place()?;
    let (file, to, back) = (at.join("here"), at.join("there"), at.join("back"));
    noise(&file, LARGE)?;
    let path = file.to_str().context("path")?.to_owned();
    // Whoever waits for it loses the hub, too; the job is the node's, and its end is told when there is a hub.
    let copy = begin(split.cli(), &["cp", &path, &there(&to)?])?;
    is_on_its_way(&split, LARGE)?;
    split.hub()?.kill()?;
    ensure!(!to.exists(), "a part of it is there");
    split.start_hub()?;
    let put = id_of(&split.cli().json(&["jobs"])?[0])?;
    ensure!(
        ended(split.cli(), &put)? == "succeeded",
        "the file that goes there"
    );
    drop(copy.wait_with_output()?);
    ensure!(digest(&to)? == digest(&file)?, "another file");

    let words = ["cp", &there(&file)?, back.to_str().context("path")?];
    let copy = begin(split.cli(), &words)?;
    let before = stored_logs(&split);
    wait_until("some of it at the hub", SOON, || {
        stored_logs(&split) >= before + SOME
    })?;
    split.hub()?.kill()?;
    ensure!(
        stored_logs(&split) < before + LARGE,
        "it has come too fast to be cut"
    );
    split.start_hub()?;
    let brought = id_of(&split.cli().json(&["jobs"])?[0])?;
    ensure!(
        brought != put && ended(split.cli(), &brought)? == "succeeded",
        "what comes from there"
    );
    let done = copy.wait_with_output()?;
    ensure!(
        done.status.success() == back.exists(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    if !done.status.success() {
        split.cli().ok(&words)?;
    }
    ensure!(digest(&back)? == digest(&file)?, "another file");
    split.cli().ok(&["receipt", "verify", &brought])?;
    audits_hold(split.cli())
}

#[test]
fn several_files_go_and_come_by_one_command_each_by_a_job_of_its_own() -> Result<()> {
    let lab = Lab::start()?;
    let (_dir, at) = place()?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    for (name, content) in [("a", "first"), ("b", "second")] {
        fs::write(at.join(name), content)?;
    }
    for dir in ["there", "back", "other"] {
        fs::create_dir(at.join(dir))?;
    }
    let (a, b) = (text(&at.join("a"))?, text(&at.join("b"))?);
    let into = format!("{}/", there(&at.join("there"))?);
    lab.cli().ok(&["cp", &a, &b, &into])?;
    ensure!(fs::read(at.join("there/a"))? == b"first" && fs::read(at.join("there/b"))? == b"second");
    let (from_a, from_b) = (there(&at.join("there/a"))?, there(&at.join("there/b"))?);
    lab.cli()
        .ok(&["cp", &from_a, &from_b, &text(&at.join("back"))?])?;
    ensure!(fs::read(at.join("back/a"))? == b"first" && fs::read(at.join("back/b"))? == b"second");
    // One that is refused keeps none of the others back, and is told by the status.
    fs::write(at.join("c"), "third")?;
    let some = lab.cli().run(&["cp", &a, &text(&at.join("c"))?, &into])?;
    ensure!(
        some.code()? == 73 && fs::read(at.join("there/c"))? == b"third",
        "{}",
        some.stderr
    );
    // What cannot be meant is said before anything goes.
    fs::write(at.join("other/a"), "another")?;
    let place = there(&at.join("there"))?;
    for (words, says) in [
        (vec![&a, &b, &place], "go into a directory"),
        (
            vec![&a, &text(&at.join("other/a"))?, &into],
            "two of them are called a",
        ),
        (vec![&a, &from_b, &into], "both ends"),
    ] {
        let all: Vec<&str> = std::iter::once("cp")
            .chain(words.iter().map(|w| w.as_str()))
            .collect();
        let done = lab.cli().run(&all)?;
        ensure!(
            done.code()? == 125 && done.stderr.contains(says),
            "{says}: {}",
            done.stderr
        );
    }
    ensure!(fs::read(at.join("there/a"))? == b"first");
    audits_hold(lab.cli())
}

/// What anybody may have in memory of a file on its way, whatever its size.
const IN_MEMORY: u64 = 48 * MIB;

#[test]
fn a_file_that_goes_either_way_stays_out_of_everybodys_memory() -> Result<()> {
    let mut split = Split::start()?;
    let (_dir, at) = place()?;
    let (file, to, back) = (at.join("here"), at.join("there"), at.join("back"));
    noise(&file, LARGE)?;
    let here = |path: &Path| path.to_str().map(str::to_owned).context("path");
    // Whatever is needed once is needed for a small one, too.
    let small = at.join("small");
    fs::write(&small, "little")?;
    let first = ["cp", &here(&small)?, &there(&at.join("first"))?];
    succeeds(begin(split.cli(), &first)?)?;
    for words in [
        ["cp", &here(&file)?, &there(&to)?],
        ["cp", &there(&file)?, &here(&back)?],
    ] {
        let all = [split.hub()?.pid(), split.agent()?.pid()];
        let before = [rss_anon(all[0])?, rss_anon(all[1])?, 0];
        let mut copy = begin(split.cli(), &words)?;
        let all = [all[0], all[1], copy.id()];
        let mut most = before;
        wait_until("the end of the copy", SOON * 10, || {
            for (most, pid) in most.iter_mut().zip(all) {
                *most = rss_anon(pid).unwrap_or_default().max(*most);
            }
            !matches!(copy.try_wait(), Ok(None))
        })?;
        succeeds(copy)?;
        for (name, (most, before)) in ["hub", "agent", "CLI"].iter().zip(most.iter().zip(before)) {
            let grown = most - before;
            ensure!(grown < IN_MEMORY, "{name} grew by {grown} bytes: {words:?}");
        }
    }
    ensure!(digest(&to)? == digest(&back)?, "another file");
    audits_hold(split.cli())
}

#[test]
fn a_node_with_a_small_disk_brings_what_it_has_room_for_and_says_so_of_the_rest() -> Result<()> {
    let (_dir, at) = place()?;
    if let Err(missing) = SmallDisk::possible() {
        skip(&missing);
        return Ok(());
    }
    let small = at.join("small");
    fs::create_dir(&small)?;
    let disk = SmallDisk::over(&small, "480m")?;
    let lab = Lab::start_with(LabOptions {
        dir: Some(small.join("home")),
        ..LabOptions::default()
    })?;
    let file = at.join("here");
    fs::write(&file, "little")?;
    let take = |most: &str, to: &str| {
        let to = at.join(to);
        let to = to.to_str().context("path")?;
        lab.cli().run(&[
            "cp",
            "--json",
            "--valid",
            "4s",
            "--max-bytes",
            most,
            &there(&file)?,
            to,
        ])
    };
    let much = take("1GiB", "much")?;
    ensure!(
        much.code()? != 0 && much.text().contains("disk_full") && !at.join("much").exists(),
        "{}\n{}",
        much.text(),
        much.stderr
    );
    let little = take("8MiB", "little")?;
    ensure!(little.code()? == 0, "{}\n{}", little.text(), little.stderr);
    ensure!(fs::read(at.join("little"))? == b"little");
    audits_hold(lab.cli())?;
    drop(lab);
    drop(disk);
    Ok(())
}
