//! What this home holds of its org: the pinned law, and the nodes it has seen proof of.
//!
//! ```text
//! trust/law.json            root chain, bundle, freshness, revocations: exactly as signed
//! trust/nodes/all.json      every (grant, record) seen
//! trust/nodes/name/NAME     the one node of that name, or why there is none
//! trust/nodes/id/ID         one node
//! trust/refreshed           touched when the hub was last asked
//! ```
//!
//! All nodes together are judged when the hub was asked; one node is verified again whenever it is used, so that
//! a command costs three signatures however large the fleet is.
//!
//! # Invariants
//! - Law never goes back, and a record once seen is not forgotten because a hub stops showing it: a second
//!   machine under a name stays ambiguous until a signed document settles it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_proto::agent::{LawDocs, Wire};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, Name, NodeId, OrgId, Timestamp};
use lictor_trust::directory::{Node, NodeDirectory};
use lictor_trust::{AcceptReport, OrgTrust};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::home::{Home, HomeError, make_dir, replace};
use crate::hub::Hub;

/// After this long the hub is asked for news before anything is signed.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// The pinned trust of one org.
#[derive(Debug)]
pub struct TrustStore {
    dir: PathBuf,
    trust: OrgTrust,
}

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

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Known {
    Node(NodeDocs),
    Refused(Refusal),
}

/// What asking the hub for news gave.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// What became of the law.
    pub law: AcceptReport,
    /// Records that do not hold, by digest, and why.
    pub nodes: Vec<(Digest, Refusal)>,
}

impl TrustStore {
    /// Reads and verifies what is pinned in a home.
    ///
    /// # Errors
    /// [`Error::Home`] when nothing is, or it cannot be read; [`Error::Untrusted`] when it does not hold.
    pub fn open(home: &Home, org: &OrgId) -> Result<Self, Error> {
        let dir = home.trust_dir();
        let docs: LawDocs = read_json(&law_path(&dir))?.ok_or_else(|| HomeError::Missing(dir.clone()))?;
        let trust = OrgTrust::restore(org, &docs).map_err(Error::Untrusted)?;
        Ok(Self { dir, trust })
    }

    /// Pins an org by its root version 1; its hash must be the org's id.
    ///
    /// # Errors
    /// [`Error::Untrusted`] when it is another org's.
    pub fn pin(home: &Home, org: &OrgId, root_v1: &str) -> Result<Self, Error> {
        let dir = home.trust_dir();
        make_dir(&dir)?;
        let trust = OrgTrust::pin(org, root_v1).map_err(Error::Untrusted)?;
        let store = Self { dir, trust };
        store.save()?;
        Ok(store)
    }

    /// The org's trust.
    #[must_use]
    pub fn trust(&self) -> &OrgTrust {
        &self.trust
    }

    /// Takes newer law, and keeps it.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be written; refusals are in the report.
    pub fn accept(&mut self, docs: &LawDocs) -> Result<AcceptReport, Error> {
        let report = self.trust.accept(docs, Timestamp::now());
        if report.changed() {
            self.save()?;
        }
        Ok(report)
    }

    /// Whether the hub has not been asked for a while.
    #[must_use]
    pub fn is_old(&self) -> bool {
        let asked = fs::metadata(self.dir.join("refreshed")).and_then(|m| m.modified());
        !asked.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < REFRESH_AFTER))
    }

    /// Asks the hub for law and nodes, believes what holds, and keeps it.
    ///
    /// # Errors
    /// When the hub cannot be asked or the home not written.
    pub async fn refresh(&mut self, hub: &Hub) -> Result<Refreshed, Error> {
        let view = hub.trust().await?;
        let law = self.accept(&view.docs)?;
        let shown = hub.nodes().await?.into_iter().map(|n| NodeDocs {
            grant: n.grant,
            record: n.record,
        });
        let nodes = self.remember(shown)?;
        replace(&self.dir.join("refreshed"), b"")?;
        Ok(Refreshed { law, nodes })
    }

    /// Judges these nodes together with all seen before, and keeps the result. Gives the records refused.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be written.
    pub fn remember(
        &self,
        shown: impl IntoIterator<Item = NodeDocs>,
    ) -> Result<Vec<(Digest, Refusal)>, Error> {
        let mut all: BTreeSet<NodeDocs> = read_json(&self.all_path())?.unwrap_or_default();
        let before = all.len();
        all.extend(shown);
        let pairs = all.iter().map(|d| (d.grant.as_str(), d.record.as_str()));
        let directory = NodeDirectory::build(&self.trust, pairs);
        for node in directory.iter() {
            write_json(&self.id_path(node.id()), &NodeDocs::of(node))?;
            let known = match directory.resolve(node.name()) {
                Ok(one) => Known::Node(NodeDocs::of(one)),
                Err(refusal) => Known::Refused(refusal),
            };
            write_json(&self.name_path(node.name()), &known)?;
        }
        if all.len() != before {
            write_json(&self.all_path(), &all)?;
        }
        Ok(directory.refused().to_vec())
    }

    /// The node of this id, when documents seen before prove it.
    ///
    /// # Errors
    /// [`Error::Untrusted`] with [`Code::NodeUnknown`], or why it is no longer accepted.
    pub fn node(&self, id: &NodeId) -> Result<Node, Error> {
        match read_json::<NodeDocs>(&self.id_path(id))? {
            Some(docs) => self.verify(&docs),
            None => Err(unknown(id.as_str())),
        }
    }

    /// The one node that `text` means: an id, or a name that one live record claims.
    ///
    /// # Errors
    /// [`Error::Untrusted`] with [`Code::NodeUnknown`] or [`Code::AmbiguousName`].
    pub fn resolve(&self, text: &str) -> Result<Node, Error> {
        if let Ok(id) = text.parse::<NodeId>() {
            return self.node(&id);
        }
        let name: Name = text.parse().map_err(|_| unknown(text))?;
        match read_json::<Known>(&self.name_path(&name))? {
            Some(Known::Node(docs)) => self.verify(&docs),
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

    fn verify(&self, docs: &NodeDocs) -> Result<Node, Error> {
        Node::verify(&self.trust, &docs.grant, &docs.record).map_err(Error::Untrusted)
    }

    fn save(&self) -> Result<(), Error> {
        write_json(&law_path(&self.dir), &self.trust.docs())
    }

    fn all_path(&self) -> PathBuf {
        self.dir.join("nodes/all.json")
    }

    fn name_path(&self, name: &Name) -> PathBuf {
        self.dir.join("nodes/name").join(name.as_str())
    }

    fn id_path(&self, id: &NodeId) -> PathBuf {
        self.dir.join("nodes/id").join(id.as_str())
    }
}

fn law_path(dir: &Path) -> PathBuf {
    dir.join("law.json")
}

fn unknown(text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::Untrusted(Refusal::new(
        Code::NodeUnknown,
        format!("no accepted record names {shown:?}"),
    ))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(HomeError::io(path)(e).into()),
    };
    let malformed = |e: serde_json::Error| HomeError::Malformed {
        path: path.to_owned(),
        why: e.to_string(),
    };
    Ok(Some(serde_json::from_slice(&bytes).map_err(malformed)?))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Malformed(e.to_string()))?;
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    Ok(replace(path, &bytes)?)
}
