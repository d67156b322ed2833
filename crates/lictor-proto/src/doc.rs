//! One type per signed document (TRUST.md), with the tags that keep them apart.
//!
//! Every payload starts with `type` and `org`. The media type of the envelope, the `type` inside the payload
//! and the Rust type say the same thing three times, so a signature made for one kind of document can never
//! serve as another.
//!
//! # Invariants
//! - Every struct denies unknown fields; lists that are not built yet accept only their empty value ([`Empty`]).
//! - `validate` checks what a document says about itself (limits, order, names). It needs no key and no clock.

mod expect;
mod job;
mod law;
mod node;
mod receipt;
mod release;
mod remark;
mod schedule;
mod secret;
mod terms;
mod transfer;
mod url;
mod work;
mod workspace;

pub use expect::{Expect, Unexpected};
pub use job::{Approval, ApprovalFacts, Ask, Cancel, Job, OpenGate, Stdin, StdinBytes, StdinWord};
pub use law::{
    Bundle, Freshness, MinVersions, Revocation, RevocationKind, RevocationSet, Role, RoleName, Root,
    RootRoles,
};
pub use node::{Grant, NodeKind, NodeRecord, Token, TokenError};
pub use receipt::{
    AppliedBackend, Artifact, Exit, KeptRange, LimitHit, Outcome, Receipt, StreamSummary, Usage, UsedSandbox,
};
pub use release::Release;
pub use remark::{Remark, Says};
pub use schedule::{Fired, FiredWire, Missed, Origin, Overlap, Schedule};
pub use secret::{Delivery, PAD, SECRET_FILES, SECRET_VARIABLE, Sealed, SealedKey, Secret, SecretUse};
pub use terms::{LimitName, Terms};
pub use transfer::{Collect, Fetch};
pub use url::{FileUrl, NoFileUrl, Scheme};
pub use work::{Exec, JobKind, Process, Script, ScriptSource, Spec};
pub use workspace::{DiffTerms, GitCommit, Operation, Workspace};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::code::{Code, Refusal};
use crate::ids::OrgId;
use crate::{json, limits};

/// The kinds of document there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // each is documented at its type; those without one are reserved names
pub enum DocKind {
    Root,
    Bundle,
    Freshness,
    Revocation,
    Grant,
    Node,
    Job,
    Approval,
    Cancel,
    Release,
    Remark,
    Schedule,
    Session,
    Secret,
    Ask,
    Receipt,
    Recording,
}

impl DocKind {
    /// The word in the media type and in the payload's `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Bundle => "bundle",
            Self::Freshness => "freshness",
            Self::Revocation => "revocation",
            Self::Grant => "grant",
            Self::Node => "node",
            Self::Job => "job",
            Self::Approval => "approval",
            Self::Cancel => "cancel",
            Self::Release => "release",
            Self::Remark => "remark",
            Self::Schedule => "schedule",
            Self::Session => "session",
            Self::Secret => "secret",
            Self::Ask => "ask",
            Self::Receipt => "receipt",
            Self::Recording => "recording",
        }
    }

    /// `application/vnd.lictor.<kind>.v1+json`.
    #[must_use]
    pub fn payload_type(self) -> String {
        format!("application/vnd.lictor.{}.v1+json", self.as_str())
    }

    /// Largest envelope of this kind, in bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Bundle => limits::BUNDLE_ENVELOPE,
            Self::Job | Self::Schedule => limits::JOB_ENVELOPE,
            _ => limits::ENVELOPE,
        }
    }
}

/// A document that can be signed.
pub trait Document: Serialize + DeserializeOwned {
    /// Which kind it is; decides media type, size limit and who may sign.
    const KIND: DocKind;

    /// The org it binds; `None` only for root version 1, whose digest *is* the org.
    fn org(&self) -> Option<&OrgId>;

    /// Checks limits, order and names.
    ///
    /// # Errors
    /// [`Invalid`] with the code and the field.
    fn validate(&self) -> Result<(), Invalid>;

    /// The code for a payload that does not read as one.
    fn misread(_payload: &[u8]) -> Code {
        Code::PayloadMalformed
    }
}

/// Reads a payload as a document, and checks what it says about itself.
///
/// # Errors
/// [`Code::PayloadMalformed`], or a code of its own for what is known to be of a later version; or that of the rule
/// which a field breaks. The words name the field.
pub fn read<T: Document>(payload: &[u8]) -> Result<T, Refusal> {
    let doc: T = json::from_slice(payload).map_err(|e| Refusal::new(T::misread(payload), e.to_string()))?;
    doc.validate().map_err(|e| Refusal::new(e.code, e.to_string()))?;
    Ok(doc)
}

/// A document that reads well and says something it may not say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// The stable code.
    pub code: Code,
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// A field that breaks a rule of its document.
    #[must_use]
    pub fn field(field: &'static str, why: impl Into<String>) -> Self {
        Self {
            code: Code::DocumentInvalid,
            field,
            why: why.into(),
        }
    }

    /// A field over a limit of TRUST.md section 1.
    #[must_use]
    pub fn limit(field: &'static str, why: impl Into<String>) -> Self {
        Self {
            code: Code::LimitExceeded,
            field,
            why: why.into(),
        }
    }
}

/// Fails with `err` unless `cond` holds.
fn ensure(cond: bool, err: impl FnOnce() -> Invalid) -> Result<(), Invalid> {
    if cond { Ok(()) } else { Err(err()) }
}

/// Refuses a validity that is empty or longer than 30 days.
fn check_validity(issued: crate::Timestamp, expires: crate::Timestamp) -> Result<(), Invalid> {
    ensure(expires > issued, || {
        Invalid::field("expires_at", "must be after issued_at")
    })?;
    ensure(expires.since(issued) <= limits::VALIDITY, || {
        Invalid::limit("expires_at", "validity is at most 30 days")
    })
}

fn check_reason(reason: &str) -> Result<(), Invalid> {
    ensure(reason.len() <= limits::REASON, || {
        Invalid::limit("reason", "at most 1024 bytes")
    })
}

/// A list that only later versions fill: reads and writes `[]`, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Empty;

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(std::iter::empty::<u8>())
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // An element would have to be a `Never`, which nothing is.
        #[derive(Deserialize)]
        enum Never {}
        let none = Vec::<Never>::deserialize(d)?;
        debug_assert!(none.is_empty());
        Ok(Self)
    }
}

/// A unit type that is written as one fixed word: the `type` of a payload.
macro_rules! tag {
    ($name:ident, $word:literal) => {
        /// The payload's `type`: always the same word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            /// The only value.
            #[default]
            #[serde(rename = $word)]
            V1,
        }
    };
}
pub(crate) use tag;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_lists_accept_only_their_empty_value() {
        assert!(serde_json::from_str::<Empty>("[]").is_ok());
        assert!(serde_json::from_str::<Empty>("[1]").is_err());
        assert!(serde_json::from_str::<Empty>("[\"x\"]").is_err());
        assert_eq!(serde_json::to_string(&Empty).ok().as_deref(), Some("[]"));
    }
}
