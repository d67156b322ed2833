//! What is started before a job's program, to its end: git, which brings a commit into the directory that the job gets.
//!
//! ```text
//!   plan.take_first() -> sandbox of git, with a way out to its host alone -> removed -> sandbox of the program
//! ```
//!
//! # Invariants
//! - The program is started only when the commit is there, whole, and nothing of git's sandbox any more.
//! - The credential is git's standard input and nobody else's.

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Exit, Outcome};
use lictor_proto::egress::Totals;
use lictor_sandbox::{CarryError, Cause, Ended, Plan, SecretFile, StdinSource};

use super::output::{Output, Part};
use super::{TIDY_WITHIN, finished, start, tidy};
use crate::receipt::End;
use crate::spool;

/// Why a job ended before its program was started.
pub(super) enum Cut {
    /// What comes before it could not be started, or removed.
    Unstarted(Outcome, Refusal),
    /// It came to another end than it should have.
    Ended(Box<Ended>, Option<Totals>),
}

impl Cut {
    /// As the end of the job. It has no exit: its program was never started.
    pub(super) fn end(self, output: spool::Ended, stopped: Option<Refusal>) -> End {
        let (ended, egress) = match self {
            Self::Unstarted(outcome, refusal) => {
                return End {
                    output: Some(output),
                    ..End::unstarted(outcome, refusal)
                };
            }
            Self::Ended(ended, egress) => (*ended, egress),
        };
        let end = finished(ended, output, stopped);
        let why = match (end.why, end.exit) {
            (None, Some(Exit::Status(status))) => {
                let code = CarryError::code_of(status).unwrap_or(Code::GitFailed);
                Some(code.into())
            }
            (why, _) => why.or_else(|| Some(Code::GitFailed.into())),
        };
        End {
            why,
            egress,
            exit: None,
            ..end
        }
    }
}

/// Does it; what it says is in the job's log, as standard error.
pub(super) async fn bring(
    first: Plan,
    credential: Option<SecretFile>,
    output: &Output,
) -> Result<Option<Totals>, Cut> {
    let stdin = credential.map_or(StdinSource::Null, StdinSource::Secret);
    let started = start((&output.core, &output.live), first, stdin).await;
    let (sandbox, running) = started.map_err(|(outcome, why)| Cut::Unstarted(outcome, why))?;
    // From here on it can be seen, and ended by whoever sees it.
    let _ = output.live.started_at.set(running.started_at());
    output.live.started(running.stop_switch());
    output.core.feeds.touch(output.job);
    let (ended, totals) = output.follow(running, Part::First).await;
    // The job gets the same directory, and by the same name.
    let removed = output
        .core
        .tasks
        .spawn(tidy(output.core.closing.clone(), sandbox));
    if tokio::time::timeout(TIDY_WITHIN, removed).await.is_err() {
        let why = "what has brought the commit could not be removed in time; submit the job again";
        return Err(Cut::Unstarted(
            Outcome::Failed,
            Refusal::new(Code::StartFailed, why),
        ));
    }
    match (ended.cause, ended.exit) {
        (Cause::Exited, Some(Exit::Status(0))) => Ok(totals),
        _ => Err(Cut::Ended(Box::new(ended), totals)),
    }
}

/// What both have done by their ways out.
pub(super) fn sum(first: Option<Totals>, last: Option<Totals>) -> Option<Totals> {
    let (Some(a), Some(b)) = (first, last) else {
        return first.or(last);
    };
    Some(Totals {
        allowed: a.allowed.saturating_add(b.allowed),
        denied: a.denied.saturating_add(b.denied),
        up: a.up.saturating_add(b.up),
        down: a.down.saturating_add(b.down),
    })
}
