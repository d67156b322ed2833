//! The last line of `lictor run --json`: how it ended. These names are kept.

use lictor_client::{Confirmed, Unconfirmed};
use lictor_proto::doc::{Artifact, Exit, LimitHit, Outcome, UsedSandbox};
use lictor_proto::egress::Totals;
use lictor_proto::{Code, JobId, Timestamp};
use serde::Serialize;

use crate::commands::watch::missing_receipts;
use crate::failure::Failure;

/// The result of one execution. What is unknown is `null`.
#[derive(Debug, Serialize)]
pub(crate) struct ResultLine {
    /// `result`.
    pub(crate) event: &'static str,
    /// `succeeded`, `failed`, `timed_out`, `canceled`, `denied`, `interrupted`, `expired`; or `unconfirmed`; or `not_brought`, when
    /// its receipt says that it succeeded and this machine could not keep what came.
    pub(crate) status: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
    pub(crate) stdout_truncated: bool,
    pub(crate) stderr_truncated: bool,
    /// Bytes of output that the process wrote and that were not shown; `null` when nobody knows.
    pub(crate) unseen_bytes: Option<u64>,
    /// Bytes of output that were shown and that no signature covers.
    pub(crate) unproven_bytes: u64,
    pub(crate) cpu_user_us: Option<u64>,
    pub(crate) cpu_system_us: Option<u64>,
    pub(crate) max_rss_bytes: Option<u64>,
    /// The most memory that all its processes had together; `null` where the node cannot tell.
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    /// Limits that made a difference: `wall_time`, `output`, `memory`, `pids`, `cpu`, `disk`; `null` when nobody knows.
    pub(crate) limits_hit: Option<Vec<LimitHit>>,
    /// Files that it put on the node, or what it brought (`path`, `size`, `sha256`); `null` when nobody knows.
    pub(crate) artifacts: Option<Vec<Artifact>>,
    /// The backend that it really ran in.
    pub(crate) sandbox: Option<String>,
    /// Who made its container, where several could have: by its name in `container_engine`.
    pub(crate) engine: Option<String>,
    /// What it did through the egress proxy (`allowed`, `denied`, bytes `up` and `down`); `null` without a way out.
    pub(crate) egress: Option<Totals>,
    /// The kept sandbox that it worked in (`name`, `made_at`, `new`); `null` without one.
    pub(crate) kept_sandbox: Option<UsedSandbox>,
    /// `allow`, `deny`, or `null` when policy decided nothing, or nobody knows.
    pub(crate) decision: Option<&'static str>,
    /// The policies that decided.
    pub(crate) rules: Vec<String>,
    pub(crate) job_id: JobId,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// Whether a receipt that verifies says all this.
    pub(crate) confirmed: bool,
    /// How many receipts of this node before this one were never seen here; `null` when there is none.
    pub(crate) receipts_missing: Option<u64>,
    pub(crate) code: Option<Code>,
    pub(crate) message: String,
}

impl ResultLine {
    /// From a receipt that holds.
    pub(crate) fn confirmed(job_id: JobId, confirmed: &Confirmed) -> Self {
        let r = confirmed.receipt.doc();
        let (exit_code, signal) = match r.exit {
            Some(Exit::Status(n)) => (Some(n), None),
            Some(Exit::Signal(n)) => (None, Some(n)),
            None => (None, None),
        };
        Self {
            event: "result",
            status: word(r.outcome).to_owned(),
            exit_code,
            signal,
            stdout_bytes: r.stdout.bytes,
            stderr_bytes: r.stderr.bytes,
            stdout_truncated: r.stdout.truncated(),
            stderr_truncated: r.stderr.truncated(),
            unseen_bytes: Some(confirmed.unseen),
            unproven_bytes: 0,
            cpu_user_us: r.usage.map(|u| u.cpu_user_us),
            cpu_system_us: r.usage.map(|u| u.cpu_system_us),
            max_rss_bytes: r.usage.map(|u| u.max_rss_bytes),
            memory_peak_bytes: r.usage.and_then(|u| u.memory_peak_bytes),
            read_bytes: r.usage.and_then(|u| u.read_bytes),
            written_bytes: r.usage.and_then(|u| u.written_bytes),
            limits_hit: Some(r.limits_hit.clone()),
            artifacts: Some(r.artifacts.clone()),
            sandbox: r.backend.as_ref().map(|b| b.name.clone()),
            engine: r.backend.as_ref().and_then(|b| b.engine.clone()),
            egress: r.egress,
            kept_sandbox: r.sandbox.clone(),
            decision: decision(r.outcome, r.started_at.is_some() || r.plan_digest.is_some()),
            rules: r.policy_ids.clone(),
            job_id,
            started_at: r.started_at,
            finished_at: Some(r.finished_at),
            confirmed: true,
            receipts_missing: Some(missing_receipts(confirmed.noted)),
            code: r.code,
            message: r.message.clone(),
        }
    }

    /// What it becomes when the node did its part and nothing of it is here.
    pub(crate) fn not_brought(self, failure: &Failure) -> Self {
        Self {
            status: "not_brought".to_owned(),
            confirmed: false,
            code: failure.code_of(),
            message: failure.in_a_line(),
            ..self
        }
    }

    /// When nothing proves how it ended; the counts are of what was seen.
    pub(crate) fn unconfirmed(job_id: JobId, why: &Unconfirmed, (stdout, stderr): (u64, u64)) -> Self {
        Self {
            event: "result",
            status: "unconfirmed".to_owned(),
            exit_code: None,
            signal: None,
            stdout_bytes: stdout,
            stderr_bytes: stderr,
            stdout_truncated: false,
            stderr_truncated: false,
            unseen_bytes: why.doubt.map(|d| d.unseen),
            unproven_bytes: why.doubt.map_or(stdout + stderr, |d| d.unproven),
            cpu_user_us: None,
            cpu_system_us: None,
            max_rss_bytes: None,
            memory_peak_bytes: None,
            read_bytes: None,
            written_bytes: None,
            limits_hit: None,
            artifacts: None,
            sandbox: None,
            engine: None,
            egress: None,
            kept_sandbox: None,
            decision: None,
            rules: Vec::new(),
            job_id,
            started_at: None,
            finished_at: None,
            confirmed: false,
            receipts_missing: None,
            code: Some(why.refusal.code),
            message: why.refusal.message.clone(),
        }
    }
}

/// What policy decided, as far as the receipt shows it; `begun` when there was at least a plan.
fn decision(outcome: Outcome, begun: bool) -> Option<&'static str> {
    match outcome {
        Outcome::Denied => Some("deny"),
        Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut => Some("allow"),
        // It may have ended while it waited for approval, or for its turn.
        Outcome::Canceled | Outcome::Interrupted | Outcome::Expired => begun.then_some("allow"),
    }
}

/// The word for an outcome.
pub(crate) fn word(outcome: Outcome) -> &'static str {
    lictor_proto::api::ExecutionState::from(outcome).as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_began_was_not_allowed() {
        for outcome in [Outcome::Canceled, Outcome::Interrupted, Outcome::Expired] {
            assert_eq!(decision(outcome, false), None, "{outcome:?}");
            assert_eq!(decision(outcome, true), Some("allow"), "{outcome:?}");
        }
        assert_eq!(decision(Outcome::Denied, false), Some("deny"));
        assert_eq!(decision(Outcome::Failed, false), Some("allow"));
    }
}
