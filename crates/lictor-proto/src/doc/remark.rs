//! What somebody says about a job, and no node acts on: that they would not approve it, or that they have looked at what it did.

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Invalid, check_reason, ensure, tag};
use crate::ids::{Digest, Name, OrgId};
use crate::limits;
use crate::time::Timestamp;

tag!(RemarkTag, "remark");

/// An operator's signed word about a job, for people. Nothing runs by it and nothing stops by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remark {
    /// `remark`.
    #[serde(rename = "type")]
    pub tag: RemarkTag,
    /// The org.
    pub org: OrgId,
    /// The job.
    pub job_digest: Digest,
    /// Who says it; the signing key must be this operator's, and they are a person.
    pub operator: Name,
    /// What.
    pub says: Says,
    /// Digests of the receipts that were looked at, sorted, distinct; of a rejection none.
    pub receipts: Vec<Digest>,
    /// Why.
    pub reason: String,
    /// When.
    pub issued_at: Timestamp,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// They would not approve it. An approval counts all the same, before and after.
    Rejected,
    /// They have looked at what it did, by these receipts.
    Reviewed,
}

impl Document for Remark {
    const KIND: DocKind = DocKind::Remark;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_reason(&self.reason)?;
        ensure(self.receipts.len() <= limits::NODES, || {
            Invalid::limit("receipts", "at most 10000")
        })?;
        ensure(self.receipts.is_sorted_by(|a, b| a < b), || {
            Invalid::field("receipts", "sorted and distinct")
        })?;
        ensure(self.receipts.is_empty() == (self.says == Says::Rejected), || {
            Invalid::field("receipts", "of a review at least one, of a rejection none")
        })
    }
}
