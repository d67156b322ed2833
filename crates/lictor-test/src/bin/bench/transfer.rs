//! Row l: one large file to a node and from one, until it is verified and synced, beside `scp` and a sync.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::Split;

use crate::Effort;
use crate::ssh::Sshd;
use crate::table::Table;

/// How often a running command is looked at: little against the seconds that it takes.
const LOOK: Duration = Duration::from_millis(5);
/// Rounds, of which the median counts.
const ROUNDS: usize = 3;

/// One way.
#[derive(Debug, Clone, Copy)]
enum Way {
    ToNode,
    FromNode,
}

/// Measures both ways, each in turns with `scp`.
pub(crate) fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let (mut split, sshd) = (Split::start()?, Sshd::start()?);
    let dir = tempfile::tempdir()?;
    let place = dir.path().canonicalize()?;
    let file = place.join("file");
    noise(&file, effort.bytes)?;
    for (way, what) in [
        (Way::ToNode, "one file to a node, verified and synced"),
        (Way::FromNode, "one file from a node, verified and synced"),
    ] {
        let (mut ours, mut theirs, mut cli) = (Vec::new(), Vec::new(), 0);
        let up = peaks(&mut split)?;
        for round in 0..ROUNDS {
            let to = place.join(format!("to-{round}"));
            let words = words(way, &file, &to)?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (took, peak) = time(split.cli().command(&words), None)?;
            ours.push(took);
            cli = cli.max(peak);
            fs::remove_file(&to)?;
            theirs.push(time(sshd.copy(&file, &to), Some(&to))?.0);
            fs::remove_file(&to)?;
        }
        let grown = peaks(&mut split)?;
        let (ours, theirs) = (rate(ours, effort.bytes), rate(theirs, effort.bytes));
        let figure = format!(
            "{:.2} x, {ours:.0} MB/s; hub grew by {} MB, agent by {} MB, CLI at most {} MB",
            ours / theirs,
            grown.0.saturating_sub(up.0) / 1024,
            grown.1.saturating_sub(up.1) / 1024,
            cli / 1024
        );
        table.row(
            "l",
            what,
            figure,
            format!("scp and sync {theirs:.0} MB/s"),
            "0.8 x, memory flat",
        );
    }
    Ok(())
}

fn words(way: Way, file: &Path, to: &Path) -> Result<Vec<String>> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path is not UTF-8");
    let (file, to) = (text(file)?, text(to)?);
    Ok(match way {
        Way::ToNode => vec!["cp".to_owned(), file, format!("local:{to}")],
        Way::FromNode => {
            let most = "--max-bytes=4GiB".to_owned();
            vec!["cp".to_owned(), most, format!("local:{file}"), to]
        }
    })
}

/// A file that no compression makes small.
fn noise(path: &Path, size: u64) -> Result<()> {
    let random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(path)?;
    std::io::copy(&mut std::io::Read::take(random, size), &mut file)?;
    Ok(file.sync_all()?)
}

fn rate(mut times: Vec<Duration>, bytes: u64) -> f64 {
    times.sort_unstable();
    bytes as f64 / times[ROUNDS / 2].as_secs_f64() / 1e6
}

/// How long it takes, with the sync of what it has written where it does none itself; and its peak memory in kB.
fn time(mut command: Command, unsynced: Option<&Path>) -> Result<(Duration, u64)> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started_at = Instant::now();
    let mut child = command.spawn()?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak = crate::memory::field(child.id(), "VmHWM:").unwrap_or(peak);
        std::thread::sleep(LOOK);
    };
    ensure!(
        status.success(),
        "{} ended with {status}",
        command.get_program().display()
    );
    if let Some(path) = unsynced {
        fs::File::open(path)?.sync_all()?;
    }
    Ok((started_at.elapsed(), peak))
}

/// Peak resident memory of hub and agent, in kB.
fn peaks(split: &mut Split) -> Result<(u64, u64)> {
    let (hub, agent) = (split.hub()?.pid(), split.agent()?.pid());
    Ok((
        crate::memory::field(hub, "VmHWM:")?,
        crate::memory::field(agent, "VmHWM:")?,
    ))
}
