//! Counts approvals and releases for a gate, under the law held now.
//!
//! # Invariants
//! - Each gate is counted alone; one person may count for two gates, and once for each.
//! - Nobody approves a job of their own, after expiry, outside the group, or for another job.
//! - A release counts on the nodes that it names and nowhere else, and for no gate of approvals; nor the other way.

use std::collections::BTreeMap;

use lictor_proto::doc::{Approval, Job, Release};
use lictor_proto::{Digest, KeyId, Name, NodeId, Timestamp};
use lictor_trust::Roster;
use lictor_trust::roster::Operator;

use crate::gate::Gate;

/// An approval, and how its signature is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vote<'a> {
    pub(crate) approval: &'a Approval,
    pub(crate) digest: Digest,
    pub(crate) signer: Signer<'a>,
}

/// A release, and how its signature is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leave<'a> {
    pub(crate) release: &'a Release,
    pub(crate) digest: Digest,
    pub(crate) signer: Signer<'a>,
}

/// How a signature is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signer<'a> {
    /// For a prediction: as if it were signed.
    Assumed,
    /// By these keys, whose signatures held when it was verified.
    #[cfg_attr(not(feature = "authorise"), allow(dead_code))]
    Keys(&'a [KeyId]),
}

/// What approvals are counted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll<'a> {
    pub(crate) roster: &'a Roster,
    pub(crate) job: &'a Job,
    pub(crate) job_digest: Digest,
    pub(crate) node: &'a NodeId,
    pub(crate) facts_digest: Digest,
    pub(crate) bundle: u64,
    pub(crate) now: Timestamp,
    pub(crate) votes: &'a [Vote<'a>],
    pub(crate) leaves: &'a [Leave<'a>],
}

/// The outcome for one gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tally {
    /// Enough; the digests of the approvals that counted.
    Met(Vec<Digest>),
    /// Not enough.
    Open,
    /// Enough people approved, but other facts than those of now.
    FactsChanged,
}

impl Poll<'_> {
    /// Counts for one gate.
    pub(crate) fn count(&self, gate: &Gate) -> Tally {
        if gate.release {
            let leave = self.leaves.iter().find(|l| self.releases(gate, l));
            return leave.map_or(Tally::Open, |l| Tally::Met(vec![l.digest]));
        }
        let mut counted: BTreeMap<&Name, Digest> = BTreeMap::new();
        let mut stale: BTreeMap<&Name, Digest> = BTreeMap::new();
        for vote in self.votes.iter().filter(|v| self.is_eligible(gate, v)) {
            let name = &vote.approval.approver;
            match self.facts_seen(vote.approval) {
                _ if !gate.binds_facts => _ = counted.entry(name).or_insert(vote.digest),
                Some(seen) if seen == self.facts_digest => _ = counted.entry(name).or_insert(vote.digest),
                Some(_) => _ = stale.entry(name).or_insert(vote.digest),
                None => {}
            }
        }
        let needed = gate.n as usize;
        if counted.len() >= needed {
            return Tally::Met(counted.into_values().collect());
        }
        stale.retain(|name, _| !counted.contains_key(name));
        if counted.len() + stale.len() >= needed {
            return Tally::FactsChanged;
        }
        Tally::Open
    }

    fn is_eligible(&self, gate: &Gate, vote: &Vote<'_>) -> bool {
        let approval = vote.approval;
        approval.job_digest == self.job_digest
            && approval.approver != self.job.operator
            && approval.expires_at > self.now
            && approval.min_bundle <= self.bundle
            && self
                .roster
                .operator(&approval.approver)
                .is_some_and(|o| gate.takes(o) && is_current(o, self.now) && vote.signer.is(o, self.now))
    }

    fn releases(&self, gate: &Gate, leave: &Leave<'_>) -> bool {
        let release = leave.release;
        release.job_digest == self.job_digest
            && release.nodes.binary_search(self.node).is_ok()
            && release.expires_at > self.now
            && release.min_bundle <= self.bundle
            && self
                .roster
                .operator(&release.operator)
                .is_some_and(|o| gate.takes(o) && is_current(o, self.now) && leave.signer.is(o, self.now))
    }

    fn facts_seen(&self, approval: &Approval) -> Option<Digest> {
        approval
            .facts
            .iter()
            .find(|f| f.node_id == *self.node)
            .map(|f| f.facts_digest)
    }
}

impl Signer<'_> {
    /// Whether the signature is by a key that the roster of now gives this operator.
    pub(crate) fn is(&self, operator: &Operator, now: Timestamp) -> bool {
        match self {
            Self::Assumed => true,
            Self::Keys(signers) => operator
                .keys
                .iter()
                .any(|k| k.expires_at.is_none_or(|end| end > now) && signers.contains(&k.key.id())),
        }
    }
}

/// Whether the operator's time in the roster is not over.
pub(crate) fn is_current(operator: &Operator, now: Timestamp) -> bool {
    operator.expires_at.is_none_or(|end| end > now)
}
