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
    #[serde(default, alias = "approver")]
    operator: String,
}

/// Approvals, and releases, that go with one offer: a node reads no more of them.
const PASSED_ON: usize = 64;
/// Their bytes: with the job and the rest of an offer less than an agent reads. An approval of thousands of nodes has 180
/// bytes for each, and a gate may ask for nine.
const APPROVAL_BYTES: usize = 5 * limits::ENVELOPE;
const RELEASE_BYTES: usize = 5 * limits::ENVELOPE;
const _: () = assert!(
    limits::JOB_ENVELOPE + APPROVAL_BYTES + RELEASE_BYTES <= limits::ASK / 4 * 3,
    "a quarter is for secrets, and for quotes in JSON"
);

fn named(wire: &str) -> Option<Named> {
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}

fn nodes(wire: &str) -> Vec<NodeId> {
    named(wire).map(|n| n.nodes).unwrap_or_default()
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

/// Of these approvals, oldest first, those to pass on.
pub(crate) fn approvals_for(approvals: &[Wire]) -> Vec<Wire> {
    fairly(approvals, APPROVAL_BYTES, |_| true)
}

/// Of these releases, oldest first, those to pass on to this node.
pub(crate) fn releases_for(releases: &[Wire], node: &NodeId) -> Vec<Wire> {
    fairly(releases, RELEASE_BYTES, |named| named.nodes.contains(node))
}

/// Whose count on a node the hub does not know, so the newest of each person comes first, then the one before of each:
/// nobody crowds out another.
fn fairly(all: &[Wire], most_bytes: usize, is_meant: impl Fn(&Named) -> bool) -> Vec<Wire> {
    let mut so_far: HashMap<String, usize> = HashMap::new();
    let newest_first = all.iter().rev();
    let mut meant: Vec<(usize, &Wire)> = newest_first
        .filter_map(|wire| {
            let named = named(wire).filter(&is_meant)?;
            let newer = so_far.entry(named.operator).or_default();
            *newer += 1;
            Some((*newer, wire))
        })
        .collect();
    meant.sort_by_key(|(newer, _)| *newer);
    let mut left = most_bytes;
    let fitting = meant.into_iter().map(|(_, wire)| wire).filter(|wire| {
        let fits = wire.len() <= left;
        left -= if fits { wire.len() } else { 0 };
        fits
    });
    fitting.take(PASSED_ON).cloned().collect()
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
        assert_eq!(passed.len(), PASSED_ON);
        assert_eq!(
            passed[..2],
            [all[101].clone(), bobs],
            "the newest of each come first"
        );
        assert_eq!(passed[2], all[100]);
        assert_eq!(releases_for(&all, &node(2)), all[1..2], "no other node's");
    }

    #[test]
    fn useless_approvals_of_one_crowd_out_no_other() {
        let approval = |approver: &str, at: u64| {
            let issued_at = Timestamp::from_millis(at);
            let approval = lictor_proto::doc::Approval {
                tag: Default::default(),
                org: org(),
                job_digest: Digest::of(b"job"),
                approver: approver.parse().unwrap(),
                facts: Vec::new(),
                min_bundle: 1,
                issued_at,
                expires_at: issued_at.plus(Duration::from_secs(60)),
            };
            to_wire(&sign(&approval, &[&SecretKey::generate().unwrap()]))
        };
        let bobs = approval("bob", 1);
        let mut all = vec![bobs.clone()];
        all.extend((2..102).map(|at| approval("mallory", at)));
        let passed = approvals_for(&all);
        assert_eq!((passed.len(), &passed[1]), (PASSED_ON, &bobs));
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
