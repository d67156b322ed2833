//! `lictor agent sandbox`: the kept sandboxes of a node, on the node itself.

use lictor_proto::Name;
use lictor_sandbox::{KeptError, KeptSandbox, KeptSandboxes};
use lictor_trust::profiles::size_in_words;
use serde_json::{Value, json};

use crate::args::{Sandbox, SandboxCommand};
use crate::commands::audit::node_in;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::{Out, table};

pub(crate) fn run(args: &Sandbox, out: Out) -> Result {
    let node = node_in(&args.dir)?;
    let all = KeptSandboxes::below(&lictor_warden::work_place(&args.dir, &node));
    match &args.command {
        SandboxCommand::Ls => list(&all, out)?,
        SandboxCommand::Rm { sandbox } => {
            let one = find(&all, sandbox)?;
            all.remove(&one).map_err(|e| failure("remove", sandbox, &e))?;
            done(&one, None, "removed", out)?;
        }
        SandboxCommand::Snapshot { sandbox, name } => {
            let one = find(&all, sandbox)?;
            let made = all.snapshot(&one, name);
            made.map_err(|e| failure("copy", sandbox, &e))?;
            done(&one, Some(name), "snapshot", out)?;
        }
        SandboxCommand::Restore { sandbox, name } => {
            let one = find(&all, sandbox)?;
            let restored = all.restore(&one, name);
            restored.map_err(|e| failure("restore", sandbox, &e))?;
            done(&one, Some(name), "restored", out)?;
        }
    }
    Ok(Status::OK)
}

fn find(all: &KeptSandboxes, wanted: &str) -> Result<KeptSandbox> {
    all.find(wanted).map_err(|e| failure("find", wanted, &e))
}

fn failure(what: &str, sandbox: &str, error: &KeptError) -> Failure {
    let failure = Failure::new(format!(
        "could not {what} the sandbox {}",
        crate::escape::escape(sandbox)
    ))
    .because(error)
    .code(error.code());
    match error {
        KeptError::Busy { .. } => failure.hint("Wait for the end of that job, or cancel it."),
        KeptError::Several { .. } => failure.hint("Name it by its key."),
        _ => failure,
    }
}

fn list(all: &KeptSandboxes, out: Out) -> Result<()> {
    let all = all.list().doing("list the kept sandboxes")?;
    let values: Vec<Value> = all.iter().map(describe).collect();
    out.either(&values, || {
        let head = [
            "name",
            "profile",
            "backend",
            "user",
            "holds",
            "last used",
            "until",
            "in use by",
            "snapshots",
            "key",
        ];
        let rows: Vec<_> = all.iter().map(row).collect();
        table(&head, &rows)
    })
}

fn describe(one: &KeptSandbox) -> Value {
    json!({
        "key": one.key, "name": one.name, "profile": one.profile, "backend": one.backend.as_str(), "uid": one.uid,
        "made_at": one.made_at, "used_at": one.used_at, "until": one.until, "bytes": one.bytes,
        "snapshots": one.snapshots, "held_by": one.held_by,
    })
}

fn row(one: &KeptSandbox) -> Vec<String> {
    let snapshots: Vec<&str> = one.snapshots.iter().map(Name::as_str).collect();
    vec![
        one.name.to_string(),
        one.profile.to_string(),
        one.backend.as_str().to_owned(),
        one.uid.to_string(),
        size_in_words(one.bytes),
        one.used_at.to_string(),
        one.until.to_string(),
        one.held_by
            .as_deref()
            .map_or_else(String::new, crate::escape::escape),
        snapshots.join(", "),
        one.key.clone(),
    ]
}

fn done(one: &KeptSandbox, snapshot: Option<&Name>, what: &str, out: Out) -> Result<()> {
    let value = json!({ "sandbox": one.name, "key": one.key, "snapshot": snapshot, "done": what });
    out.either(&value, || match snapshot {
        Some(name) => format!("{what} {name} of {}", one.name),
        None => format!("{what} {}", one.name),
    })
}
