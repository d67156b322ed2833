//! The hub's HTTP API, `/api/v1`: what requests and answers look like.
//!
//! Errors are problem details (RFC 9457) with a stable [`Code`]. Lists are paged by an opaque cursor. What is
//! signed travels as the signed envelope itself, so that whoever reads an answer can check it.

mod notify;
mod rollouts;
mod schedules;
mod secrets;
mod tokens;

pub use notify::{CreatedNotifyTarget, NewNotifyTarget, NoticeKind, NoticeWay, NotifyTargetView};
pub use rollouts::{NewRollout, RolloutPlan, RolloutState, RolloutView};
pub use schedules::ScheduleView;
pub use secrets::{SecretDocument, SecretView};
pub use tokens::{CreatedToken, NewToken, TokenScope, TokenView};

use serde::{Deserialize, Serialize};

use crate::agent::{Heartbeat, Wire};
use crate::code::Code;
use crate::doc::{Fired, JobKind, NodeKind, Outcome};
use crate::ids::{Digest, JobId, Name, NodeId, OrgId};
use crate::time::Timestamp;

/// The media type of a stream of [`crate::frame::Frame`]s.
pub const FRAMES: &str = "application/vnd.lictor.frames";
/// The media type of problem details.
pub const PROBLEM: &str = "application/problem+json";
/// The ALPN protocol that nodes speak; everything else is an ordinary HTTPS client.
pub const ALPN_NODE: &[u8] = b"lictor/1";

/// RFC 9457 problem details.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `https://lictor.dev/problems/<code>`; an identifier, not an address to fetch.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The code's sentence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What exactly was wrong.
    pub detail: String,
    /// What to do.
    pub hint: String,
    /// The request's id, also in the log.
    pub request_id: String,
}

/// One page of a list.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// Where an execution stands (the hub's view; the receipt is the truth).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    /// Waits for its node.
    Queued,
    /// Waits at the hub for its batch of a rollout.
    Held,
    /// The node asked for approvals.
    AwaitingApproval,
    /// The node asked for a release, and for nothing else.
    AwaitingRelease,
    /// Handed to the node, which has not said that it started.
    Leased,
    /// The node said that it started.
    Running,
    /// Receipt: exit status 0.
    Succeeded,
    /// Receipt: ended otherwise.
    Failed,
    /// Receipt: wall time was up.
    TimedOut,
    /// Receipt: a signed cancel ended it.
    Canceled,
    /// Receipt, or the node's refusal: not allowed.
    Denied,
    /// Receipt: agent or machine went down.
    Interrupted,
    /// The hub has not heard of it for longer than its lease. Never run again; a receipt may still come.
    Lost,
    /// It was not started while it was valid.
    Expired,
}

impl ExecutionState {
    /// Whether nothing more is expected. `Lost` is not final: a receipt may still come.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Queued
                | Self::Held
                | Self::AwaitingApproval
                | Self::AwaitingRelease
                | Self::Leased
                | Self::Running
                | Self::Lost
        )
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Held => "held",
            Self::AwaitingApproval => "awaiting_approval",
            Self::AwaitingRelease => "awaiting_release",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Denied => "denied",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Expired => "expired",
        }
    }
}

impl From<Outcome> for ExecutionState {
    fn from(o: Outcome) -> Self {
        match o {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Canceled => Self::Canceled,
            Outcome::Denied => Self::Denied,
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Expired => Self::Expired,
        }
    }
}

/// A job and its executions.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job_id: JobId,
    /// Its digest.
    pub digest: Digest,
    /// Who signed it.
    pub operator: Name,
    /// What kind of work it is (from the signed payload).
    pub kind: JobKind,
    /// The work in words, for people (from the signed payload): the argv of a command; of a script its interpreter, its
    /// name or the beginning of its digest, and its arguments.
    pub command: Vec<String>,
    /// The profile.
    pub profile: Name,
    /// Why.
    pub reason: String,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may start.
    pub expires_at: Timestamp,
    /// When the hub took it.
    pub created_at: Timestamp,
    /// Of a schedule: when it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleView>,
    /// Of a firing: which schedule, and which of its times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<Fired>,
    /// One per node.
    pub executions: Vec<ExecutionView>,
}

/// One execution.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionView {
    /// The node.
    pub node_id: NodeId,
    /// Its name, as the hub knows it.
    pub node_name: Name,
    /// Where it stands.
    pub state: ExecutionState,
    /// Why, when there is a reason.
    pub code: Option<Code>,
    /// That reason for people.
    pub message: String,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Bytes of log stored.
    pub log_bytes: u64,
    /// Of one that waits for its node: how many of the same node came before it and wait too;
    /// counted up to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
}

/// A job with every signed document about it, so that a client can check all of it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDocuments {
    /// The signed job.
    pub job: Wire,
    /// Signed receipts, one per finished execution.
    pub receipts: Vec<Wire>,
    /// The newest signed ask of each node that has not ended.
    pub asks: Vec<Wire>,
    /// Signed approvals.
    pub approvals: Vec<Wire>,
    /// Signed releases.
    #[serde(default)]
    pub releases: Vec<Wire>,
    /// Signed cancels.
    pub cancels: Vec<Wire>,
    /// Signed remarks: rejections and reviews, for people.
    #[serde(default)]
    pub remarks: Vec<Wire>,
}

/// `POST /api/v1/jobs/{id}/follow`: go on following a job on several nodes. The answer is its stream ([`FRAMES`]).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowJob {
    /// Whom to follow, each from where; nodes that are left out are not followed.
    pub nodes: Vec<FollowNode>,
    /// Whether to stay for what is to come.
    pub follow: bool,
}

/// One of them.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowNode {
    /// The node.
    pub node_id: NodeId,
    /// The log position that comes next.
    pub from: u64,
}

/// A state change or result on a follower's stream (the payload of an `Event` frame).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum StreamEvent {
    /// Of a job on several nodes: from here on, output and events are of this node, up to the next such event.
    From {
        /// The node.
        node_id: NodeId,
    },
    /// The hub took the job.
    Submitted {
        /// Its id.
        job_id: JobId,
    },
    /// An execution's state changed.
    State {
        /// The node.
        node_id: NodeId,
        /// The state.
        state: ExecutionState,
        /// Why, when there is a reason.
        code: Option<Code>,
        /// For people.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// The node asks for approvals.
    Ask {
        /// The signed ask.
        ask: Wire,
    },
    /// The signed receipt; the last event of an execution.
    Receipt {
        /// It.
        receipt: Wire,
    },
}

/// One frame of `/api/v1/stream/{id}` as JSON, over WebSocket and SSE.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFrame {
    /// The job.
    pub job_id: JobId,
    /// The node that it is of.
    pub node_id: NodeId,
    /// Counts from 0 on this stream.
    pub seq: u64,
    /// When the data was read from the process, or the event happened.
    pub timestamp: Timestamp,
    /// `stdout`, `stderr`, `gap`, `egress` or `event`.
    pub stream: String,
    /// Text (invalid UTF-8 replaced) for output, a JSON object for `gap`, `egress` ([`crate::egress::Record`]) and `event`.
    pub data: serde_json::Value,
    /// The bytes as base64, where `data` could not say them exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Whether this is the last frame.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// A node, with the documents that prove it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: NodeKind,
    /// Whether its link is up.
    pub connected: bool,
    /// When it was last heard of.
    pub last_seen_at: Option<Timestamp>,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// The signed grant.
    pub grant: Wire,
    /// The signed node record.
    pub record: Wire,
    /// What it last said about itself; unsigned.
    pub heartbeat: Option<Heartbeat>,
}

/// All law that the hub holds for an org, with everything needed to check it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustView {
    /// The org.
    pub org: OrgId,
    /// The documents, roots from version 1.
    #[serde(flatten)]
    pub docs: crate::agent::LawDocs,
}

/// A pending approval: the job and what the nodes ask.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingApproval {
    /// The job.
    pub job: JobView,
    /// Every document, to be checked before anything is signed.
    pub documents: JobDocuments,
}

/// `POST /api/v1/agent/enroll` over `lictor/1`: a node enrols with its grant and its record. The hub answers with
/// [`EnrollReply`] once the record is stored; the same record again is answered in the same way. The connection's
/// client certificate carries the record's `link_key`, or the hub refuses.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The org.
    pub org: OrgId,
    /// Digest of the grant, which an operator has pushed to the hub.
    pub grant_digest: Digest,
    /// The signed node record.
    pub record: Wire,
}

/// What a node gets back, and checks. Also the answer to `GET /api/v1/agent/grants/{org}/{grant_digest}` over
/// `lictor/1`, which a node asks *before* it makes its record: grant and law tell it its name and whom to believe.
/// Any client certificate will do there, since knowing the digest is all it takes to see what it names.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollReply {
    /// The signed grant.
    pub grant: Wire,
    /// The org's law.
    pub law: crate::agent::LawDocs,
}

/// Poll mode, `GET /api/v1/agent/jobs/next?wait=30`: what the hub wants of the node now, in this order. Law comes
/// before offers, standard input before the offer that needs it. An order that was handed out and not answered is
/// handed out again the next time; after two minutes it is given up, and what it was about is asked anew. A session
/// begins with the first `POST /api/v1/agent/heartbeat`, and ends when the node has not polled for 90 seconds.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollOrders {
    /// Everything that is not answered yet, at most 64 and roughly 8 MiB; work comes last. Empty when the wait was
    /// over.
    pub orders: Vec<PollOrder>,
}

/// One order to a polling node.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollOrder {
    /// Grows, and is never used again; goes into the answer. An order that is not answered comes again.
    pub order: u64,
    /// What the hub asks; exactly what the link's `POST /v1/ask` carries.
    pub request: crate::agent::Request,
}

/// Poll mode, `POST /api/v1/agent/answers`: what the warden answered to an order. The answer is 204.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollAnswer {
    /// Which order.
    pub order: u64,
    /// The answer.
    pub reply: crate::agent::Reply,
}

/// Poll mode, `POST /api/v1/agent/jobs/{id}/started`. The answer is 204.
///
/// The others of its kind: `POST .../heartbeat` (no body; renews the lease) is answered with 204;
/// `POST .../log?at=N` (body: whole frames, [`FRAMES`], `N` the log position of the first) with [`LogStored`]; with
/// `&stdout_at=S&stderr_at=E`, the stream offsets of a [`crate::agent::LogRange`], the frames are of a kept part that
/// is only stored, for a log that has ended;
/// `POST .../result` (body: [`crate::agent::Finished`]) with [`ResultStored`] after a synced commit, or 409.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartedReport {
    /// When the process was started.
    pub at: Timestamp,
    /// Of a firing of a schedule, which nobody has heard of before: that schedule and the nominal time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firing: Option<String>,
}

/// How far a log is stored.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogStored {
    /// Everything before this log position that was to be stored as it came is stored for good.
    pub upto: u64,
    /// Where the log goes on: what is beyond `upto` was passed on to whoever follows, and not stored.
    pub next: u64,
}

/// A result is stored for good.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultStored {
    /// Digest of the receipt that was stored.
    pub receipt: Digest,
}

/// `POST /api/v1/trust`: what changed, and what was refused.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustPushed {
    /// Root version held now.
    pub root: u64,
    /// Bundle version held now; 0 when there is none.
    pub bundle: u64,
    /// Whether anything is newer than before.
    pub changed: bool,
    /// Documents that were refused, and why.
    pub refused: Vec<crate::code::Refusal>,
}

/// A record of the hub's audit log.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditLine {
    /// Its number in the org's chain.
    pub seq: u64,
    /// The record's line, exactly; `lictor audit verify` reads these.
    pub line: String,
}

/// `GET /health`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The hub's version.
    pub version: String,
}
