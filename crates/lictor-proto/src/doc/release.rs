//! Leave to begin on some of a job's nodes, where the law wants it batch by batch.

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Invalid, check_validity, ensure, tag};
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::limits;
use crate::time::Timestamp;

tag!(ReleaseTag, "release");

/// An operator's signature that a job may begin on these of its nodes. Batches are a hub's; a release names nodes, so
/// that nobody has to believe a hub about who belongs to which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// `release`.
    #[serde(rename = "type")]
    pub tag: ReleaseTag,
    /// The org.
    pub org: OrgId,
    /// The job that may begin.
    pub job_digest: Digest,
    /// Who releases; the signing key must be this operator's, and the law names the group.
    pub operator: Name,
    /// On which nodes: ids, sorted, distinct.
    pub nodes: Vec<NodeId>,
    /// Oldest bundle under which it counts.
    pub min_bundle: u64,
    /// When.
    pub issued_at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

impl Document for Release {
    const KIND: DocKind = DocKind::Release;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(!self.nodes.is_empty(), || Invalid::field("nodes", "at least one"))?;
        ensure(self.nodes.len() <= limits::NODES, || {
            Invalid::limit("nodes", "at most 10000")
        })?;
        ensure(self.nodes.is_sorted_by(|a, b| a < b), || {
            Invalid::field("nodes", "sorted and distinct")
        })?;
        check_validity(self.issued_at, self.expires_at)
    }
}
