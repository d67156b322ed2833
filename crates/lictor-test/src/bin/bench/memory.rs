//! Row e: what hub and agent hold in memory when nothing happens.

use std::fs;

use anyhow::{Context as _, Result};
use lictor_test::{Split, sibling};

use crate::ssh::Sshd;
use crate::table::Table;

/// Measures both, after one job; they go on running.
pub(crate) fn measure(table: &mut Table) -> Result<Split> {
    let mut split = Split::start()?;
    let agent_only = sibling("lictor-agent-only")?;
    split.agent()?.terminate()?;
    split.set_agent_binary(&agent_only);
    split.start_agent()?;
    split.cli().ok(&["run", "-p", "host", "local", "--", "true"])?;
    let (agent, hub) = (split.agent()?.pid(), split.hub()?.pid());
    let peer = held(Sshd::start()?.pid())?;
    let (figure, beside) = (held(agent)?, format!("sshd, listening: {peer}"));
    let goal = "RssAnon 8 MB, RSS 20 MB (12)";
    table.row(
        "e",
        "agent at rest, agent-only build",
        figure,
        beside.clone(),
        goal,
    );
    table.row("e", "hub at rest, one agent", held(hub)?, beside, "RSS 40 MB");
    Ok(split)
}

fn held(pid: u32) -> Result<String> {
    let mb = |name| Ok::<_, anyhow::Error>(field(pid, name)? as f64 / 1024.0);
    Ok(format!(
        "RssAnon {:.1} MB, RSS {:.1} MB",
        mb("RssAnon:")?,
        mb("VmRSS:")?
    ))
}

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
