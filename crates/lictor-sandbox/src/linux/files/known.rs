//! What a node knows of a profile's workspaces, as the lines that a job which looks at them writes.
//!
//! It is read from what the agent itself has written, never from a workspace.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{GitCommit, Operation, Workspace};
use lictor_proto::{Code, Name};
use serde_json::json;

use super::clone::Clone;
use super::diff::Diff;
use super::renew::Renew;
use super::{Order, Place};
use crate::kept::{KeptSandbox, KeptSandboxes};

/// The proxy, as jobs reach it.
const PROXY: &str = "http://127.0.0.1:3128";
/// Bytes that fit into one argument of a process, with room for what is around them.
const MOST: usize = 96 * 1024;

/// What the process of such a job does. One that changes something has its work done once it has ended.
pub(super) fn order(workspace: &Workspace, place: &Place<'_>) -> Result<Order, Refusal> {
    let clone = workspace.git.as_ref().map(|git| clone(git, place));
    let clone = match (clone, workspace.operation) {
        (Some(clone), Operation::Clone) => return Ok(Order::Clone(clone)),
        (clone, _) => clone,
    };
    if clone.is_none() && workspace.diff.is_none() && !workspace.operation.looks() {
        return Ok(Order::Say(String::new()));
    }
    let Place { profile, dir, .. } = *place;
    let all = KeptSandboxes::below(dir.parent().unwrap_or(dir)).list();
    let all = all.map_err(|e| {
        Refusal::new(
            Code::Internal,
            format!("the workspaces here cannot be listed: {e}"),
        )
    })?;
    let is_meant = |one: &&KeptSandbox| {
        one.profile == *profile && workspace.sandbox.as_ref().is_none_or(|name| one.name == *name)
    };
    // Of several of a name it is in one: of its own user and backend.
    let is_here = |one: &&KeptSandbox| is_meant(one) && place.user == (one.uid, one.backend);
    let cloned = all.iter().find(is_here).and_then(|one| one.git.as_ref());
    if let Some(clone) = clone {
        return Ok(match cloned {
            Some(was) => Order::Renew(Renew {
                was: was.commit.clone(),
                now: clone,
            }),
            None => Order::Lack("nothing was cloned into the workspace; clone into it first".to_owned()),
        });
    }
    if let Some(diff) = &workspace.diff {
        let against = diff.against.clone().or_else(|| Some(cloned?.commit.clone()));
        let Some(against) = against else {
            let why = "nothing was cloned into the workspace; name the commit to compare with";
            return Ok(Order::Lack(why.to_owned()));
        };
        return Ok(Order::Diff(Diff {
            at: place.workspace.clone(),
            against,
            ignored: diff.ignored,
            max_bytes: diff.max_bytes,
        }));
    }
    // Who looks without saying whose sees everybody's.
    let is_asked_for = |one: &&KeptSandbox| match workspace.terms {
        Some(_) => is_meant(one) && one.uid == place.user.0,
        None => is_meant(one),
    };
    let found: Vec<String> = all.iter().filter(is_asked_for).map(line).collect();
    if workspace.operation == Operation::Show && found.is_empty() {
        let name = workspace.sandbox.as_ref().map_or("", Name::as_str);
        return Ok(Order::Lack(format!(
            "the profile {profile} has no workspace {name} here"
        )));
    }
    let text = found.concat();
    if text.len() > MOST {
        let why = "there are more workspaces than one answer holds; ask for one of them by its name";
        return Err(Refusal::new(Code::LimitExceeded, why));
    }
    Ok(Order::Say(text))
}

/// What brings a commit there.
pub(super) fn clone(git: &GitCommit, place: &Place<'_>) -> Clone {
    Clone {
        at: place.workspace.clone(),
        url: git.url.clone(),
        commit: git.commit.clone(),
        proxy: place.has_proxy.then(|| PROXY.to_owned()),
        authorities: place.authorities.clone(),
    }
}

fn line(one: &KeptSandbox) -> String {
    let value = json!({
        "name": one.name, "backend": one.backend.as_str(), "uid": one.uid, "made_at": one.made_at,
        "used_at": one.used_at, "until": one.until, "bytes": one.bytes, "counted": one.counted, "snapshots": one.snapshots,
        "held_by": one.held_by, "git": one.git,
    });
    format!("{value}\n")
}
