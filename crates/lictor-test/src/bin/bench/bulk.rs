//! Rows b and d: bytes per second of one job's output, from the process to the operator's terminal.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::Lab;

use crate::Effort;
use crate::ssh::Sshd;
use crate::table::Table;

/// Rounds, of which the median counts.
const ROUNDS: usize = 5;

/// Measures both, in turns.
pub(crate) fn measure(table: &mut Table, effort: &Effort, lab: &Lab, sshd: &Sshd) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bytes");
    fs::File::create(&path)?.set_len(effort.bytes)?;
    let file = path.to_str().context("path is not UTF-8")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let up = peak_memory(lab)?;
    for _ in 0..ROUNDS {
        ours.push(time(lab.cli().command(&[
            "run",
            "-p",
            "host",
            lab.node(),
            "--",
            "cat",
            file,
        ]))?);
        theirs.push(time(sshd.command(&["cat", file]))?);
    }
    let grown = peak_memory(lab)?.saturating_sub(up);
    let rate = |mut times: Vec<Duration>| {
        times.sort_unstable();
        effort.bytes as f64 / times[ROUNDS / 2].as_secs_f64() / 1e6
    };
    let figure = format!(
        "{:.0} MB/s, hub and agent grew by {} MB",
        rate(ours),
        grown / 1024
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

fn time(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started_at = Instant::now();
    let status = command.status()?;
    ensure!(
        status.success(),
        "{} ended with {status}",
        command.get_program().display()
    );
    Ok(started_at.elapsed())
}

/// Peak resident memory of hub and agent (one process in the lab), in kB.
fn peak_memory(lab: &Lab) -> Result<u64> {
    crate::memory::field(lab.pid()?, "VmHWM:")
}
