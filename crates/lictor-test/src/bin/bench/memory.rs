//! Row e: what hub and agent hold in memory when nothing happens.

use std::fs;

use anyhow::{Context as _, Result};

/// A field of `/proc/PID/status`, in kB.
pub(crate) fn field(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.split_whitespace().next());
    number
        .with_context(|| format!("no {name} in the status of {pid}"))?
        .parse()
        .context("not a number")
}
