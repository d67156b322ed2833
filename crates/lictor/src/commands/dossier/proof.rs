//! Which nodes of a job are proven, and what becomes of the others: they stay in its dossier by their ids, with the reason.
//!
//! # Invariants
//! - A node that nothing proves is named by its id alone, which the job's signature is over; nothing that it has signed is
//!   believed, and nothing of that keeps anybody from what is about the other nodes.

use lictor_client::{Error, Hub, TrustStore};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Envelope, NodeId, limits};
use lictor_trust::directory::Node;
use serde_json::{Value, json};

use super::Dossier;
use crate::escape::escape;
use crate::failure::{Failure, Result};
use crate::out::Out;
use crate::session::{Session, failed};

/// A node of a job that was revoked, or that nothing proves for another reason.
pub(crate) struct Unproven {
    pub(crate) id: NodeId,
    pub(crate) refusal: Refusal,
    /// Documents by which it would speak, and which nobody believes.
    pub(crate) said: usize,
}

impl Unproven {
    pub(crate) fn text(&self) -> String {
        let said = match self.said {
            0 => String::new(),
            n => format!("; what it has signed is not believed ({n} documents)"),
        };
        let refusal = escape(&self.refusal.to_string());
        format!("nothing proves {}: {refusal}{said}", self.id)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "node_id": self.id, "code": self.refusal.code, "message": self.refusal.message })
    }

    /// Revocations are for good, so that there is no use in asking a hub for news.
    pub(crate) fn is_for_good(&self) -> bool {
        matches!(self.refusal.code, Code::NodeRevoked | Code::GrantRevoked)
    }
}

/// The nodes of a job, in its order. The hub is asked once for news of those that nothing here proves, however many they are.
pub(super) async fn of_job(
    session: &Session,
    hub: &Hub,
    store: &mut TrustStore,
    ids: &[NodeId],
) -> Result<(Vec<Node>, Vec<Unproven>)> {
    let (nodes, unproven) = known(store, ids)?;
    if unproven.iter().all(Unproven::is_for_good) {
        return Ok((nodes, unproven));
    }
    session.refresh(store, hub).await?;
    known(store, ids)
}

fn known(store: &TrustStore, ids: &[NodeId]) -> Result<(Vec<Node>, Vec<Unproven>)> {
    let (mut nodes, mut unproven) = (Vec::new(), Vec::new());
    for id in ids {
        match store.node(id) {
            Ok(node) => nodes.push(node),
            Err(Error::Untrusted(refusal)) => unproven.push(Unproven {
                id: id.clone(),
                refusal,
                said: 0,
            }),
            Err(e) => return Err(failed(&format!("find the node {id}"), &e)),
        }
    }
    Ok((nodes, unproven))
}

/// The documents of nodes that may be believed; those of the others are counted and left out. A hub that passes a document
/// off as one of theirs could as well have left it out.
pub(super) fn of_proven<'a>(docs: &'a [String], unproven: &mut [Unproven]) -> Vec<&'a String> {
    let mut proven = Vec::with_capacity(docs.len());
    for wire in docs {
        let claimed = match unproven.is_empty() {
            true => None,
            false => claimed(wire),
        };
        match unproven.iter_mut().find(|u| Some(&u.id) == claimed.as_ref()) {
            Some(one) => one.said += 1,
            None => proven.push(wire),
        }
    }
    proven
}

/// What holds for the node that a document names; where it names none of them, the last refusal of all.
pub(super) fn its_node<T>(
    nodes: &[Node],
    wire: &str,
    check: impl Fn(&Node) -> std::result::Result<T, Refusal>,
) -> std::result::Result<T, Refusal> {
    // Signatures are looked at once for each document, however many nodes there are.
    if let Some(node) = claimed(wire).and_then(|id| nodes.iter().find(|n| *n.id() == id)) {
        return check(node);
    }
    let mut last = Refusal::plain(Code::NodeUnknown);
    for node in nodes {
        match check(node) {
            Ok(value) => return Ok(value),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

/// The node that a document says it is of; nothing of it is verified.
fn claimed(wire: &str) -> Option<NodeId> {
    #[derive(serde::Deserialize)]
    struct Claim {
        node_id: NodeId,
    }
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok()?;
    let claim: Claim = serde_json::from_slice(&envelope.payload).ok()?;
    Some(claim.node_id)
}

impl Dossier {
    /// The node of the job that is named, or the only one.
    pub(crate) fn node(&self, named: Option<&str>) -> Result<&Node> {
        let is = |n: &&Node| named.is_none_or(|text| n.name().as_str() == text || n.id().as_str() == text);
        let mut found = self.nodes.iter().filter(is);
        match (found.next(), found.next()) {
            (Some(node), None) => Ok(node),
            (None, _) => Err(self.no_node(named)),
            _ => Err(Failure::new("this job is for several nodes").hint("Name one with --node.")),
        }
    }

    fn no_node(&self, named: Option<&str>) -> Failure {
        let is = |u: &&Unproven| named.is_none_or(|text| u.id.as_str() == text);
        if let Some(unproven) = self.unproven.iter().find(is) {
            return Failure::refused(format!("nothing proves {}", unproven.id), &unproven.refusal);
        }
        let what = format!("the job is not for {}", escape(named.unwrap_or_default()));
        let failure = Failure::new(what);
        if self.unproven.is_empty() {
            failure.hint("`lictor job ID` lists its nodes.")
        } else {
            failure.hint("`lictor job ID` lists its nodes; those that nothing proves go by their ids.")
        }
    }

    /// The nodes of the job that are named.
    pub(crate) fn named(&self, names: &[String]) -> Result<Vec<&Node>> {
        names.iter().map(|name| self.node(Some(name))).collect()
    }

    /// The ids of the nodes that are named, also of those that nothing proves, which go by their ids.
    pub(crate) fn ids(&self, names: &[String]) -> Result<Vec<NodeId>> {
        let id = |name: &String| match self.job.nodes.iter().find(|id| id.as_str() == name) {
            Some(id) => Ok(id.clone()),
            None => self.node(Some(name)).map(|node| node.id().clone()),
        };
        names.iter().map(id).collect()
    }

    /// Whether it is for this node, and nothing proves that.
    pub(crate) fn is_unproven(&self, id: &NodeId) -> bool {
        self.unproven.iter().any(|u| u.id == *id)
    }

    /// Says whom a command leaves out.
    pub(crate) fn tell_unproven(&self, out: Out) {
        for unproven in &self.unproven {
            out.note(format!("left out: {}", unproven.text()));
        }
    }
}
