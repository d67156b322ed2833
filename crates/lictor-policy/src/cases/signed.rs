//! What people would have signed about the job of a case.

use std::time::Duration;

use lictor_proto::doc::{Approval, ApprovalFacts, Release};
use lictor_proto::{Name, OrgId, Timestamp};

use super::{JOB, node_id};
use crate::facts::Facts;

pub(super) fn approval(who: &Name, facts: &Facts, now: Timestamp) -> Approval {
    Approval {
        tag: Default::default(),
        org: OrgId::from_root(&JOB),
        job_digest: JOB,
        approver: who.clone(),
        facts: vec![ApprovalFacts {
            node_id: node_id(0),
            facts_digest: facts.digest(),
        }],
        min_bundle: 0,
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
    }
}

pub(super) fn release(who: &Name, now: Timestamp) -> Release {
    Release {
        tag: Default::default(),
        org: OrgId::from_root(&JOB),
        job_digest: JOB,
        operator: who.clone(),
        nodes: vec![node_id(0)],
        min_bundle: 0,
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
    }
}
