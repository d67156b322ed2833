//! What carries files, and says what is known of workspaces: this program again, as a job's process in the job's sandbox.
//!
//! ```text
//!   agent:   Order::put | Order::take -> argv       (owner and group looked up, the agent's own directory named)
//!   process: argv -> Order -> put: standard input -> temporary file -> its place
//!                             take: files -> standard output, in records
//! ```
//!
//! # Invariants
//! - A path is walked by handles, one part after another, and no link is followed; what a handle leads to is what is
//!   looked at and used.
//! - The agent's own directory is entered by neither.

mod clone;
mod diff;
mod git;
mod known;
mod put;
mod renew;
mod take;
mod walk;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Collect, Fetch, GitCommit, Spec};
use lictor_proto::{Code, Name};
use lictor_trust::profiles::Backend;
use serde::{Deserialize, Serialize};

use super::users;
use crate::carry::CarryError;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    /// Standard input becomes a file.
    Put(put::Put),
    /// Files become standard output.
    Take(take::Take),
    /// A commit becomes the files of a workspace.
    Clone(clone::Clone),
    /// Another commit becomes the files of a clone.
    Renew(renew::Renew),
    /// What of these is not as in a commit becomes standard output.
    Diff(diff::Diff),
    /// This is standard output.
    Say(String),
    /// There is no such workspace.
    Lack(String),
}

/// A directory that is not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Closed {
    dev: u64,
    ino: u64,
}

impl Closed {
    /// What is the agent's own by these names. A name that leads nowhere closes nothing.
    fn all(names: &[PathBuf]) -> Result<Vec<Self>, Refusal> {
        let mut closed = Vec::with_capacity(names.len());
        for name in names {
            match std::fs::metadata(name) {
                Ok(meta) => closed.push(Self {
                    dev: meta.dev(),
                    ino: meta.ino(),
                }),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    let why = format!("cannot tell the agent's own {}: {e}", name.display());
                    return Err(Refusal::new(Code::TransferFailed, why));
                }
            }
        }
        closed.dedup();
        Ok(closed)
    }
}

impl Order {
    /// To put a job's file there.
    pub(super) fn put(fetch: &Fetch, own: &[PathBuf]) -> Result<Self, Refusal> {
        let owner = fetch
            .owner
            .as_deref()
            .map(|name| id(name, users::uid_of))
            .transpose()?;
        let group = fetch
            .group
            .as_deref()
            .map(|name| id(name, users::gid_of))
            .transpose()?;
        Ok(Self::Put(put::Put {
            to: fetch.to.clone(),
            sha256: fetch.sha256,
            size: fetch.size,
            mode: fetch.mode_bits().unwrap_or(0),
            owner,
            group,
            replace: fetch.replace,
            closed: Closed::all(own)?,
        }))
    }

    /// To bring what a job names.
    pub(super) fn take(collect: &Collect, own: &[PathBuf]) -> Result<Self, Refusal> {
        Ok(Self::Take(take::Take {
            from: collect.from.clone(),
            max_bytes: collect.max_bytes,
            closed: Closed::all(own)?,
        }))
    }

    /// The words that the process is started with.
    pub(super) fn words(&self, carrier: &[String]) -> Vec<String> {
        let order = serde_json::to_string(self).unwrap_or_default();
        let own = std::iter::once("lictor".to_owned());
        own.chain(carrier.iter().cloned()).chain([order]).collect()
    }
}

/// Where a job is to run.
pub(super) struct Place<'a> {
    /// Its profile's name.
    pub(super) profile: &'a Name,
    /// Its own directory, on the host.
    pub(super) dir: &'a Path,
    /// The kept directory that it works in, as it sees it; nothing where it names none.
    pub(super) workspace: String,
    /// Whether its way out is the proxy.
    pub(super) has_proxy: bool,
    /// The user that it is, and where that is one.
    pub(super) user: (u32, Backend),
    /// The file of those whom git trusts to say who a host is, where the profile names one.
    pub(super) authorities: Option<String>,
}

/// The words that the process of a job is started with; the first one of a script's is put in by its program.
pub(super) fn words_of(spec: &Spec, place: &Place<'_>, own: Own<'_>) -> Result<Vec<String>, Refusal> {
    Ok(match spec {
        Spec::Exec(exec) => exec.argv.clone(),
        Spec::Script(script) => {
            let first = std::iter::once(script.interpreter.to_string());
            first.chain(script.args.iter().cloned()).collect()
        }
        Spec::Fetch(fetch) => Order::put(fetch, own.names)?.words(own.carrier),
        Spec::Collect(collect) => Order::take(collect, own.names)?.words(own.carrier),
        Spec::Workspace(workspace) => known::order(workspace, place)?.words(own.carrier),
    })
}

/// The words that git is started with, to bring a commit into an empty workspace.
pub(super) fn words_to_clone(git: &GitCommit, place: &Place<'_>, own: Own<'_>) -> Vec<String> {
    Order::Clone(known::clone(git, place)).words(own.carrier)
}

/// The number of a user or group, which may be a number already.
fn id(name: &str, of: impl Fn(&str) -> std::io::Result<Option<u32>>) -> Result<u32, Refusal> {
    // -1 means "as it is" to the kernel.
    if let Ok(number) = name.parse::<u32>()
        && number != u32::MAX
    {
        return Ok(number);
    }
    let refuse = |why: String| Refusal::new(Code::OwnerRefused, why);
    match of(name) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(refuse(format!("this host knows no {name}"))),
        Err(e) => Err(refuse(format!("cannot find out who {name} is on this host: {e}"))),
    }
}

/// What the agent says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    /// What is its own, by every name.
    pub(super) names: &'a [PathBuf],
    /// Arguments that make its program carry files.
    pub(super) carrier: &'a [String],
}

/// Does what the order says.
pub(crate) fn carry(order: &str) -> Result<(), CarryError> {
    let order: Order = serde_json::from_str(order)
        .map_err(|e| CarryError::new(Code::TransferFailed, format!("the order cannot be read: {e}")))?;
    match order {
        Order::Put(put) => put.carry_out(std::io::stdin().lock()),
        Order::Take(take) => take.carry_out(std::io::stdout().lock()),
        Order::Clone(clone) => clone.carry_out(std::io::stdin().lock()),
        Order::Renew(renew) => renew.carry_out(std::io::stdin().lock()),
        Order::Diff(diff) => diff.carry_out(std::io::stdout().lock()),
        Order::Say(text) => {
            use std::io::Write as _;
            let mut out = std::io::stdout().lock();
            let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            said.map_err(|e| CarryError::new(Code::TransferFailed, format!("standard output: {e}")))
        }
        Order::Lack(why) => Err(CarryError::new(Code::SandboxUnknown, why)),
    }
}
