//! `lictor workspace`: what a node keeps by name between jobs, seen and changed from here, by signed jobs.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use lictor_client::{JobOptions, Signer};
use lictor_proto::Name;
use lictor_proto::doc::{Delivery, DiffTerms, GitCommit, Operation, Terms, Workspace};
use lictor_trust::profiles::size_in_words;
use serde_json::{Value, json};

use crate::args::{Bring, Targets, UsedSecret, WorkspaceCommand, Workspaces};
use crate::commands::bring::Asked;
use crate::commands::choice;
use crate::commands::watch::FileInlet;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::table;
use crate::session::Session;

/// Bytes that are read of a list.
const LIST: u64 = 1 << 20;
/// Bytes of a patch that is shown.
const INLINE: u64 = 1 << 20;
/// And of one that goes into a file.
const WHOLE: u64 = 1 << 30;

pub(crate) async fn run(session: &Session, args: &Workspaces) -> Result {
    let (node, work) = work(args);
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let choice = choice::nodes(session, &mut store, &hub, &Targets::of(node)?).await?;
    let [node] = choice.nodes.as_slice() else {
        return Err(Failure::new("a workspace is on one node").hint("Name one node."));
    };
    let key = session.key(args.terms.key.as_ref())?;
    let credential = credential(&args.command);
    let options = JobOptions {
        secrets: super::secrets::uses(session, (&hub, &store), &credential, &choice.nodes).await?,
        ..choice.job(&args.terms.profile, args.terms.valid, &args.terms.reason)
    };
    let most = work.diff.as_ref().map_or(LIST, |diff| diff.max_bytes);
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
    let inlet = FileInlet::new(&answer, most);
    let status = asked.bring(&job, &inlet).await?;
    if status != Status::OK {
        return Ok(status);
    }
    match &args.command {
        WorkspaceCommand::Ls { .. } | WorkspaceCommand::Show { .. } => tell(session, &mut answer)?,
        WorkspaceCommand::Diff { to, .. } => hand_over(session, &mut answer, to.as_deref())?,
        _ => {}
    }
    Ok(status)
}

/// The node and what is asked of it.
fn work(args: &Workspaces) -> (&str, Workspace) {
    use WorkspaceCommand as Command;
    let of = |operation, one: &crate::args::Workspace| Workspace::new(operation, Some(one.name.clone()));
    let (node, work) = match &args.command {
        Command::Ls { node } => (node, Workspace::new(Operation::List, None)),
        Command::Show { one } => (&one.node, of(Operation::Show, one)),
        Command::Clone(bring) => (&bring.one.node, brings(bring, Operation::Clone)),
        Command::Fetch(bring) => (&bring.one.node, brings(bring, Operation::Fetch)),
        Command::Diff {
            one,
            to,
            ignored,
            against,
        } => {
            let terms = DiffTerms {
                max_bytes: if to.is_some() { WHOLE } else { INLINE },
                ignored: *ignored,
                against: against.clone(),
            };
            let work = Workspace {
                diff: Some(terms),
                ..of(Operation::Diff, one)
            };
            (&one.node, work)
        }
        Command::Snapshot { one, snapshot } => (&one.node, with(snapshot, of(Operation::Snapshot, one))),
        Command::Restore { one, snapshot } => (&one.node, with(snapshot, of(Operation::Restore, one))),
        Command::Rm { one } => (&one.node, of(Operation::Remove, one)),
    };
    let timeout = args.terms.timeout;
    let timeout_ms = timeout.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let terms = Terms {
        user: args.terms.user.clone(),
        group: args.terms.group.clone(),
        ..Terms::default()
    };
    let terms = (!terms.is_empty()).then_some(terms);
    let work = Workspace {
        timeout_ms,
        terms,
        ..work
    };
    (node, work)
}

fn brings(bring: &Bring, operation: Operation) -> Workspace {
    Workspace {
        git: Some(GitCommit {
            url: bring.url.clone(),
            commit: bring.commit.clone(),
        }),
        ..Workspace::new(operation, Some(bring.one.name.clone()))
    }
}

fn with(snapshot: &Name, work: Workspace) -> Workspace {
    Workspace {
        snapshot: Some(snapshot.clone()),
        ..work
    }
}

/// The secret that a clone shows to its host.
fn credential(command: &WorkspaceCommand) -> Vec<UsedSecret> {
    let name = match command {
        WorkspaceCommand::Clone(bring) | WorkspaceCommand::Fetch(bring) => bring.credential.clone(),
        _ => None,
    };
    let used = name.map(|name| UsedSecret {
        name,
        delivery: Delivery::Stdin,
    });
    used.into_iter().collect()
}

/// A patch that the node has signed, to where it was wanted.
fn hand_over(session: &Session, answer: &mut File, to: Option<&Path>) -> Result<()> {
    answer.rewind().doing("read the patch")?;
    let Some(to) = to else {
        let mut out = std::io::stdout().lock();
        let written = std::io::copy(answer, &mut out).and_then(|_| out.flush());
        return written.doing("write to standard output");
    };
    let doing = || format!("write {}", to.display());
    let mut file = File::create_new(to).doing(doing())?;
    let bytes = std::io::copy(answer, &mut file).doing(doing())?;
    file.sync_all().doing(doing())?;
    let line = json!({ "event": "patch", "to": to.to_string_lossy(), "bytes": bytes });
    session
        .out
        .either(&line, || format!("{bytes} bytes: {}", to.display()))
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
            "commit",
        ];
        let rows: Vec<_> = all.iter().map(row).collect();
        table(&head, &rows)
    })
}

/// What could not be counted may be anything up to that.
fn held(one: &Value) -> String {
    let size = size_in_words(one["bytes"].as_u64().unwrap_or_default());
    match one["counted"].as_bool() {
        Some(false) => format!("{size} (not counted)"),
        _ => size,
    }
}

fn row(one: &Value) -> Vec<String> {
    let word = |key: &str| escape(one[key].as_str().unwrap_or_default());
    let snapshots = one["snapshots"].as_array().into_iter().flatten();
    let snapshots: Vec<_> = snapshots.filter_map(Value::as_str).map(escape).collect();
    vec![
        word("name"),
        word("backend"),
        one["uid"].to_string(),
        held(one),
        word("used_at"),
        word("until"),
        word("held_by"),
        snapshots.join(", "),
        escape(one["git"]["commit"].as_str().unwrap_or_default()),
    ]
}
