//! The nodes that this home has seen proof of.
//!
//! All nodes together are judged when something new is seen; one node is verified again whenever it is used, so that
//! a command costs three signatures however large the fleet is.
//!
//! # Invariants
//! - A record that held is not forgotten because a hub stops showing it: a second machine under a name stays
//!   ambiguous until a signed document settles it. What never held is not kept ([`super::kept`]).
//! - Whatever the directory of all nodes refuses is refused by name and by id as well. A record that does not hold
//!   never takes the place of one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lictor_proto::agent::Wire;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, Name, NodeId};
use lictor_trust::directory::{Node, NodeDirectory};
use serde::{Deserialize, Serialize};

use super::kept::{Kept, claim};
use super::{TrustStore, read_json, write_json};
use crate::error::Error;
use crate::lock::Lock;

/// A node's documents, as they were signed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDocs {
    /// The grant.
    pub grant: Wire,
    /// The record.
    pub record: Wire,
}

impl NodeDocs {
    fn of(node: &Node) -> Self {
        Self {
            grant: node.grant.wire().to_owned(),
            record: node.record.wire().to_owned(),
        }
    }
}

/// What a name or an id leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Known {
    Node(NodeDocs),
    Refused(Refusal),
}

impl From<Result<&Node, Refusal>> for Known {
    fn from(found: Result<&Node, Refusal>) -> Self {
        found.map_or_else(Self::Refused, |node| Self::Node(NodeDocs::of(node)))
    }
}

impl TrustStore {
    /// Judges these nodes together with all kept before, and keeps what is of use. Gives the records refused.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be written.
    pub fn remember(
        &self,
        shown: impl IntoIterator<Item = NodeDocs>,
    ) -> Result<Vec<(Digest, Refusal)>, Error> {
        let lock = Lock::take(&self.dir)?;
        self.judge(&lock, shown)
    }

    pub(super) fn judge(
        &self,
        _lock: &Lock,
        shown: impl IntoIterator<Item = NodeDocs>,
    ) -> Result<Vec<(Digest, Refusal)>, Error> {
        let stored: BTreeSet<NodeDocs> = read_json(&self.all_path())?.unwrap_or_default();
        let mut kept = Kept::of(&self.trust, stored.iter().cloned());
        let asked_at = self.asked_at();
        let mut refused = Vec::new();
        for docs in shown {
            refused.extend(kept.take(&self.trust, docs, asked_at).err());
        }
        let all = kept.docs();
        let pairs = all.iter().map(|d| (d.grant.as_str(), d.record.as_str()));
        let directory = NodeDirectory::build(&self.trust, pairs);
        // First, so that a crash in between leaves nothing behind that was judged without what is new.
        if !all.iter().copied().eq(&stored) {
            write_json(&self.all_path(), &all)?;
        }
        self.write_refused(&directory, &all)?;
        for node in directory.iter() {
            write_json(&self.id_path(node.id()), &Known::from(Ok(node)))?;
            let known = Known::from(directory.resolve(node.name()));
            write_json(&self.name_path(node.name()), &known)?;
        }
        refused.extend_from_slice(directory.refused());
        // Last, when names and ids that led to it say why they no longer do.
        if kept.forget(directory.refused()) {
            write_json(&self.all_path(), &kept.docs())?;
        }
        Ok(refused)
    }

    /// Leaves the reason where a record that was accepted before no longer is, and no other took its place. What was
    /// never accepted stays unknown: a hub could make up any number of names.
    fn write_refused(&self, directory: &NodeDirectory, all: &BTreeSet<&NodeDocs>) -> Result<(), Error> {
        let refused: BTreeMap<&Digest, &Refusal> = directory.refused().iter().map(|(d, r)| (d, r)).collect();
        if refused.is_empty() {
            return Ok(());
        }
        for (digest, claim) in all.iter().filter_map(|docs| claim(&docs.record)) {
            let Some(refusal) = refused.get(&digest) else {
                continue;
            };
            let known = Known::Refused((*refusal).clone());
            let (id, name) = (self.id_path(&claim.node_id), self.name_path(&claim.name));
            if directory.get(&claim.node_id).is_err() && id.exists() {
                write_json(&id, &known)?;
            }
            let taken = directory.iter().any(|n| *n.name() == claim.name);
            if !taken && name.exists() {
                write_json(&name, &known)?;
            }
        }
        Ok(())
    }

    /// The node of this id, when documents seen before prove it.
    ///
    /// # Errors
    /// [`Error::Untrusted`] with [`Code::NodeUnknown`], or why it is no longer accepted.
    pub fn node(&self, id: &NodeId) -> Result<Node, Error> {
        self.known(&self.id_path(id), id.as_str())
    }

    /// The one node that `text` means: an id, or a name that one live record claims.
    ///
    /// # Errors
    /// [`Error::Untrusted`] with [`Code::NodeUnknown`] or [`Code::AmbiguousName`], or why it is no longer accepted.
    pub fn resolve(&self, text: &str) -> Result<Node, Error> {
        if let Ok(id) = text.parse::<NodeId>() {
            return self.node(&id);
        }
        let name: Name = text.parse().map_err(|_| unknown(text))?;
        self.known(&self.name_path(&name), text)
    }

    fn known(&self, path: &Path, text: &str) -> Result<Node, Error> {
        match read_json::<Known>(path)? {
            Some(Known::Node(docs)) => {
                Node::verify(&self.trust, &docs.grant, &docs.record).map_err(Error::Untrusted)
            }
            Some(Known::Refused(refusal)) => Err(Error::Untrusted(refusal)),
            None => Err(unknown(text)),
        }
    }

    /// All nodes seen, judged together.
    ///
    /// # Errors
    /// [`Error::Home`] when they cannot be read.
    pub fn directory(&self) -> Result<NodeDirectory, Error> {
        let all: BTreeSet<NodeDocs> = read_json(&self.all_path())?.unwrap_or_default();
        let pairs = all.iter().map(|d| (d.grant.as_str(), d.record.as_str()));
        Ok(NodeDirectory::build(&self.trust, pairs))
    }

    fn all_path(&self) -> PathBuf {
        self.dir.join("nodes/all.json")
    }

    fn name_path(&self, name: &Name) -> PathBuf {
        self.dir.join("nodes/by-name").join(name.as_str())
    }

    fn id_path(&self, id: &NodeId) -> PathBuf {
        self.dir.join("nodes/by-id").join(id.as_str())
    }
}

fn unknown(text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::Untrusted(Refusal::new(
        Code::NodeUnknown,
        format!("no accepted record names {shown:?}"),
    ))
}
