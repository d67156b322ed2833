//! The closed list of event types, and the fields that an event carries.
//!
//! The list is part of the interface: a type is never renamed or given another meaning, new ones are added, and a
//! test compares it with `docs/audit.md`.
//!
//! # Invariants
//! - Fields are flat: text, numbers, flags, lists of text. So their JSON has exactly one canonical form, whatever
//!   features serde_json was built with.
//! - Text is bounded when it is put in, with its escapes; an attacker who names things cannot fill the log with one
//!   record, nor make one that is too long to be read back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use lictor_proto::Code;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text of one field, in bytes as JSON writes them; longer text is cut at a character border.
pub const FIELD_TEXT: usize = 1024;
/// Most entries of a list.
pub const FIELD_LIST: usize = 64;

/// Who writes events of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The agent.
    Agent,
    /// The hub.
    Hub,
}

impl Source {
    /// The word in `docs/audit.md`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Hub => "hub",
        }
    }
}

macro_rules! event_types {
    ($($variant:ident = $word:literal, $source:ident, $sentence:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $(#[doc = $sentence] $variant,)*
        }

        impl EventType {
            /// All types there are, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in records.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Who writes it.
            #[must_use]
            pub const fn source(self) -> Source {
                match self { $(Self::$variant => Source::$source,)* }
            }

            /// What it says, in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }

        impl FromStr for EventType {
            type Err = UnknownEventType;
            fn from_str(s: &str) -> Result<Self, UnknownEventType> {
                match s { $($word => Ok(Self::$variant),)* _ => Err(UnknownEventType) }
            }
        }
    };
}

/// A word that is no event type of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown event type")]
pub struct UnknownEventType;

event_types! {
    AgentEnrolled = "agent_enrolled", Agent, "The node made its keys and its record under a grant.";
    AgentStarted = "agent_started", Agent, "The warden started on its journal.";
    AgentStopped = "agent_stopped", Agent, "The warden ended in order.";
    AgentDraining = "agent_draining", Agent, "The warden takes no new work and waits for what runs.";
    IdentityRefused = "identity_refused", Agent, "The machine is not the one that the identity was made on.";
    LawAccepted = "law_accepted", Agent, "Newer root, bundle, freshness statement or revocations were verified and kept.";
    LawRefused = "law_refused", Agent, "A document of law was refused.";
    LawUnloadable = "law_unloadable", Agent, "The newest authentic bundle cannot be loaded: everything is denied.";
    OfferRefused = "offer_refused", Agent, "Bytes offered as a job were refused before a signature held.";
    JobDeferred = "job_deferred", Agent, "A job was not taken now, for a reason outside the job.";
    JobReplayed = "job_replayed", Agent, "A job that is known already was offered again.";
    JobPermitted = "job_permitted", Agent, "Policy permitted a job, and it was recorded before it starts.";
    JobAsked = "job_asked", Agent, "Policy wants approvals for a job; the node signed its ask.";
    JobDenied = "job_denied", Agent, "A job was denied, with a signed receipt.";
    JobStarted = "job_started", Agent, "The process of a job was started.";
    JobFinished = "job_finished", Agent, "An execution ended and its receipt was signed.";
    EgressAllowed = "egress_allowed", Agent, "A job's attempt to get out of its sandbox was let through.";
    EgressDenied = "egress_denied", Agent, "A job's attempt to get out of its sandbox was refused.";
    EgressEnded = "egress_ended", Agent, "A connection out of a sandbox ended.";
    JobExpired = "job_expired", Agent, "A waiting job was not started while it was valid.";
    JobInterrupted = "job_interrupted", Agent, "The agent had gone down while a job ran; what was left of it was ended.";
    ScheduleTaken = "schedule_taken", Agent, "A signed schedule was verified and is kept; the node fires it by itself.";
    ScheduleMissed = "schedule_missed", Agent, "Times of a schedule passed and are not made up for.";
    ScheduleEnded = "schedule_ended", Agent, "A schedule ended, with a signed receipt, and fires no more.";
    StdinRefused = "stdin_refused", Agent, "A piece of standard input was refused.";
    ApprovalAccepted = "approval_accepted", Agent, "A signed approval verified and is kept with its job.";
    ApprovalRefused = "approval_refused", Agent, "An approval was refused.";
    ReleaseRefused = "release_refused", Agent, "A release was refused, or is of somebody who may not release.";
    CancelAccepted = "cancel_accepted", Agent, "A signed cancel that policy allows ended a job.";
    CancelRefused = "cancel_refused", Agent, "A cancel was refused.";
    AckRefused = "ack_refused", Agent, "The hub acknowledged a result that is not there, or another one.";
    ResultAcknowledged = "result_acknowledged", Agent, "The hub said that it has stored a result for good.";
    ResultArchived = "result_archived", Agent, "A result that the hub had not taken in time was moved to the node's archive.";
    ResultDropped = "result_dropped", Agent, "The archive was full: its oldest result, which the hub never took, was removed.";
    JournalPruned = "journal_pruned", Agent, "Entries that are over were forgotten; jobs that ended validity by then are refused from now on.";
    JournalRepaired = "journal_repaired", Agent, "A torn end of the journal was cut off at start.";
    RootfsFetched = "rootfs_fetched", Agent, "A root filesystem that a job's profile names was fetched from its registry.";
    RootfsFetchFailed = "rootfs_fetch_failed", Agent, "A root filesystem that a job's profile names could not be fetched.";
    FileDownloaded = "file_downloaded", Agent, "A file that a job puts on the node has come from its URL, as it was signed.";
    DownloadFailed = "download_failed", Agent, "A file that a job puts on the node could not be downloaded, and the job was refused.";
    DiskFull = "disk_full", Agent, "The journal could not be written; nothing new is started.";
    EventsSuppressed = "events_suppressed", Agent, "So many refusals of one kind came that only their number was recorded.";
    HubStarted = "hub_started", Hub, "The hub started.";
    HubStopped = "hub_stopped", Hub, "The hub ended in order.";
    OrgCreated = "org_created", Hub, "An org was registered with its root.";
    LawPublished = "law_published", Hub, "Newer root, bundle, freshness statement or revocations were stored.";
    LawRejected = "law_rejected", Hub, "Documents of law were refused.";
    TokenCreated = "token_created", Hub, "An API token was made.";
    TokenDeleted = "token_deleted", Hub, "An API token was deleted.";
    SecretSet = "secret_set", Hub, "A signed secret was stored.";
    SecretRemoved = "secret_removed", Hub, "The stored versions of a secret were deleted.";
    RequestRefused = "request_refused", Hub, "A request was refused: no valid token, or not allowed.";
    NodeEnrolled = "node_enrolled", Hub, "A node record was accepted under a grant.";
    EnrollRefused = "enroll_refused", Hub, "An enrolment was refused.";
    GrantStored = "grant_stored", Hub, "An operator's grant was stored.";
    NodeConnected = "node_connected", Hub, "A node's link came up.";
    NodeDisconnected = "node_disconnected", Hub, "A node's link went down.";
    JobSubmitted = "job_submitted", Hub, "A signed job was queued.";
    JobRejected = "job_rejected", Hub, "A job was refused at submission.";
    JobLeased = "job_leased", Hub, "A node claimed an execution.";
    JobRunning = "job_running", Hub, "A node said that an execution started.";
    JobHandedBack = "job_handed_back", Hub, "A node gave an execution back, or a limit of the hub holds it back; it is offered again.";
    JobAwaiting = "job_awaiting", Hub, "A node's signed ask for approvals was stored.";
    JobLost = "job_lost", Hub, "The lease of an execution lapsed without a word from its node.";
    JobTimedOutInQueue = "job_timed_out_in_queue", Hub, "A queued execution's validity ended before a node took it.";
    ResultStored = "result_stored", Hub, "A node's receipt was stored for good.";
    ResultConflicted = "result_conflicted", Hub, "A second, different result for one execution was refused.";
    ResultRejected = "result_rejected", Hub, "A result was refused: its receipt does not verify.";
    ResultQuarantined = "result_quarantined", Hub, "A refused result was put aside, so that its node need not send it again.";
    OutputStored = "output_stored", Hub, "A piece of an execution's log was stored.";
    ApprovalSubmitted = "approval_submitted", Hub, "A signed approval was stored and passed on.";
    ApprovalRejected = "approval_rejected", Hub, "An approval was refused.";
    ReleaseSubmitted = "release_submitted", Hub, "A signed release was stored and passed on.";
    RemarkSubmitted = "remark_submitted", Hub, "A signed rejection or review was stored; nothing follows from it.";
    RemarkRejected = "remark_rejected", Hub, "A rejection or review was refused.";
    ReleaseRejected = "release_rejected", Hub, "A release was refused.";
    RolloutTurned = "rollout_turned", Hub, "A rollout began, went on, paused, stopped or ended.";
    CancelSubmitted = "cancel_submitted", Hub, "A signed cancel was stored and passed on.";
    CancelRejected = "cancel_rejected", Hub, "A cancel was refused.";
    BlobStored = "blob_stored", Hub, "Standard input for a job was stored.";
    NotifyTargetSet = "notify_target_set", Hub, "Somebody is told of what happens from now on.";
    NotifyTargetRemoved = "notify_target_removed", Hub, "Somebody is told nothing any more.";
    NotifyTested = "notify_tested", Hub, "Somebody had a test sent to a target of notifications.";
    NotificationDropped = "notification_dropped", Hub, "So many notifications waited for one target that this one was not added.";
    NotificationGivenUp = "notification_given_up", Hub, "A notification could not be delivered for a day.";
    RetentionApplied = "retention_applied", Hub, "What was older than its retention was deleted.";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(String),
    /// A list of text.
    List(Vec<String>),
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Number(n.min(lictor_proto::limits::MAX_INTEGER))
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Self::Number(n.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Flag(b)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Text(bounded(s))
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Self::Text(bounded(&s))
    }
}

impl From<Code> for Value {
    fn from(c: Code) -> Self {
        Self::Text(c.as_str().to_owned())
    }
}

impl From<&[String]> for Value {
    fn from(list: &[String]) -> Self {
        Self::List(list.iter().take(FIELD_LIST).map(|s| bounded(s)).collect())
    }
}

fn bounded(s: &str) -> String {
    let mut length = 0;
    let fits = s.chars().take_while(|c| {
        length += written(*c);
        length <= FIELD_TEXT
    });
    fits.collect()
}

/// Bytes that a character takes in JSON.
fn written(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

/// The fields of an event, sorted by name.
pub type Fields = BTreeMap<String, Value>;

/// Something that happened and is about to become a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventType,
    /// The particulars.
    pub fields: Fields,
}

impl Event {
    /// An event without fields.
    #[must_use]
    pub fn new(kind: EventType) -> Self {
        Self {
            kind,
            fields: Fields::new(),
        }
    }

    /// With this field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// With the text form of an id, digest or time.
    #[must_use]
    pub fn with_id(self, name: &'static str, id: &impl fmt::Display) -> Self {
        self.with(name, id.to_string())
    }

    /// With `code` and `message` of a refusal.
    #[must_use]
    pub fn refused(self, refusal: &lictor_proto::code::Refusal) -> Self {
        self.with("code", refusal.code)
            .with("message", refusal.message.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_distinct_words_with_sentences() {
        let mut words: Vec<_> = EventType::ALL.iter().map(|t| t.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), EventType::ALL.len());
        for t in EventType::ALL {
            assert_eq!(t.as_str().parse(), Ok(*t));
            assert!(t.sentence().ends_with('.'), "{t}");
        }
    }

    #[test]
    fn the_documentation_lists_exactly_these_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit.md");
        let text = std::fs::read_to_string(path).expect("docs/audit.md");
        let documented: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).collect();
        let wanted: Vec<_> = EventType::ALL
            .iter()
            .map(|t| format!("| `{t}` | {} | {} |", t.source().as_str(), t.sentence()))
            .collect();
        assert_eq!(documented, wanted);
    }

    #[test]
    fn the_longest_lists_of_the_worst_text_make_a_record_that_reads_back() {
        let worst = vec!["\u{1}".repeat(FIELD_TEXT); FIELD_LIST];
        let event = Event::new(EventType::JobPermitted)
            .with("argv", worst.as_slice())
            .with("rules", worst.as_slice())
            .with("operator", "\"".repeat(FIELD_TEXT));
        let record = crate::Chain::new("n").append(lictor_proto::Timestamp::default(), event);
        assert_eq!(crate::Record::parse(&record.line()), Ok(record));
        for c in ('\0'..='\u{7f}').chain(['é', '\u{2028}', '🦀']) {
            let json = serde_json::to_string(&c).expect("a character");
            assert_eq!(json.len() - 2, written(c), "{c:?}");
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character_border() {
        let e = Event::new(EventType::HubStarted).with("x", "é".repeat(FIELD_TEXT));
        assert!(matches!(e.fields.get("x"), Some(Value::Text(t)) if t.len() == FIELD_TEXT));
    }
}
