//! What the end of a job means that has carried files: its status as a code, and what has been carried.

use lictor_proto::Code;
use lictor_proto::doc::{Artifact, Exit, Job, LimitHit, Outcome, Spec};
use lictor_sandbox::CarryError;

use crate::receipt::End;

/// The end of such a job; that of any other as it is.
pub(super) fn carried(job: &Job, end: End) -> End {
    let artifact = match &job.spec {
        Spec::Exec(_) | Spec::Script(_) | Spec::Workspace(_) => return end,
        Spec::Fetch(fetch) => Artifact {
            path: fetch.to.clone(),
            size: fetch.size,
            sha256: fetch.sha256,
        },
        Spec::Collect(collect) => {
            let stream = end.output.as_ref().map(|o| &o.stdout);
            let Some(stream) = stream else { return end };
            Artifact {
                path: collect.from.clone(),
                size: stream.bytes,
                sha256: stream.sha256,
            }
        }
    };
    match (end.outcome, end.exit) {
        (Outcome::Succeeded, _) => whole(job, end, artifact),
        (Outcome::Failed, Some(Exit::Status(status))) => {
            let why = CarryError::code_of(status).unwrap_or(Code::TransferFailed);
            failed(end, why)
        }
        (Outcome::Failed, _) => failed(end, Code::TransferFailed),
        _ => end,
    }
}

/// What was read is worth nothing unless all of it was kept.
fn whole(job: &Job, end: End, artifact: Artifact) -> End {
    let is_kept = !end.limits_hit.contains(&LimitHit::Output);
    if matches!(job.spec, Spec::Collect(_)) && !is_kept {
        let end = failed(end, Code::DiskFull);
        return End {
            outcome: Outcome::Failed,
            ..end
        };
    }
    End {
        artifacts: vec![artifact],
        ..end
    }
}

fn failed(end: End, why: Code) -> End {
    End {
        why: Some(why.into()),
        ..end
    }
}
