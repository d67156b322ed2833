//! A signed standing request: the work of a job, and when each of its nodes fires it by itself.
//!
//! ```text
//! schedule + nominal time --> Fired --digest--> the job digest of one execution
//!                               '--> a job like any other, whose origin says what it is
//! ```
//!
//! # Invariants
//! - What fires is decided by the signed bytes and the nominal time alone: two firings of one nominal time are one job.
//! - A job that comes from a schedule can be read from no document of its own: [`Origin`] is never on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::job::{Job, Stdin};
use super::secret::SecretUse;
use super::work::{JobKind, Spec};
use super::{DocKind, Document, Empty, Expect, Invalid, check_validity, ensure, tag};
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::time::Timestamp;
use crate::timetable::{Timetable, TimetableError};
use crate::{json, limits};

tag!(ScheduleTag, "schedule");

/// One signed standing request of work for one or more nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Schedule {
    /// `schedule`.
    #[serde(rename = "type")]
    pub tag: ScheduleTag,
    /// The org.
    pub org: OrgId,
    /// Who asks; the one signing key must be this operator's.
    pub operator: Name,
    /// 16 random bytes: two equal requests are two schedules.
    #[serde(with = "crate::json::base64_bytes")]
    pub nonce: Vec<u8>,
    /// Node ids, sorted, distinct.
    pub nodes: Vec<NodeId>,
    /// What kind of work: `exec` or `script`, which need nothing that the hub would have to bring each time.
    pub kind: JobKind,
    /// The work itself.
    pub spec: Spec,
    /// Name of a sandbox profile in the bundle.
    pub profile: Name,
    /// The secrets that each firing uses, sorted by name: its nodes keep these very documents for as long as it stands.
    pub secrets: Vec<SecretUse>,
    /// What its nodes were chosen for; each holds itself against it at each firing.
    pub expect: Expect,
    /// Why, for people and for policy.
    pub reason: String,
    /// When: see [`Timetable`].
    pub cron: String,
    /// In which time zone, by its IANA name.
    pub tz: String,
    /// Each node fires later than the nominal time by a part of this that is always the same, in milliseconds.
    pub jitter_ms: u64,
    /// What becomes of a time that passed while the node could not fire.
    pub missed: Missed,
    /// What becomes of a time that comes while the firing before it still runs.
    pub overlap: Overlap,
    /// How long after its time a firing may still begin, in milliseconds.
    pub start_within_ms: u64,
    /// Oldest bundle under which it may fire.
    pub min_bundle: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// It fires at no time before.
    pub not_before: Timestamp,
    /// It fires at no time at or after.
    pub ends_at: Timestamp,
}

/// What becomes of times that passed while the node could not fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The last of them that may still begin is made up for.
    Once,
}

/// What becomes of a time that comes while the firing before it still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is refused, with a receipt.
    Skip,
    /// It begins after that has ended, if it still may.
    Wait,
}

impl Missed {
    /// The word in a schedule.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
        }
    }
}

impl Overlap {
    /// The word in a schedule.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Wait => "wait",
        }
    }
}

/// Which signed document a job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Its own.
    #[default]
    Job,
    /// A schedule, of which it is the picture: to be shown and to be ended, never to be run.
    Schedule,
    /// One firing of a schedule.
    Firing(Fired),
}

impl Origin {
    /// What predictions assume: a job of its own, or a firing of some schedule.
    #[must_use]
    pub const fn assumed(scheduled: bool) -> Self {
        match scheduled {
            false => Self::Job,
            true => Self::Firing(Fired {
                schedule: Digest([0; 32]),
                nominal: Timestamp::START,
            }),
        }
    }
}

/// Which firing of which schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Fired {
    /// Digest of the schedule.
    pub schedule: Digest,
    /// The time of its cron expression, whatever the clock said when it began.
    pub nominal: Timestamp,
}

impl Fired {
    /// The digest that the execution goes by: SHA-256(`"lictor-firing-v1" 00 digest of the schedule, nominal time in
    /// milliseconds as 8 bytes big-endian`).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut h = Sha256::new();
        h.update(b"lictor-firing-v1\0");
        h.update(self.schedule.0);
        h.update(self.nominal.as_millis().to_be_bytes());
        Digest(h.finalize().into())
    }
}

/// What stands where a job's envelope stands, for a firing: the signed schedule, and the nominal time. Nobody has
/// signed the two together; whoever reads it verifies the schedule, and that the time is one of its.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiredWire {
    /// The nominal time.
    pub nominal: Timestamp,
    /// The schedule's envelope.
    pub schedule: String,
}

impl FiredWire {
    /// How each begins, and no envelope does.
    const HEAD: &str = "{\"nominal\":";

    /// Reads one; `None` for an envelope, and for everything else.
    #[must_use]
    pub fn read(wire: &str) -> Option<Self> {
        let fits = wire.len() <= limits::FIRED_WIRE && wire.starts_with(Self::HEAD);
        fits.then(|| json::from_slice(wire.as_bytes()).ok()).flatten()
    }

    /// As it is written.
    #[must_use]
    pub fn to_wire(&self) -> String {
        let schedule = serde_json::Value::from(self.schedule.as_str());
        format!("{}\"{}\",\"schedule\":{schedule}}}", Self::HEAD, self.nominal)
    }
}

impl Schedule {
    /// When it fires.
    ///
    /// # Errors
    /// For a schedule that does not validate.
    pub fn timetable(&self) -> Result<Timetable, TimetableError> {
        Timetable::new(&self.cron, &self.tz)
    }

    /// How long after its nominal time a firing is over, if it has not begun: on every node.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.jitter_ms.saturating_add(self.start_within_ms))
    }

    /// How much later than the nominal time this node fires: always the same, and of all its nodes spread over the
    /// jitter.
    #[must_use]
    pub fn offset(&self, schedule: &Digest, node: &NodeId) -> Duration {
        let mut h = Sha256::new();
        h.update(b"lictor-jitter-v1\0");
        h.update(schedule.0);
        h.update(node.as_str().as_bytes());
        let hash: [u8; 32] = h.finalize().into();
        let number = hash.iter().take(8).fold(0, |n, b| (n << 8) | u64::from(*b));
        Duration::from_millis(number % self.jitter_ms.saturating_add(1))
    }

    /// Whether a nominal time lies within it.
    #[must_use]
    pub fn spans(&self, nominal: Timestamp) -> bool {
        self.not_before.max(self.issued_at) <= nominal && nominal < self.ends_at
    }

    /// What runs at this time.
    #[must_use]
    pub fn fire(&self, fired: Fired) -> Job {
        let from = fired.nominal;
        let to = from.plus(self.window());
        let nonce = fired.digest().0[..16].to_vec();
        self.job((from, from, to), nonce, Origin::Firing(fired))
    }

    /// It as a job, for those who show it, and for those who decide who may end it.
    #[must_use]
    pub fn picture(&self) -> Job {
        let times = (self.issued_at, self.not_before, self.ends_at);
        self.job(times, self.nonce.clone(), Origin::Schedule)
    }

    fn job(
        &self,
        (issued_at, not_before, expires_at): (Timestamp, Timestamp, Timestamp),
        nonce: Vec<u8>,
        origin: Origin,
    ) -> Job {
        Job {
            tag: Default::default(),
            org: self.org.clone(),
            operator: self.operator.clone(),
            nonce,
            nodes: self.nodes.clone(),
            kind: self.kind,
            spec: self.spec.clone(),
            profile: self.profile.clone(),
            stdin: Stdin::NONE,
            secrets: self.secrets.clone(),
            after: Default::default(),
            expect: self.expect.clone(),
            output_to: Empty,
            reason: self.reason.clone(),
            retry_of: None,
            min_bundle: self.min_bundle,
            issued_at,
            not_before,
            expires_at,
            origin,
        }
    }
}

impl Document for Schedule {
    const KIND: DocKind = DocKind::Schedule;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        // The work obeys the same rules as a job's.
        self.picture().validate()?;
        check_validity(self.issued_at, self.ends_at)?;
        let alone = matches!(self.spec, Spec::Exec(_) | Spec::Script(_));
        ensure(alone, || {
            Invalid::field("kind", "a schedule runs a command or a script")
        })?;
        ensure(self.jitter_ms <= limits::JITTER.as_millis() as u64, || {
            Invalid::limit("jitter_ms", "at most 6 hours")
        })?;
        let within = 1000..=limits::START_WITHIN.as_millis() as u64;
        ensure(within.contains(&self.start_within_ms), || {
            Invalid::limit("start_within_ms", "1 second to 7 days")
        })?;
        let table = self.timetable().map_err(|e| match e {
            TimetableError::Cron(_) => Invalid::field("cron", e.to_string()),
            TimetableError::Zone => Invalid::field("tz", e.to_string()),
        })?;
        let start = self.not_before.max(self.issued_at).as_millis().saturating_sub(1);
        let first = table.after(Timestamp::from_millis(start));
        ensure(first.is_some_and(|t| t < self.ends_at), || {
            Invalid::field("cron", "never comes before ends_at")
        })
    }
}

/// A schedule as it is written: what its spec is like is known when its kind is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    tag: ScheduleTag,
    org: OrgId,
    operator: Name,
    #[serde(with = "crate::json::base64_bytes")]
    nonce: Vec<u8>,
    nodes: Vec<NodeId>,
    kind: JobKind,
    spec: serde_json::Value,
    profile: Name,
    secrets: Vec<SecretUse>,
    expect: Expect,
    reason: String,
    cron: String,
    tz: String,
    jitter_ms: u64,
    missed: Missed,
    overlap: Overlap,
    start_within_ms: u64,
    min_bundle: u64,
    issued_at: Timestamp,
    not_before: Timestamp,
    ends_at: Timestamp,
}

impl TryFrom<Written> for Schedule {
    type Error = String;

    fn try_from(s: Written) -> Result<Self, String> {
        Ok(Self {
            spec: Spec::read(s.kind, s.spec)?,
            tag: s.tag,
            org: s.org,
            operator: s.operator,
            nonce: s.nonce,
            nodes: s.nodes,
            kind: s.kind,
            profile: s.profile,
            secrets: s.secrets,
            expect: s.expect,
            reason: s.reason,
            cron: s.cron,
            tz: s.tz,
            jitter_ms: s.jitter_ms,
            missed: s.missed,
            overlap: s.overlap,
            start_within_ms: s.start_within_ms,
            min_bundle: s.min_bundle,
            issued_at: s.issued_at,
            not_before: s.not_before,
            ends_at: s.ends_at,
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn fired(nominal: u64) -> Fired {
        Fired {
            schedule: Digest::of(b"schedule"),
            nominal: Timestamp::from_millis(nominal),
        }
    }

    #[test]
    fn a_firing_is_named_by_its_schedule_and_its_time_and_by_nothing_else() {
        assert_eq!(fired(60_000).digest(), fired(60_000).digest());
        assert_ne!(fired(60_000).digest(), fired(120_000).digest());
        let other = Fired {
            schedule: Digest::of(b"other"),
            ..fired(60_000)
        };
        assert_ne!(fired(60_000).digest(), other.digest());
        assert_eq!(
            fired(60_000).digest().to_string(),
            "sha256:d3c81b9f182ddd392985ce6e1e8ab0b3f570b2fd8332514c1428ca39a0385b4e",
            "the vector of docs/protocol.md"
        );
    }

    #[test]
    fn the_wire_of_a_firing_is_no_envelope_and_an_envelope_is_none() {
        let wire = FiredWire {
            nominal: Timestamp::from_millis(60_000),
            schedule: "{\"payloadType\":\"x\"}".to_owned(),
        };
        let text = wire.to_wire();
        assert_eq!(FiredWire::read(&text), Some(wire.clone()));
        assert!(crate::Envelope::parse(text.as_bytes(), 10_000).is_err());
        assert_eq!(FiredWire::read(&wire.schedule), None);
        assert_eq!(FiredWire::read(&text.replace("}", ",\"more\":1}")), None);
    }
}
