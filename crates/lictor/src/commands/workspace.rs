//! `lictor workspace`: what a node keeps by name between jobs, seen and changed from here, by signed jobs.

use std::fs::File;
use std::io::{Read as _, Seek as _};

use lictor_client::{JobOptions, Signer};
use lictor_proto::doc::{Operation, Stdin, Workspace};
use lictor_trust::profiles::size_in_words;
use serde_json::{Value, json};

use crate::args::{Targets, WorkspaceCommand, Workspaces};
use crate::commands::bring::Asked;
use crate::commands::choice;
use crate::commands::watch::Inlet;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::table;
use crate::session::Session;

/// Bytes that are read of a list.
const LIST: u64 = 1 << 20;

pub(crate) async fn run(session: &Session, args: &Workspaces) -> Result {
    let (node, work) = work(args);
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let choice = choice::nodes(session, &mut store, &hub, &Targets::of(node)?).await?;
    let [node] = choice.nodes.as_slice() else {
        return Err(Failure::new("a workspace is on one node").hint("Name one node."));
    };
    let key = session.key(args.terms.key.as_ref())?;
    let options = JobOptions {
        nodes: vec![node.id().clone()],
        profile: args.terms.profile.clone(),
        stdin: Stdin::NONE,
        reason: args.terms.reason.clone(),
        valid: args.terms.valid,
        retry_of: None,
        expect: choice.expect.clone(),
        secrets: Vec::new(),
    };
    let operation = work.operation;
    let job = Signer::new(store.trust(), &session.config.operator, &key)
        .job(work, options)
        .map_err(|r| Failure::refused("could not sign the job", &r))?;
    let asked = Asked {
        session,
        hub: &hub,
        store: &store,
        node,
        key: &key,
    };
    let mut answer = session.scratch().doing("make a file for the answer")?;
    let inlet = Inlet::new(&answer, LIST);
    let status = asked.bring(&job, &inlet).await?;
    if status == Status::OK && operation.looks() {
        tell(session, &mut answer)?;
    }
    Ok(status)
}

/// The node and what is asked of it.
fn work(args: &Workspaces) -> (&str, Workspace) {
    let (operation, node, name, snapshot) = match &args.command {
        WorkspaceCommand::Ls { node } => (Operation::List, node, None, None),
        WorkspaceCommand::Show { one } => (Operation::Show, &one.node, Some(&one.name), None),
        WorkspaceCommand::Snapshot { one, snapshot } => {
            (Operation::Snapshot, &one.node, Some(&one.name), Some(snapshot))
        }
        WorkspaceCommand::Restore { one, snapshot } => {
            (Operation::Restore, &one.node, Some(&one.name), Some(snapshot))
        }
        WorkspaceCommand::Rm { one } => (Operation::Remove, &one.node, Some(&one.name), None),
    };
    let timeout = args.terms.timeout;
    let work = Workspace {
        snapshot: snapshot.cloned(),
        timeout_ms: timeout.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        ..Workspace::new(operation, name.cloned())
    };
    (node, work)
}

/// What the node has signed that it knows.
fn tell(session: &Session, answer: &mut File) -> Result<()> {
    let mut text = String::new();
    answer.rewind().doing("read the answer")?;
    answer.read_to_string(&mut text).doing("read the answer")?;
    let all: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Failure::new("the node's answer cannot be read").because(&e))?;
    let line = json!({ "event": "workspaces", "workspaces": all });
    session.out.either(&line, || {
        let head = [
            "name",
            "backend",
            "user",
            "holds",
            "last used",
            "until",
            "in use by",
            "snapshots",
        ];
        let rows: Vec<_> = all.iter().map(row).collect();
        table(&head, &rows)
    })
}

fn row(one: &Value) -> Vec<String> {
    let word = |key: &str| escape(one[key].as_str().unwrap_or_default());
    let snapshots = one["snapshots"].as_array().into_iter().flatten();
    let snapshots: Vec<_> = snapshots.filter_map(Value::as_str).map(escape).collect();
    vec![
        word("name"),
        word("backend"),
        one["uid"].to_string(),
        size_in_words(one["bytes"].as_u64().unwrap_or_default()),
        word("used_at"),
        word("until"),
        word("held_by"),
        snapshots.join(", "),
    ]
}
