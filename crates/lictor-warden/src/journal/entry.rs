//! The closed set of entries: everything that changes what the warden knows about its jobs.

use lictor_proto::agent::{LogRange, Wire};
use lictor_proto::doc::{Fired, UsedSandbox};
use lictor_proto::{Digest, Name, Timestamp};
use serde::{Deserialize, Serialize};

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// First entry of a rotated journal: what had been before.
    Base(Base),
    /// A job that was taken in the past and is over: all that is left of it, so that it never starts again.
    Seen {
        /// The job.
        job: Digest,
        /// When its validity ends.
        expires_at: Timestamp,
    },
    /// In a rotated journal: a job that is not over, as it stood.
    Open {
        /// The job.
        job: Digest,
        /// Whether it had been taken.
        seen: bool,
        /// How it stood.
        open: Box<super::state::Job>,
    },
    /// Policy wants approvals; the job waits for them.
    Waiting {
        /// The job.
        job: Digest,
        /// The signed job, as it came.
        envelope: Wire,
        /// When its validity ends.
        expires_at: Timestamp,
        /// The node's signed ask.
        ask: Wire,
        /// Signed approvals so far.
        approvals: Vec<Wire>,
    },
    /// A job was decided for good: it starts now, or its receipt follows in the same step. Never twice.
    Taken {
        /// The job.
        job: Digest,
        /// The signed job, as it came.
        envelope: Wire,
        /// When its validity ends.
        expires_at: Timestamp,
        /// The decision; of a firing it names the schedule, which is past that time from now on.
        decision: Box<Decision>,
    },
    /// A schedule is kept here from now on, and fired by the node itself.
    Standing {
        /// The schedule.
        job: Digest,
        /// The signed schedule, as it came.
        envelope: Wire,
        /// When it ends.
        expires_at: Timestamp,
        /// When it was taken.
        at: Timestamp,
        /// The last of its times that are over: it fires after this.
        past: Timestamp,
        /// The signed secrets that it uses, still sealed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<Wire>,
    },
    /// Times of a schedule up to this one are over, and were not fired.
    Passed {
        /// The schedule, and the last of these times.
        last: Fired,
    },
    /// Its process runs. May be missing after a crash.
    Started {
        /// The job.
        job: Digest,
        /// When.
        at: Timestamp,
        /// The backend's handle, JSON.
        handle: String,
    },
    /// The hub has stored output up to here.
    OutputAcked {
        /// The job.
        job: Digest,
        /// Log position.
        upto: u64,
    },
    /// It ended; its receipt is signed.
    Finished {
        /// The job.
        job: Digest,
        /// The signed receipt.
        receipt: Wire,
        /// Its digest.
        digest: Digest,
        /// Its place in the node's chain.
        node_seq: u64,
        /// When it was signed.
        at: Timestamp,
        /// What is kept of the log.
        log: Log,
    },
    /// The hub has stored the result: it may go here.
    Acked {
        /// The job.
        job: Digest,
    },
    /// Nobody asked for the result in time: it was moved to the archive directory.
    Archived {
        /// The job.
        job: Digest,
    },
    /// Seen jobs that end at or before this were forgotten; such jobs are refused from now on.
    Pruned {
        /// Until when.
        until: Timestamp,
    },
}

/// What a rotated journal starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Number of receipts signed so far.
    pub receipts: u64,
    /// Digest of the last one.
    pub last_receipt: Option<Digest>,
    /// Number of audit records so far, all of them in the archive or in the closed journal.
    pub audit_seq: u64,
    /// Hash of the last one.
    pub audit_head: Digest,
    /// See [`Entry::Pruned`].
    pub pruned_until: Timestamp,
}

/// What was decided about a job, and under which law. The permit itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `permit`, `permit (break glass)`, `denied`, `canceled` or `expired`.
    pub text: String,
    /// The bundle's version.
    pub bundle_version: u64,
    /// Its digest.
    pub bundle_digest: Digest,
    /// The policies that decided, sorted.
    pub policy_ids: Vec<String>,
    /// Digests of the approvals that counted, sorted.
    pub approvals: Vec<Digest>,
    /// Whether a break-glass group turned an ask into a permit.
    pub break_glass: bool,
    /// The firing that it is about, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<Fired>,
    /// Digest of the facts.
    pub facts_digest: Option<Digest>,
    /// The profile's name.
    pub profile: Name,
    /// The backend's name; `null` when nothing is to be started.
    pub backend: Option<String>,
    /// Who makes its container, where several could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The manifest of the image that is its root, where the profile names an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Digest>,
    /// What the backend enforces.
    pub capabilities: Vec<String>,
    /// Digest of the plan.
    pub plan_digest: Option<Digest>,
    /// The kept sandbox that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<UsedSandbox>,
}

/// What is kept of an execution's log, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Length of the whole log.
    pub end: u64,
    /// Standard output bytes of all of it.
    pub stdout_bytes: u64,
    /// Standard error bytes of all of it.
    pub stderr_bytes: u64,
    /// The kept parts, in order.
    pub kept: Vec<Kept>,
    /// All of it, when it is small; the spool has no file then.
    #[serde(with = "lictor_proto::json::base64_bytes")]
    pub inline: Vec<u8>,
}

/// A kept part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// First log position.
    pub from: u64,
    /// Position after the last byte.
    pub to: u64,
    /// Standard output bytes before it.
    pub stdout_at: u64,
    /// Standard error bytes before it.
    pub stderr_at: u64,
}

impl Log {
    /// The kept parts as the hub is told.
    #[must_use]
    pub fn ranges(&self) -> Vec<LogRange> {
        self.kept
            .iter()
            .map(|k| LogRange {
                from: k.from,
                to: k.to,
                stdout_at: k.stdout_at,
                stderr_at: k.stderr_at,
            })
            .collect()
    }
}
