//! Which records of nodes a home keeps: as many as it takes to judge, however many a hub shows.
//!
//! # Invariants
//! - What does not verify is not kept; it is judged again whenever it is shown.
//! - Of a node only the newest epoch is kept, and two records of it: the second one proves that both are void.
//! - Of a grant one node more than it allows is kept: that one proves that it was used too often.
//! - What has been revoked is not kept: that is for good, so it is refused whenever it is shown again. But a later
//!   epoch of a node stays when only its grant was revoked, or the hub could bring back the keys that it replaced.
//! - All together are bounded. Beyond that a home stays with what it knows.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::NodeRecord;
use lictor_proto::{Digest, Envelope, NodeId, Timestamp, json, limits};
use lictor_trust::OrgTrust;
use lictor_trust::directory::Node;

use super::nodes::NodeDocs;

/// The records kept, by their digests: an envelope can be written in many ways.
#[derive(Debug, Default)]
pub(super) struct Kept {
    records: BTreeMap<Digest, Record>,
    by_node: BTreeMap<NodeId, BTreeSet<Digest>>,
    by_grant: BTreeMap<Digest, BTreeSet<NodeId>>,
}

#[derive(Debug)]
struct Record {
    docs: NodeDocs,
    grant: Digest,
    node: NodeId,
    epoch: u64,
}

impl Kept {
    /// What was kept before.
    pub(super) fn of(trust: &OrgTrust, docs: impl IntoIterator<Item = NodeDocs>) -> Self {
        let mut kept = Self::default();
        for docs in docs {
            if let Some((digest, claim)) = claim(&docs.record) {
                if kept.records.contains_key(&digest) && !holds(trust, &docs) {
                    continue;
                }
                let record = Record {
                    grant: claim.grant_digest,
                    node: claim.node_id,
                    epoch: claim.epoch,
                    docs,
                };
                kept.insert(digest, record);
            }
        }
        kept
    }

    /// The documents, in an order of their own.
    pub(super) fn docs(&self) -> BTreeSet<&NodeDocs> {
        self.records.values().map(|r| &r.docs).collect()
    }

    /// Keeps a record that a hub shows if it holds and is of use. `asked_at` is when the hub was asked before: a node
    /// that it shows only now was not there then, so whoever granted it must have been able to sign after that.
    pub(super) fn take(
        &mut self,
        trust: &OrgTrust,
        docs: NodeDocs,
        asked_at: Option<Timestamp>,
    ) -> Result<(), (Digest, Refusal)> {
        let digest = digest_of(&docs.record);
        if let Some(known) = self.records.get(&digest) {
            // A digest covers no signatures: a copy without good ones must not keep a good one away.
            if known.docs == docs || holds(trust, &known.docs) || !holds(trust, &docs) {
                return Ok(());
            }
            self.remove(&digest);
        }
        self.weigh(trust, docs, asked_at)
            .map(|new| {
                if let Some(record) = new {
                    self.insert(digest, record);
                }
            })
            .map_err(|refusal| (digest, refusal))
    }

    /// Forgets what will never hold again. Whether anything did.
    pub(super) fn forget(&mut self, refused: &[(Digest, Refusal)]) -> bool {
        let before = self.records.len();
        for (digest, refusal) in refused {
            let is_first = self.records.get(digest).is_some_and(|r| r.epoch <= 1);
            match refusal.code {
                Code::NodeRevoked => self.remove(digest),
                Code::GrantRevoked if is_first => self.remove(digest),
                _ => {}
            }
        }
        self.records.len() < before
    }

    fn weigh(
        &mut self,
        trust: &OrgTrust,
        docs: NodeDocs,
        asked_at: Option<Timestamp>,
    ) -> Result<Option<Record>, Refusal> {
        let node = Node::verify(trust, &docs.grant, &docs.record)?;
        // A node that is known stands, also when it has made itself new keys since. By another grant it is new: whoever
        // has its key and that of an operator who left could else date a grant back, and take names over with it.
        let grant = node.grant.digest();
        let own = self.by_node.get(node.id()).into_iter().flatten();
        let is_known = own.filter_map(|d| self.records.get(d)).any(|r| r.grant == grant);
        if let (Some(at), false) = (asked_at, is_known) {
            trust.check_granter_at(&node.grant, at)?;
        }
        if !self.is_of_use(&node)? {
            return Ok(None);
        }
        if self.records.len() >= limits::RECORDS_KEPT {
            let text = format!(
                "this home keeps {} records of nodes and takes no more",
                limits::RECORDS_KEPT
            );
            return Err(Refusal::new(Code::LimitExceeded, text));
        }
        Ok(Some(Record {
            grant: node.grant.digest(),
            node: node.id().clone(),
            epoch: node.record.epoch,
            docs,
        }))
    }

    /// Whether a record could change what is believed. Older epochs of its node give way.
    fn is_of_use(&mut self, node: &Node) -> Result<bool, Refusal> {
        let own = self.by_node.get(node.id()).cloned().unwrap_or_default();
        let epoch = |d: &Digest| self.records.get(d).map_or(0, |r| r.epoch);
        let newest = own.iter().map(epoch).max().unwrap_or_default();
        if node.record.epoch < newest {
            return Ok(false);
        }
        if node.record.epoch > newest {
            own.iter().for_each(|d| self.remove(d));
        } else if own.len() > 1 {
            let text = format!("{} has two records of epoch {newest}", node.id());
            return Err(Refusal::new(Code::NodeRecordInvalid, text));
        }
        let used = self.by_grant.get(&node.grant.digest());
        let others = used.map_or(0, |ids| ids.iter().filter(|id| *id != node.id()).count());
        if others as u64 > u64::from(node.grant.max_uses) {
            let text = format!("more than {} nodes stand on its grant", node.grant.max_uses);
            return Err(Refusal::new(Code::GrantUsed, text));
        }
        Ok(true)
    }

    fn insert(&mut self, digest: Digest, record: Record) {
        let of_node = self.by_node.entry(record.node.clone()).or_default();
        of_node.insert(digest);
        let of_grant = self.by_grant.entry(record.grant).or_default();
        of_grant.insert(record.node.clone());
        self.records.insert(digest, record);
    }

    fn remove(&mut self, digest: &Digest) {
        let Some(record) = self.records.remove(digest) else {
            return;
        };
        if let Some(own) = self.by_node.get_mut(&record.node) {
            own.remove(digest);
        }
        if let Some(ids) = self.by_grant.get_mut(&record.grant) {
            ids.remove(&record.node);
        }
    }
}

/// Which node a record says it is of, unverified, and the digest that a refusal of it goes by.
pub(super) fn claim(record: &str) -> Option<(Digest, NodeRecord)> {
    let envelope = Envelope::parse(record.as_bytes(), limits::ENVELOPE).ok()?;
    let claim = json::from_slice(&envelope.payload).ok()?;
    Some((envelope.digest(), claim))
}

fn holds(trust: &OrgTrust, docs: &NodeDocs) -> bool {
    Node::verify(trust, &docs.grant, &docs.record).is_ok()
}

fn digest_of(record: &str) -> Digest {
    Envelope::parse(record.as_bytes(), limits::ENVELOPE)
        .map_or_else(|_| Digest::of(record.as_bytes()), |e| e.digest())
}
