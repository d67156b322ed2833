//! A job that an operator did sign and that this version does not read: a later kind, a field that is not known here, one
//! that breaks a rule.
//!
//! Nothing of it is acted on. What is read is only what a receipt of its refusal takes: that it is for this org and node, and
//! until when it could have been offered.
//!
//! # Invariants
//! - One signature holds, by a key in force of the operator whom it names.
//! - The payload is strict JSON; a document that reads two ways names no node.

use lictor_proto::code::Refusal;
use lictor_proto::doc::DocKind;
use lictor_proto::{Code, Name, NodeId, OrgId, Timestamp, json, limits};
use serde::Deserialize;

use crate::org_trust::OrgTrust;
use crate::people::check_expiry;
use crate::roster::KeyClass;
use crate::verify::{Rule, Sealed};

/// What a receipt of a refusal says about the job, besides its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadJob {
    /// The profile that it names.
    pub profile: Name,
    /// When it can be offered no longer.
    pub expires_at: Timestamp,
}

/// The fields of a job that no version changes; others are passed over.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    tag: String,
    org: OrgId,
    operator: Name,
    nodes: Vec<NodeId>,
    profile: Name,
    expires_at: Timestamp,
}

impl OrgTrust {
    /// A job for this node whose signature holds and that does not read. `now` is the time by which it may be valid for as
    /// long as any job.
    ///
    /// # Errors
    /// The code of whichever rule it breaks besides: there is no receipt for it then.
    pub fn unread_job(&self, wire: &str, node: &NodeId, now: Timestamp) -> Result<UnreadJob, Refusal> {
        let roster = &self.held()?.roster;
        let sealed = Sealed::open(DocKind::Job, wire)?;
        let signers = sealed.check(roster.keyring(), Rule::One)?;
        let signer = signers.first().ok_or(Code::SignerUnknown)?;
        let (operator, key) = roster.holder(signer).ok_or(Code::SignerUnknown)?;
        let head: Head = json::from_slice(sealed.payload())
            .map_err(|e| Refusal::new(Code::PayloadMalformed, e.to_string()))?;
        let is_job = head.tag == DocKind::Job.as_str();
        for (holds, code) in [
            (is_job, Code::WrongType),
            (head.org == *self.org(), Code::WrongOrg),
            (head.operator == operator.name, Code::SignerMismatch),
            (key.class != KeyClass::Web, Code::KeyClass),
            (head.nodes.len() <= limits::NODES, Code::LimitExceeded),
            (head.nodes.contains(node), Code::WrongNode),
            // The node remembers it until then.
            (
                head.expires_at <= now.plus(limits::VALIDITY),
                Code::ValidityTooLong,
            ),
        ] {
            if !holds {
                return Err(code.into());
            }
        }
        self.revocations().check_signer(&operator.name, signer)?;
        check_expiry(operator, key, now)?;
        Ok(UnreadJob {
            profile: head.profile,
            expires_at: head.expires_at,
        })
    }
}

/// Whether a refusal with this code may be about a job that does not read.
#[must_use]
pub fn is_unread(code: Code) -> bool {
    matches!(
        code,
        Code::PayloadMalformed | Code::DocumentInvalid | Code::LimitExceeded | Code::KindUnsupported
    )
}
