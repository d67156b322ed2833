//! Rows b and d: bytes per second of one job's output, from the process to the operator's terminal.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::Lab;

use crate::Effort;
use crate::ssh::Sshd;
use crate::table::Table;

/// How often a running command is looked at: little against the seconds that it takes.
const LOOK: Duration = Duration::from_millis(5);
/// Rounds, of which the median counts.
const ROUNDS: usize = 5;

/// Measures both, in turns.
pub(crate) fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let (lab, sshd) = (&Lab::start()?, &Sshd::start()?);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bytes");
    fs::File::create(&path)?.set_len(effort.bytes)?;
    let file = path.to_str().context("path is not UTF-8")?;
    let (mut ours, mut theirs, mut cli) = (Vec::new(), Vec::new(), 0);
    let up = peak_memory(lab)?;
    for _ in 0..ROUNDS {
        let run = ["run", "-p", "host", lab.node(), "--", "cat", file];
        let (took, peak) = time(lab.cli().command(&run))?;
        ours.push(took);
        cli = cli.max(peak);
        theirs.push(time(sshd.command(&["cat", file]))?.0);
    }
    let grown = peak_memory(lab)?.saturating_sub(up);
    let rate = |mut times: Vec<Duration>| {
        times.sort_unstable();
        effort.bytes as f64 / times[ROUNDS / 2].as_secs_f64() / 1e6
    };
    let figure = format!(
        "{:.0} MB/s, hub and agent grew by {} MB, CLI at most {} MB",
        rate(ours),
        grown / 1024,
        cli / 1024
    );
    let beside = format!("ssh {:.0} MB/s", rate(theirs));
    table.row(
        "b, d",
        "output of one `cat`, process to process",
        figure,
        beside,
        "200 MB/s (400), memory flat",
    );
    Ok(())
}

/// How long it takes, and its peak resident memory in kB, as it was seen last.
fn time(mut command: Command) -> Result<(Duration, u64)> {
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
    Ok((started_at.elapsed(), peak))
}

/// Peak resident memory of hub and agent (one process in the lab), in kB.
fn peak_memory(lab: &Lab) -> Result<u64> {
    crate::memory::field(lab.pid()?, "VmHWM:")
}
