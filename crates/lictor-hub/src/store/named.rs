//! Which nodes a signed document names, where it names some of a job's: for passing it on, never for deciding anything.

use lictor_proto::agent::Wire;
use lictor_proto::{Envelope, NodeId, limits};
use serde::Deserialize;

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    nodes: Vec<NodeId>,
}

fn nodes(wire: &str) -> Vec<NodeId> {
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok();
    let named: Option<Named> = envelope.and_then(|e| serde_json::from_slice(&e.payload).ok());
    named.map(|n| n.nodes).unwrap_or_default()
}

/// The nodes that a cancel is for; none is all of the job's.
pub(crate) fn canceled_nodes(wire: &str) -> Vec<NodeId> {
    nodes(wire)
}

/// Whether a cancel is for this node.
pub(crate) fn is_canceled_on(wire: &str, node: &NodeId) -> bool {
    let named = nodes(wire);
    named.is_empty() || named.contains(node)
}

/// Those releases that are for this node: a node reads only so many.
pub(crate) fn releases_for(releases: &[Wire], node: &NodeId) -> Vec<Wire> {
    let of_it = releases.iter().filter(|wire| nodes(wire).contains(node));
    of_it.cloned().collect()
}
