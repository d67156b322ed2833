//! Who is which node: built on one's own machine from grants, records and revocations, believed from nobody.
//!
//! # Invariants
//! - A name leads to a node only while exactly one live record claims it.
//! - A grant used more often than it allows vouches for none of its nodes until revocations settle it: its token
//!   has leaked, and nothing says which of them is the thief.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Grant, NodeKind, NodeRecord};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, Name, NodeId};

use crate::org_trust::OrgTrust;
use crate::receipt::NodeKeys;
use crate::verify::{Sealed, Verified};

/// The nodes of an org, as far as their documents hold.
#[derive(Debug, Clone, Default)]
pub struct NodeDirectory {
    nodes: BTreeMap<NodeId, Node>,
    names: BTreeMap<Name, BTreeSet<NodeId>>,
    refused: Vec<(Digest, Refusal)>,
}

/// A node whose grant and record hold.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its keys.
    pub keys: NodeKeys,
    /// What kind it is.
    pub kind: NodeKind,
    /// Labels from its grant.
    pub labels: BTreeMap<Name, Name>,
    /// The groups that these and its name put it in, sorted.
    pub groups: Vec<Name>,
    /// Whether another node has taken over its name.
    pub replaced: bool,
    /// The record.
    pub record: Verified<NodeRecord>,
    /// The grant.
    pub grant: Verified<Grant>,
}

impl Node {
    /// One node from its grant and record, without looking at others. What a node knows about itself.
    ///
    /// # Errors
    /// The code of whichever rule is broken.
    pub fn verify(trust: &OrgTrust, grant: &str, record: &str) -> Result<Self, Refusal> {
        let grant = trust.verify_grant(grant)?;
        let record = trust.verify_node(&grant, record)?;
        Ok(Self {
            keys: NodeKeys::of(&record)?,
            kind: grant.kind,
            labels: grant.labels.clone(),
            groups: trust.held()?.fleet.groups_of(&record.name, &grant.labels),
            replaced: false,
            record,
            grant,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.keys.node_id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.keys.name
    }

    fn keys_besides_identity(&self) -> [PublicKey; 3] {
        let r = &self.record;
        [r.e2e_key, r.link_key, PublicKey::ed25519(r.seal_key)]
    }
}

impl NodeDirectory {
    /// Builds the directory from pairs of (grant, record), as a hub lists them, in any order.
    pub fn build<'a>(trust: &OrgTrust, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut directory = Self::default();
        let mut found = Vec::new();
        for (grant, record) in pairs {
            match Node::verify(trust, grant, record) {
                Ok(node) => found.push(node),
                Err(refusal) => {
                    let digest = Sealed::open(DocKind::Node, record).map(|s| s.digest());
                    directory.refuse(digest.unwrap_or(Digest::of(record.as_bytes())), refusal);
                }
            }
        }
        let found = directory.newest_epochs(found);
        let found = directory.within_uses(found);
        let found = directory.distinct_keys(found);
        directory.settle_names(found);
        directory
    }

    fn refuse(&mut self, record: Digest, refusal: Refusal) {
        self.refused.push((record, refusal));
    }

    /// One record for each node: that of the highest epoch. Two of one epoch vouch for nothing.
    fn newest_epochs(&mut self, found: Vec<Node>) -> Vec<Node> {
        let mut by_id: BTreeMap<NodeId, Vec<Node>> = BTreeMap::new();
        for node in found {
            let records = by_id.entry(node.id().clone()).or_default();
            if records.iter().all(|n| n.record.digest() != node.record.digest()) {
                records.push(node);
            }
        }
        let mut kept = Vec::new();
        for mut records in by_id.into_values() {
            let newest = records.iter().map(|n| n.record.epoch).max().unwrap_or_default();
            records.retain(|n| n.record.epoch == newest);
            if records.len() == 1 {
                kept.append(&mut records);
            }
            for node in records {
                let text = format!("{} has two records of epoch {newest}", node.id());
                self.refuse(node.record.digest(), Refusal::new(Code::NodeRecordInvalid, text));
            }
        }
        kept
    }

    fn within_uses(&mut self, found: Vec<Node>) -> Vec<Node> {
        let mut uses: BTreeMap<Digest, u64> = BTreeMap::new();
        for node in &found {
            *uses.entry(node.grant.digest()).or_default() += 1;
        }
        let over = |n: &Node| uses.get(&n.grant.digest()) > Some(&u64::from(n.grant.max_uses));
        self.split(found, over, |n| {
            let text = format!(
                "more than {} nodes stand on the grant of {}",
                n.grant.max_uses,
                n.name()
            );
            Refusal::new(Code::GrantUsed, text)
        })
    }

    /// Only the identity key is proven by its owner; whoever claims a key that somebody else also claims is out.
    fn distinct_keys(&mut self, found: Vec<Node>) -> Vec<Node> {
        let identities: BTreeSet<_> = found.iter().map(|n| n.record.identity_key).collect();
        let mut claims: BTreeMap<PublicKey, u32> = BTreeMap::new();
        for key in found.iter().flat_map(Node::keys_besides_identity) {
            *claims.entry(key).or_default() += 1;
        }
        let shared = |n: &Node| {
            let mut keys = n.keys_besides_identity().into_iter();
            keys.any(|k| identities.contains(&k) || claims.get(&k) > Some(&1))
        };
        self.split(found, shared, |n| {
            let text = format!("a key of {} ({}) is also another node's", n.name(), n.id());
            Refusal::new(Code::DuplicateKey, text)
        })
    }

    fn split(
        &mut self,
        found: Vec<Node>,
        out: impl Fn(&Node) -> bool,
        why: impl Fn(&Node) -> Refusal,
    ) -> Vec<Node> {
        let (bad, good) = found.into_iter().partition::<Vec<_>, _>(out);
        for node in bad {
            self.refuse(node.record.digest(), why(&node));
        }
        good
    }

    /// A grant that says `replaces` takes the name from its predecessor, if that was the same name.
    fn settle_names(&mut self, found: Vec<Node>) {
        let taken: BTreeSet<(NodeId, Name)> = found
            .iter()
            .filter_map(|n| Some((n.grant.replaces.clone()?, n.name().clone())))
            .collect();
        for mut node in found {
            node.replaced = taken.contains(&(node.id().clone(), node.name().clone()));
            if !node.replaced {
                let ids = self.names.entry(node.name().clone()).or_default();
                ids.insert(node.id().clone());
            }
            self.nodes.insert(node.id().clone(), node);
        }
    }

    /// The one live node of that name.
    ///
    /// # Errors
    /// [`Code::NodeUnknown`], [`Code::AmbiguousName`].
    pub fn resolve(&self, name: &Name) -> Result<&Node, Refusal> {
        let ids = self.names.get(name).into_iter().flatten();
        let mut nodes = ids.filter_map(|id| self.nodes.get(id));
        match (nodes.next(), nodes.next()) {
            (Some(node), None) => Ok(node),
            (None, _) => {
                let text = format!("no accepted record names {name}");
                Err(Refusal::new(Code::NodeUnknown, text))
            }
            (Some(a), Some(b)) => {
                let text = format!("{name} is claimed by {} and by {}", a.id(), b.id());
                Err(Refusal::new(Code::AmbiguousName, text))
            }
        }
    }

    /// The node of that id, also one whose name has been taken over.
    ///
    /// # Errors
    /// [`Code::NodeUnknown`].
    pub fn get(&self, id: &NodeId) -> Result<&Node, Refusal> {
        self.nodes.get(id).ok_or_else(|| {
            let text = format!("no accepted record is {id}'s");
            Refusal::new(Code::NodeUnknown, text)
        })
    }

    /// All accepted nodes, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Records that were not accepted, by digest, and why.
    #[must_use]
    pub fn refused(&self) -> &[(Digest, Refusal)] {
        &self.refused
    }
}
