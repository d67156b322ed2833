//! What the hub keeps: orgs, law, nodes, jobs, executions, documents, log index, tokens, audit.
//!
//! [`Store`] is the seam where another database joins: `app` sees these traits and row types, never SQL. Each
//! mutating method is one step: its rows and its audit record commit together or not at all, and it returns
//! after the commit.
//!
//! # Invariants
//! - Every method that reads or changes what an org owns takes the org, and finds nothing of another's.
//! - A [`Durability::Synced`] step has survived a power loss when it returns, and so has every step before it.

mod contract;
pub(crate) mod named;
mod notices;
mod pages;
mod retained;
mod rollouts;
pub mod sqlite;

use bytes::Bytes;
use lictor_proto::agent::{Heartbeat, Wire};
use lictor_proto::api::{ExecutionState, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{NodeKind, Origin};
use lictor_proto::{Code, Digest, JobId, Name, NodeId, OrgId, Timestamp};

pub use contract::{Executions, Grants, Jobs, Leases, Logs, Nodes, Orgs, Secrets, Store, Tokens, Trail};
pub use notices::{Busy, DueNotice, Notice, Notices, NotifyTarget, QuietNode, Tested};
pub use pages::{JobCursor, JobFilter, JobPage, Listed, PAGE_BYTES};
pub use retained::{Depth, Followed, Forgotten, Keep, Quarantined, Retained};
pub use rollouts::{RolloutRow, Rollouts, Turn};

type Result<T> = std::result::Result<T, StoreError>;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("database")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds something that no version ever wrote.
    #[error("corrupt row: {0}")]
    Corrupt(String),
    /// The writer has ended: the hub is shutting down.
    #[error("the store is closed")]
    Closed,
    /// The step was part of a batch that could not commit.
    #[error("the transaction failed: {0}")]
    Aborted(String),
}

/// What a returned step has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// A crash of the hub, not a power loss.
    Relaxed,
    /// A power loss.
    Synced,
}

/// Whether something was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New,
    /// The same was there.
    Same,
}

/// A document of law.
#[derive(Debug, Clone)]
pub struct LawRow {
    /// `root`, `bundle`, `freshness` or `revocation`.
    pub kind: &'static str,
    /// Its digest.
    pub digest: Digest,
    /// Root or bundle version, or when a freshness statement was issued (ms); 0 for revocations.
    pub version: u64,
    /// It.
    pub wire: Wire,
}

/// A grant.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// Its digest.
    pub digest: Digest,
    /// How many records may stand on it.
    pub max_uses: u32,
    /// It.
    pub wire: Wire,
}

/// A node that enrols.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its kind, from the grant.
    pub kind: NodeKind,
    /// The grant that its record stands on.
    pub grant: Digest,
    /// SHA-256 of its link key's SPKI.
    pub link_spki: Digest,
    /// The signed record.
    pub record: Wire,
}

/// What became of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolled {
    /// It is stored.
    New,
    /// The same record was stored before.
    Same,
    /// The grant has been used as often as it may be.
    GrantUsed,
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: NodeKind,
    /// The signed grant.
    pub grant: Wire,
    /// The signed record.
    pub record: Wire,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Option<Timestamp>,
    /// What it last said.
    pub heartbeat: Option<Heartbeat>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// The job.
    pub job_id: JobId,
    /// Its digest.
    pub digest: Digest,
    /// Who signed it.
    pub operator: Name,
    /// The profile.
    pub profile: Name,
    /// Until when it may start.
    pub expires_at: Timestamp,
    /// When the hub took it.
    pub created_at: Timestamp,
    /// The signed job.
    pub envelope: Wire,
    /// The nodes it names.
    pub nodes: Vec<NodeId>,
    /// Digest of its standard input, when a job comes in; what is stored is read from the envelope.
    pub stdin: Option<Digest>,
    /// Which signed document it is of; of what is stored only whether it is a schedule, the rest is read from the
    /// envelope.
    pub origin: Origin,
}

/// An execution.
#[derive(Debug, Clone)]
pub struct ExecutionRow {
    /// The node.
    pub node_id: NodeId,
    /// Its name, as the hub knows it.
    pub node_name: Name,
    /// Where it stands.
    pub state: ExecutionState,
    /// Why.
    pub refusal: Option<Refusal>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Bytes of log stored.
    pub log_bytes: u64,
}

/// Which execution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecutionKey {
    /// The org.
    pub org: OrgId,
    /// The job.
    pub job_id: JobId,
    /// The node.
    pub node_id: NodeId,
}

/// What happens to an execution before its result.
#[derive(Debug, Clone)]
pub enum Step {
    /// The node took it.
    Leased {
        /// The hub's claim ticket.
        until: Timestamp,
    },
    /// The node said that it started.
    Running {
        /// When.
        started_at: Timestamp,
        /// The hub's claim ticket.
        until: Timestamp,
    },
    /// The node asks for approvals, or for a release and nothing else.
    Asked {
        /// Which of the two.
        release: bool,
        /// Digest of the signed ask.
        digest: Digest,
        /// It.
        ask: Wire,
    },
    /// Not now; it stays queued.
    HandedBack(Refusal),
    /// Never, and no receipt comes.
    Refused(Refusal),
}

/// The end of an execution.
#[derive(Debug, Clone)]
pub struct ResultRow {
    /// The job, inserted when the hub has lost it.
    pub job: JobRow,
    /// The node.
    pub node_id: NodeId,
    /// Digest of the receipt.
    pub receipt_digest: Digest,
    /// It.
    pub receipt: Wire,
    /// What it says.
    pub state: ExecutionState,
    /// Why, when it says so.
    pub refusal: Option<Refusal>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Log segments that belong to it and are not stored yet.
    pub segments: Vec<SegmentRow>,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is stored.
    New,
    /// The same was stored before.
    Same,
    /// Another was stored before; nothing was overwritten.
    Conflict,
}

/// A signed document about a job.
#[derive(Debug, Clone)]
pub struct DocumentRow {
    /// What it is.
    pub kind: JobDocument,
    /// Its digest.
    pub digest: Digest,
    /// The node, for asks and receipts.
    pub node_id: Option<NodeId>,
    /// It.
    pub wire: Wire,
}

/// A signed document of a person about a job, verified.
#[derive(Debug, Clone)]
pub struct Paper {
    /// What it is.
    pub kind: JobDocument,
    /// Its digest.
    pub digest: Digest,
    /// It.
    pub wire: Wire,
    /// Who signed it.
    pub signer: Name,
    /// When.
    pub issued_at: Timestamp,
}

/// The kinds of document that belong to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the words say it
pub enum JobDocument {
    Ask,
    Approval,
    Release,
    Remark,
    Cancel,
    Receipt,
}

/// Something that waits for its node, or is under way there: so little of it that thousands fit into memory.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The job.
    pub job_id: JobId,
    /// Its digest.
    pub digest: Digest,
    /// Until when it may start.
    pub expires_at: Timestamp,
    /// Which signed document it is of; `None` for a firing, which nobody asks for but its node's own clock.
    pub origin: Option<Origin>,
    /// Where the execution stands.
    pub state: ExecutionState,
    /// Whether somebody has signed a cancel of the job, on whatever node.
    pub has_cancels: bool,
    /// Whether somebody has signed an approval or a release of it, for whatever node.
    pub is_signed: bool,
}

/// A job and what goes along with it to one node.
#[derive(Debug, Clone)]
pub struct JobPapers {
    /// The job.
    pub job: JobRow,
    /// Signed approvals so far.
    pub approvals: Vec<Wire>,
    /// Signed releases of this node so far.
    pub releases: Vec<Wire>,
    /// Signed cancels on this node so far.
    pub cancels: Vec<Wire>,
}

/// Where the bytes of a segment are.
#[derive(Debug, Clone)]
pub enum SegmentBody {
    /// In the row.
    Inline(Bytes),
    /// In object storage, under this path.
    Object(String),
}

/// A stored piece of a log, zstd.
#[derive(Debug, Clone)]
pub struct SegmentRow {
    /// First log position.
    pub from: u64,
    /// Position after the last byte.
    pub to: u64,
    /// Offset in standard output at `from`.
    pub stdout_at: u64,
    /// Offset in standard error at `from`.
    pub stderr_at: u64,
    /// The bytes.
    pub body: SegmentBody,
}

/// An upload into a bucket that was begun, by what the bucket knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The object that it is to be.
    pub path: String,
    /// Its id.
    pub upload_id: String,
}

/// One version of a secret.
#[derive(Debug, Clone)]
pub struct SecretRow {
    /// What it is called.
    pub name: Name,
    /// Which version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
    /// Who signed it.
    pub operator: Name,
    /// To how many nodes it is sealed.
    pub nodes: u32,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// It; empty when it was removed, or not asked for.
    pub wire: Wire,
}

/// What became of a new version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    New,
    /// The same was there.
    Same,
    /// There is this one, or a higher one, by that name.
    Behind(u64),
    /// The org has as many as it may.
    Full,
}

/// A token, with the hash of its secret.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// Its public id.
    pub token_id: String,
    /// Its org.
    pub org: OrgId,
    /// For people.
    pub label: String,
    /// What it may do.
    pub scope: TokenScope,
    /// SHA-256 of the secret.
    pub secret_hash: Digest,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Option<Timestamp>,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// Requests that it may make in a second, when that is not as for all.
    pub requests_per_second: Option<u32>,
}

impl JobDocument {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Approval => "approval",
            Self::Release => "release",
            Self::Remark => "remark",
            Self::Cancel => "cancel",
            Self::Receipt => "receipt",
        }
    }
}

/// A refusal from its two columns.
fn refusal(code: Option<&str>, message: String) -> Result<Option<Refusal>> {
    code.map(|c| {
        c.parse::<Code>()
            .map(|code| Refusal { code, message })
            .map_err(|_| StoreError::Corrupt(format!("code {c:?}")))
    })
    .transpose()
}
