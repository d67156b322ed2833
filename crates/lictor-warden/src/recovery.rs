//! After a crash: what the journal says was started and has no end gets one, and its processes with it.
//!
//! # Invariants
//! - Nothing that was taken is started again. What is left of it is ended, and its receipt says `interrupted`.
//! - Output is what was found of it, and the receipt speaks of exactly that. After a crash of the agent alone, that is
//!   everything which the job had written and the agent had read; a loss of power takes more (docs/decisions/0012).

use std::collections::BTreeSet;
use std::sync::Arc;

use lictor_proto::code::Refusal;
use lictor_proto::doc::Outcome;
use lictor_proto::{Code, Digest, JobId, Timestamp};

use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Decision;
use crate::journal::state::Phase;
use crate::receipt::End;
use crate::retry::Retry;
use crate::spool;

#[derive(Clone)]
struct Interrupted {
    job: Digest,
    decision: Decision,
    started: Option<(Timestamp, String)>,
}

/// Ends what an earlier process left unfinished, before anything new is taken.
pub(crate) async fn recover(core: &Arc<Core>) {
    let left: Vec<Interrupted> = {
        let state = core.journal.state();
        state
            .jobs()
            .filter_map(|(job, open)| match &open.phase {
                Phase::Taken { decision, started } => Some(Interrupted {
                    job: *job,
                    decision: Decision::clone(decision),
                    started: started.clone(),
                }),
                // A schedule only stands there: what it had fired has an entry of its own.
                Phase::Waiting { .. } | Phase::Standing { .. } | Phase::Finished { .. } => None,
            })
            .collect()
    };
    for interrupted in left {
        end(core, interrupted).await;
    }
    remove_strays(core);
}

async fn end(core: &Arc<Core>, left: Interrupted) {
    let swept = sweep(core, &left).await;
    if let Err(e) = swept {
        tracing::error!(job = %left.job, error = %e, "what was left of an interrupted job could not be removed");
        keep_away(core, &left);
    }
    let output = spool::recover(&core.spool_paths(&left.job)).unwrap_or_else(|e| {
        tracing::error!(job = %left.job, error = %e, "output of an interrupted job could not be read");
        spool::Ended::nothing()
    });
    let end = End {
        outcome: Outcome::Interrupted,
        why: Some(Refusal::plain(Code::Interrupted)),
        started_at: left.started.as_ref().map(|(at, _)| *at),
        finished_at: Timestamp::now(),
        exit: None,
        limits_hit: Vec::new(),
        usage: None,
        egress: None,
        output: Some(output),
        artifacts: Vec::new(),
    };
    let make = || Step {
        receipt: Some(core.issuer.draft(left.job, &left.decision, end.clone())),
        ..Step::default()
    };
    if let Err(e) = core.commit_surely(make).await {
        tracing::error!(job = %left.job, error = %e, "the journal refuses the end of an interrupted job");
    } else if let Some(output) = &end.output {
        core.spool_paths(&left.job).tidy(&output.log);
    }
}

/// Lets nobody into the kept sandbox of a job that could not be ended, until it could be.
fn keep_away(core: &Arc<Core>, left: &Interrupted) {
    let Some(hold) = lictor_sandbox::hold_kept(&core.work_dir(&left.job)) else {
        return;
    };
    let mut retry = Retry::until(&core.closing);
    let (own, left) = (core.clone(), left.clone());
    core.tasks.spawn(async move {
        let _hold = hold;
        while retry.again().await && sweep(&own, &left).await.is_err() {}
    });
}

/// Ends and removes what is left of one.
async fn sweep(core: &Core, left: &Interrupted) -> Result<(), String> {
    match (&left.started, &left.decision.backend) {
        (Some((_, handle)), _) => core.sandboxes.sweep(handle).await,
        // It may run all the same: its start is a note, and the agent may have gone before the note was written.
        (None, Some(backend)) => {
            let dir = core.work_dir(&left.job);
            core.sandboxes.sweep_unwritten(backend, &dir).await
        }
        (None, None) => Ok(()),
    }
}

/// Files in the spool and work directories that belong to no job of the journal.
fn remove_strays(core: &Core) {
    let open = core.open_jobs();
    let ids: BTreeSet<String> = open.iter().map(|d| JobId::from_digest(d).to_string()).collect();
    for entry in entries(&core.config.dir.join("spool")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stray = match name.split_once('.') {
            Some((id, "log")) => !ids.contains(id),
            Some((_, "tail")) => true,
            _ => false,
        };
        if stray && let Err(e) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), error = %e, "a stray file could not be removed");
        }
    }
    if let Err(e) = lictor_sandbox::remove_placeholders(core.work_place.path()) {
        tracing::warn!(error = %e, "something that was made for jobs of an earlier agent is left in what they were shown");
    }
    for entry in entries(core.work_place.path()) {
        if lictor_sandbox::is_kept_place(&entry.file_name()) {
            continue;
        }
        // Nothing runs yet: every job directory is a stray one, and so is a file beside them.
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let removed = match is_dir {
            true => lictor_sandbox::remove_job_dir(&entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
        if let Err(e) = removed {
            tracing::warn!(path = %entry.path().display(), error = %e, "a stray directory could not be removed");
        }
    }
}

fn entries(dir: &std::path::Path) -> Vec<std::fs::DirEntry> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().collect()
}
