//! Messages between the warden and whatever brings them: link, poll, later direct and the session process.
//!
//! A closed, serialisable set. The link maps them onto HTTP/2 routes and poll mode onto requests of its own;
//! the warden sees only these, and so can become a process of its own. Signed documents travel as the exact
//! bytes that arrived ([`Wire`]); no side re-encodes them.
//!
//! # Invariants
//! - A [`Request`] that changes something carries a signed document, or only tells the warden what the hub has
//!   safely stored ([`Request::Ack`], [`Request::Stdin`]). A lie there costs the hub its own copy, nothing else.

use serde::{Deserialize, Serialize};

use crate::code::Refusal;
use crate::doc::{NodeKind, Outcome};
use crate::ids::{Digest, JobId, Name, NodeId, OrgId};
use crate::time::Timestamp;

/// A signed envelope as it arrived: JSON text.
pub type Wire = String;

/// What the warden can be asked.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Take this job, if law and policy allow.
    Offer(Offer),
    /// A piece of a job's standard input; pieces come in order, before the offer.
    Stdin(StdinPiece),
    /// Newer root, law, freshness, revocations.
    Law(LawDocs),
    /// A signed approval.
    Approval(Wire),
    /// A signed cancel.
    Cancel(Wire),
    /// A signed cancel with the job that it ends, for a node that may not know that job yet: it is then ended
    /// before it starts, with a signed receipt.
    CancelJob(CancelJob),
    /// The hub has stored something for good.
    Ack(Ack),
    /// Bytes of an execution's log.
    ReadOutput(ReadOutput),
    /// What runs, what waits, what has not been acknowledged.
    Status,
    /// Take no new work; answer `Drained` when nothing runs or the grace is over.
    Drain {
        /// How long running jobs may go on, in milliseconds.
        grace_ms: u64,
    },
}

/// What the warden answers.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Offer`].
    Offer(OfferReply),
    /// It was taken.
    Done,
    /// To [`Request::Law`]: what is held now.
    Law(LawHeld),
    /// To [`Request::ReadOutput`]; the bytes travel beside the message.
    Output(OutputPart),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It was not taken.
    Refused(Refusal),
}

/// A job and what belongs to it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The signed job.
    pub job: Wire,
    /// Signed approvals so far.
    pub approvals: Vec<Wire>,
    /// Signed releases so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<Wire>,
    /// The signed secrets that the job uses; left out until the node asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Wire>,
}

/// A cancel and the job that it is about.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelJob {
    /// The signed cancel.
    pub cancel: Wire,
    /// The signed job.
    pub job: Wire,
}

/// What became of an offer.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OfferReply {
    /// It is in the journal and will run; the result follows as an event.
    Accepted,
    /// It is known already; whatever is due about it follows as events.
    Known,
    /// Policy wants approvals: the signed ask. The hub offers it again when one has come.
    Ask(Wire),
    /// Not now, for a reason outside the job: offer it again later. No receipt.
    Later(Refusal),
    /// Once the rest of its input is here, of which a part has come before: from there on. No receipt.
    Wanted {
        /// The input.
        sha256: Digest,
        /// How many bytes of it are here.
        at: u64,
    },
    /// Never, and a signed receipt with outcome `denied` or `expired` follows as an event.
    Denied(Refusal),
    /// It is not a job for this node at all (before a signature held): no receipt, only the node's audit.
    Refused(Refusal),
}

/// A piece of standard input.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinPiece {
    /// Digest of the whole.
    pub sha256: Digest,
    /// Where this piece starts.
    pub at: u64,
    /// Whether it is the last one.
    pub last: bool,
    /// The bytes.
    #[serde(with = "crate::json::base64_bytes")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub bytes: Vec<u8>,
}

/// Documents of law, each optional.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LawDocs {
    /// Root versions, oldest first, without gaps.
    pub roots: Vec<Wire>,
    /// The newest bundle.
    pub bundle: Option<Wire>,
    /// The newest freshness statement.
    pub freshness: Option<Wire>,
    /// Revocations, any order.
    pub revocations: Vec<Wire>,
}

/// What law a node holds.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LawHeld {
    /// Root version.
    pub root: u64,
    /// Bundle version; 0 when there is none.
    pub bundle: u64,
    /// Its digest.
    pub bundle_digest: Option<Digest>,
    /// When the newest freshness statement was issued.
    pub freshness: Option<Timestamp>,
    /// Number of revocations held.
    pub revocations: u64,
    /// Why all work is denied at the moment, if it is.
    pub deny_all: Option<Refusal>,
}

/// The hub's word that it has stored something durably.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ack {
    /// The result of an execution.
    Result {
        /// The job.
        job: Digest,
        /// Digest of the receipt that was stored.
        receipt: Digest,
    },
    /// Output up to a log position.
    Output {
        /// The job.
        job: Digest,
        /// Everything before this log position is stored.
        upto: u64,
    },
}

/// Which bytes of a log.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOutput {
    /// The job.
    pub job: Digest,
    /// From this log position, a frame border.
    pub from: u64,
    /// At most this many bytes (at least one whole frame is given).
    pub max: u32,
    /// Whether to wait for more when there is nothing now.
    pub wait: bool,
}

/// Where the bytes that came with it stand.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputPart {
    /// Log position of the first byte; later than asked for when the part between was dropped, in which case the
    /// bytes start with a gap frame that says so.
    pub from: u64,
    /// Log position after the last byte.
    pub to: u64,
    /// Whether the log ends at `to`.
    pub end: bool,
}

/// What the node says on its own. Delivered in order; anything not acknowledged is said again after a reconnect.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// An execution has started.
    Started {
        /// The job.
        job: Digest,
        /// When.
        at: Timestamp,
        /// Of a firing, which nobody has heard of before: its schedule and its nominal time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        firing: Option<Wire>,
    },
    /// Output beyond what is sent along by itself waits to be read from this log position.
    OutputWaiting {
        /// The job.
        job: Digest,
        /// From where.
        from: u64,
    },
    /// An execution has ended. Carries everything that a hub needs that has lost it.
    Finished(Box<Finished>),
    /// Facts about host and law; on connect, every 30 s, and when the law changes.
    Heartbeat(Box<Heartbeat>),
}

/// The end of an execution.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// The job's digest.
    pub job: Digest,
    /// The signed job, as it came.
    pub envelope: Wire,
    /// The signed receipt.
    pub receipt: Wire,
    /// Length of its log.
    pub log_end: u64,
    /// The kept parts of the log: head, and tail where there is one.
    pub kept: Vec<LogRange>,
}

/// A kept part of an execution's log.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRange {
    /// First log position.
    pub from: u64,
    /// Position after the last byte.
    pub to: u64,
    /// Standard output bytes before it, whether kept or not.
    pub stdout_at: u64,
    /// Standard error bytes before it, whether kept or not.
    pub stderr_at: u64,
}

/// What the node says about itself. Shown to people; never seen by policy.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The org.
    pub org: OrgId,
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: NodeKind,
    /// The agent's version.
    pub agent_version: String,
    /// The law it holds.
    pub law: LawHeld,
    /// Host facts.
    pub host: HostFacts,
    /// What each backend can do here.
    pub backends: Vec<BackendReport>,
    /// Jobs running.
    pub running: u32,
    /// Results that wait for an acknowledgement.
    pub unacknowledged: u32,
    /// When it was made.
    pub at: Timestamp,
}

/// Facts about the host.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// `linux`, `windows`, `macos`.
    pub os: String,
    /// Distribution and version, as the system says it.
    pub os_version: String,
    /// Kernel release.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Host name.
    pub hostname: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// Load average over one minute, in hundredths.
    pub load_1m_x100: u32,
    /// Free bytes where the agent keeps its data.
    pub disk_free_bytes: u64,
}

/// The result of probing one backend.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendReport {
    /// `host`, `bubblewrap`, ...
    pub name: String,
    /// Whether it can be used here.
    pub usable: bool,
    /// Who makes its containers, where several could: by its name in `container_engine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// What it can enforce, sorted.
    pub capabilities: Vec<String>,
    /// What is missing, and the fix; empty when usable.
    pub problem: String,
}

/// What the warden is doing.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The law held.
    pub law: LawHeld,
    /// Every execution that is not both finished and acknowledged.
    pub executions: Vec<ExecutionStatus>,
    /// Head of the audit log.
    pub audit_head: Digest,
}

/// One execution, as the journal knows it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionStatus {
    /// The job.
    pub job: Digest,
    /// Its id.
    pub job_id: JobId,
    /// Whether it still runs.
    pub running: bool,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Output acknowledged up to this log position.
    pub acked: u64,
    /// Length of the log so far.
    pub log_end: u64,
}

/// One message of the agent's event stream over the link: a length (u32, little-endian), a type byte, a body.
pub mod stream {
    use bytes::{Buf as _, Bytes, BytesMut};

    use super::Event;
    use crate::ids::Digest;
    use crate::limits;

    /// A message of the event stream.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Message {
        /// Type 1: an [`Event`] as JSON.
        Event(Event),
        /// Type 2: frames of an execution's log. Body: 32 bytes job digest, u64 log position, frames.
        Output {
            /// The job.
            job: Digest,
            /// Log position of the first byte.
            at: u64,
            /// Whole frames.
            frames: Bytes,
        },
        /// Type 3: nothing; sent when there has been nothing else for 10 s.
        KeepAlive,
    }

    /// Bytes that are no message.
    #[derive(Debug, thiserror::Error)]
    #[error("malformed event stream: {0}")]
    pub struct StreamError(String);

    impl Message {
        /// The message as bytes.
        #[must_use]
        pub fn encode(&self) -> Vec<u8> {
            let (kind, body): (u8, Vec<u8>) = match self {
                Self::Event(e) => (1, crate::json::to_vec(e).unwrap_or_default()),
                Self::Output { job, at, frames } => {
                    let mut b = Vec::with_capacity(40 + frames.len());
                    b.extend_from_slice(&job.0);
                    b.extend_from_slice(&at.to_le_bytes());
                    b.extend_from_slice(frames);
                    (2, b)
                }
                Self::KeepAlive => (3, Vec::new()),
            };
            let mut out = Vec::with_capacity(5 + body.len());
            out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.push(kind);
            out.extend_from_slice(&body);
            out
        }
    }

    /// Cuts bytes into messages, whatever their pieces.
    #[derive(Debug, Default)]
    pub struct Decoder {
        buffer: BytesMut,
    }

    impl Decoder {
        /// Takes more bytes.
        pub fn push(&mut self, bytes: &[u8]) {
            self.buffer.extend_from_slice(bytes);
        }

        /// The next whole message, if there is one.
        ///
        /// # Errors
        /// When the bytes are no messages; the stream is then of no more use.
        pub fn next_message(&mut self) -> Result<Option<Message>, StreamError> {
            let Some(head) = self.buffer.first_chunk::<5>() else {
                return Ok(None);
            };
            let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = head[4];
            if len > limits::EVENT {
                return Err(StreamError(format!("message of {len} bytes is over the limit")));
            }
            if self.buffer.len() < 5 + len {
                return Ok(None);
            }
            self.buffer.advance(5);
            let mut body = self.buffer.split_to(len).freeze();
            match kind {
                1 => crate::json::from_slice(&body)
                    .map(|e| Some(Message::Event(e)))
                    .map_err(|e| StreamError(e.to_string())),
                2 if body.len() >= 40 => {
                    let mut job = [0; 32];
                    body.copy_to_slice(&mut job);
                    let at = body.get_u64_le();
                    Ok(Some(Message::Output {
                        job: Digest(job),
                        at,
                        frames: body,
                    }))
                }
                3 if body.is_empty() => Ok(Some(Message::KeepAlive)),
                _ => Err(StreamError(format!("unknown message type {kind}"))),
            }
        }
    }
}
