//! Which nodes a signed document names, where it names some of a job's: for passing it on, never for deciding anything.

use std::collections::HashMap;

use lictor_proto::agent::Wire;
use lictor_proto::{Envelope, NodeId, limits};
use serde::Deserialize;

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    nodes: Vec<NodeId>,
    /// Who signed it, as it says.
    #[serde(default)]
    operator: String,
}

/// Releases that go with one offer: a node reads no more of them.
const RELEASES: usize = 64;
/// Their bytes together: with the rest of an offer less than an agent reads.
const RELEASE_BYTES: usize = 8 * limits::ENVELOPE;

fn named(wire: &str) -> Option<Named> {
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}

fn nodes(wire: &str) -> Vec<NodeId> {
    named(wire).map(|n| n.nodes).unwrap_or_default()
}

/// Who signed it, as it says.
pub(crate) fn signer(wire: &str) -> Option<String> {
    named(wire).map(|n| n.operator)
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

/// Of these releases, oldest first, those to pass on to this node. Whose count there the hub does not know, so the newest
/// of each operator comes first, then the one before of each: nobody crowds out another.
pub(crate) fn releases_for(releases: &[Wire], node: &NodeId) -> Vec<Wire> {
    let mut so_far: HashMap<String, usize> = HashMap::new();
    let newest_first = releases.iter().rev();
    let mut of_it: Vec<(usize, &Wire)> = newest_first
        .filter_map(|wire| {
            let named = named(wire).filter(|n| n.nodes.contains(node))?;
            let newer = so_far.entry(named.operator).or_default();
            *newer += 1;
            Some((*newer, wire))
        })
        .collect();
    of_it.sort_by_key(|(newer, _)| *newer);
    let mut bytes = 0;
    let fitting = of_it.into_iter().map(|(_, wire)| wire).take_while(|wire| {
        bytes += wire.len();
        bytes <= RELEASE_BYTES
    });
    fitting.take(RELEASES).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use lictor_proto::doc::Release;
    use lictor_proto::{Digest, OrgId, Timestamp};
    use lictor_trust::sign::to_wire;
    use lictor_trust::{SecretKey, sign};

    fn org() -> OrgId {
        OrgId::from_root(&Digest::of(b"root"))
    }

    fn node(n: u8) -> NodeId {
        NodeId::derive(&org(), &[n; 32])
    }

    fn release(operator: &str, issued_at: u64, nodes: Vec<NodeId>) -> Wire {
        let issued_at = Timestamp::from_millis(issued_at);
        let release = Release {
            tag: Default::default(),
            org: org(),
            job_digest: Digest::of(b"job"),
            operator: operator.parse().unwrap(),
            nodes,
            min_bundle: 1,
            issued_at,
            expires_at: issued_at.plus(Duration::from_secs(60)),
        };
        to_wire(&sign(&release, &[&SecretKey::generate().unwrap()]))
    }

    #[test]
    fn useless_releases_of_one_crowd_out_no_other() {
        let bobs = release("bob", 1, vec![node(1)]);
        let mut all = vec![bobs.clone(), release("carol", 2, vec![node(2)])];
        all.extend((3..103).map(|at| release("mallory", at, vec![node(1)])));
        let passed = releases_for(&all, &node(1));
        assert_eq!(passed.len(), RELEASES);
        assert_eq!(
            passed[..2],
            [all[101].clone(), bobs],
            "the newest of each come first"
        );
        assert_eq!(passed[2], all[100]);
        assert_eq!(releases_for(&all, &node(2)), all[1..2], "no other node's");
    }

    #[test]
    fn releases_that_go_along_stay_below_what_an_agent_reads() {
        let many: Vec<NodeId> = (0..10_000u32)
            .map(|n| NodeId::derive(&org(), &Digest::of(&n.to_be_bytes()).0))
            .collect();
        let large = release("bob", 1, many.clone());
        let passed = releases_for(&vec![large.clone(); 30], &many[0]);
        assert!(passed.len() > 1, "{} bytes each", large.len());
        let bytes: usize = passed.iter().map(String::len).sum();
        assert!(bytes <= RELEASE_BYTES, "{bytes}");
    }
}
