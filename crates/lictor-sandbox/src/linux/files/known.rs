//! What a node knows of a profile's workspaces, as the lines that a job which looks at them writes.
//!
//! It is read from what the agent itself has written, never from a workspace.

use std::path::Path;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Operation, Workspace};
use lictor_proto::{Code, Name};
use serde_json::json;

use super::Order;
use crate::kept::{KeptSandbox, KeptSandboxes};

/// Bytes that fit into one argument of a process, with room for what is around them.
const MOST: usize = 96 * 1024;

/// What the process of such a job does. One that changes something has its work done once it has ended.
pub(super) fn order(workspace: &Workspace, (profile, dir): (&Name, &Path)) -> Result<Order, Refusal> {
    if !workspace.operation.looks() {
        return Ok(Order::Say(String::new()));
    }
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
    let found: Vec<String> = all.iter().filter(is_meant).map(line).collect();
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

fn line(one: &KeptSandbox) -> String {
    let value = json!({
        "name": one.name, "backend": one.backend.as_str(), "uid": one.uid, "made_at": one.made_at,
        "used_at": one.used_at, "until": one.until, "bytes": one.bytes, "snapshots": one.snapshots,
        "held_by": one.held_by,
    });
    format!("{value}\n")
}
