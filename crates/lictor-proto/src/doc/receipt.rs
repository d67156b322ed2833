//! The node's signed statement of what it did with a job (TRUST.md section 7).

use serde::{Deserialize, Serialize};

use super::schedule::Fired;
use super::{DocKind, Document, Invalid, ensure, tag};
use crate::code::Code;
use crate::egress::Totals;
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::time::Timestamp;

tag!(ReceiptTag, "receipt");

/// The last word on one execution; there is exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// `receipt`.
    #[serde(rename = "type")]
    pub tag: ReceiptTag,
    /// The org.
    pub org: OrgId,
    /// The node; the signing key is its identity key.
    pub node_id: NodeId,
    /// The job.
    pub job_digest: Digest,
    /// The schedule and the time that it was fired for, whose digest `job_digest` is then; absent for a job that was signed
    /// by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<Fired>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it did not simply run to its end; `null` otherwise.
    pub code: Option<Code>,
    /// One sentence for people, escaped; empty when `code` is `null`.
    pub message: String,
    /// The law it was judged by.
    pub bundle_version: u64,
    /// Its digest.
    pub bundle_digest: Digest,
    /// The policies that decided, sorted.
    pub policy_ids: Vec<String>,
    /// Digests of the approvals that counted, sorted.
    pub approvals: Vec<Digest>,
    /// Whether a break-glass group turned an ask into a permit.
    pub break_glass: bool,
    /// Digest of the facts; `null` when it was refused before there were any.
    pub facts_digest: Option<Digest>,
    /// The profile's name.
    pub profile: Name,
    /// What was really applied; `null` when nothing was started.
    pub backend: Option<AppliedBackend>,
    /// Digest of the plan; `null` when there was none.
    pub plan_digest: Option<Digest>,
    /// When the process was started; `null` when none was.
    pub started_at: Option<Timestamp>,
    /// When the execution ended.
    pub finished_at: Timestamp,
    /// How the process ended; `null` when none was started or its end was not seen.
    pub exit: Option<Exit>,
    /// Limits that ended or cut something.
    pub limits_hit: Vec<LimitHit>,
    /// What it used; `null` when nothing was started or it was not seen.
    pub usage: Option<Usage>,
    /// Standard output.
    pub stdout: StreamSummary,
    /// Standard error.
    pub stderr: StreamSummary,
    /// What it did through the egress proxy, as the node's audit log has it; absent where it had no way out, or its end was
    /// not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Totals>,
    /// The kept sandbox that it worked in; absent where it named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<UsedSandbox>,
    /// Files that it has put on the node or brought from it, as far as they are whole.
    pub artifacts: Vec<Artifact>,
    /// This node's count of receipts, from 1, without gaps.
    pub node_seq: u64,
    /// Digest of this node's receipt before; `null` for its first.
    pub prev: Option<Digest>,
    /// Head of this node's audit log before this receipt.
    pub audit_head: Digest,
    /// The agent that wrote it.
    pub agent_version: String,
}

/// A file that a job has put on the node, or what it has brought from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The path on the node.
    pub path: String,
    /// Bytes: of the file; of what was brought those of standard output, which it is in.
    pub size: u64,
    /// SHA-256 of these.
    pub sha256: Digest,
}

/// A kept sandbox, as a job found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedSandbox {
    /// What it is called.
    pub name: Name,
    /// When it was made, by the node's clock.
    pub made_at: Timestamp,
    /// Whether it was made for this job, so that nothing was in it.
    pub new: bool,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit status 0.
    Succeeded,
    /// Another exit status, a signal, or it could not be started.
    Failed,
    /// Its wall time was up.
    TimedOut,
    /// A signed cancel ended it.
    Canceled,
    /// Policy, or a rule of the trust documents, said no.
    Denied,
    /// The agent or the machine went down while it ran.
    Interrupted,
    /// It was not started while it was valid.
    Expired,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Exit status.
    Status(i32),
    /// Signal number.
    Signal(i32),
}

/// Which sandbox it really ran in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedBackend {
    /// `host`, `bubblewrap`, ...
    pub name: String,
    /// Who made its container, where several could have: by its name in `container_engine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The capabilities that were in force, sorted: `pid_namespace`, `no_network`, `seccomp`, ...
    pub capabilities: Vec<String>,
    /// The manifest of the image that was its root file system, where the profile names an index of images; absent where the
    /// profile says which by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Digest>,
}

/// A limit that made a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitHit {
    /// Wall time.
    WallTime,
    /// Output beyond what is kept.
    Output,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
    /// CPU time.
    Cpu,
    /// Bytes or files of its own places, which were full at the end.
    Disk,
}

/// Resources used by the whole process tree, measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Microseconds of CPU in user mode.
    pub cpu_user_us: u64,
    /// Microseconds of CPU in the kernel.
    pub cpu_system_us: u64,
    /// Largest resident set of one process of the tree, in bytes.
    pub max_rss_bytes: u64,
    /// Bytes read from storage; `null` where the host doesn't say.
    pub read_bytes: Option<u64>,
    /// Bytes written to storage; `null` where the host doesn't say.
    pub written_bytes: Option<u64>,
    /// The most memory that the whole tree had at once, in bytes; absent where the host doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
}

/// One output stream, all of it, and what was kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSummary {
    /// Bytes written by the process.
    pub bytes: u64,
    /// SHA-256 of all of them.
    pub sha256: Digest,
    /// The ranges that were kept, in order; one that covers everything when nothing was dropped.
    pub kept: Vec<KeptRange>,
}

/// A kept part of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptRange {
    /// Offset of its first byte.
    pub from: u64,
    /// Offset after its last byte.
    pub to: u64,
    /// SHA-256 of the range.
    pub sha256: Digest,
}

impl StreamSummary {
    /// A stream that nothing was written to.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bytes: 0,
            sha256: Digest::of(b""),
            kept: Vec::new(),
        }
    }

    /// Whether some of it was not kept.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.kept.iter().map(|r| r.to.saturating_sub(r.from)).sum::<u64>() < self.bytes
    }
}

impl Document for Receipt {
    const KIND: DocKind = DocKind::Receipt;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.node_seq >= 1, || Invalid::field("node_seq", "starts at 1"))?;
        ensure(self.prev.is_none() == (self.node_seq == 1), || {
            Invalid::field("prev", "null in a node's first receipt only")
        })?;
        ensure(
            self.fired.is_none_or(|fired| fired.digest() == self.job_digest),
            || Invalid::field("fired", "is not what job_digest is made of"),
        )?;
        for stream in [&self.stdout, &self.stderr] {
            let ordered = stream.kept.iter().all(|r| r.from < r.to && r.to <= stream.bytes)
                && stream.kept.is_sorted_by(|a, b| a.to <= b.from);
            ensure(ordered, || {
                Invalid::field("stdout", "kept ranges are in order and inside the stream")
            })?;
        }
        ensure(
            self.outcome != Outcome::Succeeded || self.exit == Some(Exit::Status(0)),
            || Invalid::field("outcome", "succeeded means exit status 0"),
        )
    }
}
