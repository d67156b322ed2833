//! What is done with a workspace as a whole, once the process of the job has ended and before anybody else can have it.

use std::io::{Error, ErrorKind};

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Artifact, Exit, Job, LimitHit, Operation, Outcome, Spec};
use lictor_sandbox::{CarryError, Sandbox};

use crate::receipt::End;

/// The end of such a job, after its work; that of any other as it is.
pub(super) async fn done(job: &Job, sandbox: &dyn Sandbox, end: End) -> End {
    let Spec::Workspace(workspace) = &job.spec else {
        return end;
    };
    // The process cleans up after itself, unless it was ended.
    if workspace.operation == Operation::Clone
        && end.outcome != Outcome::Succeeded
        && let Some(kept) = sandbox.snapshots()
        && let Err(e) = kept.clear().await
    {
        tracing::warn!(error = %e, "what a clone has left in its workspace was not removed");
    }
    match (end.outcome, end.exit) {
        (Outcome::Succeeded, _) => {}
        (Outcome::Failed, Some(Exit::Status(status))) => {
            let why = CarryError::code_of(status).unwrap_or(Code::TransferFailed);
            return failed(end, why.into());
        }
        _ => return end,
    }
    let name = workspace.snapshot.as_ref();
    let worked = match (workspace.operation, sandbox.snapshots(), name) {
        (Operation::List | Operation::Show, _, _) => Ok(()),
        (Operation::Diff, _, _) => return whole(end),
        (Operation::Clone | Operation::Fetch, Some(kept), _) => {
            workspace.git.iter().for_each(|git| kept.cloned(git));
            Ok(())
        }
        (Operation::Snapshot, Some(kept), Some(name)) => kept.snapshot(name).await,
        (Operation::Restore, Some(kept), Some(name)) => kept.restore(name).await,
        (Operation::Remove, Some(kept), _) => kept.remove().await,
        (
            Operation::Clone
            | Operation::Fetch
            | Operation::Snapshot
            | Operation::Restore
            | Operation::Remove,
            _,
            _,
        ) => Err(ErrorKind::Unsupported.into()),
    };
    match worked {
        Ok(()) => end,
        Err(e) => failed(end, refusal(workspace.operation, &e)),
    }
}

/// A patch is worth nothing unless all of it was kept.
fn whole(end: End) -> End {
    let is_kept = !end.limits_hit.contains(&LimitHit::Output);
    let Some(stream) = end.output.as_ref().map(|o| &o.stdout).filter(|_| is_kept) else {
        return failed(end, Code::DiskFull.into());
    };
    let artifact = Artifact {
        path: "/workspace".to_owned(),
        size: stream.bytes,
        sha256: stream.sha256,
    };
    End {
        artifacts: vec![artifact],
        ..end
    }
}

fn refusal(operation: Operation, e: &Error) -> Refusal {
    let code = match e.kind() {
        ErrorKind::NotFound => Code::SandboxUnknown,
        ErrorKind::QuotaExceeded => Code::SandboxLimit,
        ErrorKind::StorageFull => Code::DiskFull,
        ErrorKind::ResourceBusy => Code::SandboxBusy,
        _ => Code::Internal,
    };
    let what = match operation {
        Operation::Restore if code == Code::SandboxUnknown => "there is no such snapshot".to_owned(),
        operation => format!("{} of the workspace: {e}", operation.as_str()),
    };
    Refusal::new(code, what)
}

fn failed(end: End, why: Refusal) -> End {
    End {
        outcome: Outcome::Failed,
        why: Some(why),
        ..end
    }
}
