//! What nodes sign, and what a client remembers of it.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::doc::Receipt;
use lictor_proto::{Code, Digest};
use lictor_trust::sign::to_wire;
use lictor_trust::tracker::Observation;
use lictor_trust::{ReceiptTracker, Verified, sign};
use support::{DAY, World, at, key, refused, secrets, seed, wire};

#[test]
fn only_the_node_itself_asks_and_gives_receipts() {
    let w = World::default();
    let node = w.node();
    let ask = w.trust.verify_ask(&node, &wire(&w.ask(), &[seed::NODE])).unwrap();
    ask.check_for(&w.job_digest()).unwrap();
    refused("another job", ask.check_for(&Digest::of(b"")), Code::WrongJob);
    refused(
        "another's ask",
        w.trust.verify_ask(&node, &wire(&w.ask(), &[seed::OTHER_NODE])),
        Code::SignerUnknown,
    );
    let mut changed = w.ask();
    changed.facts = "{ }".into();
    refused(
        "facts changed",
        w.trust.verify_ask(&node, &wire(&changed, &[seed::NODE])),
        Code::DocumentInvalid,
    );

    let receipt = w
        .trust
        .verify_receipt(&node, &wire(&w.receipt(), &[seed::NODE]))
        .unwrap();
    receipt.check_for(&w.job_digest()).unwrap();
    refused("another job", receipt.check_for(&Digest::of(b"")), Code::WrongJob);
    refused(
        "forged",
        w.trust
            .verify_receipt(&node, &wire(&w.receipt(), &[seed::STRANGER])),
        Code::ReceiptForged,
    );
    let mut bad = sign(&w.receipt(), &[&key(seed::NODE)]);
    bad.payload.push(b' ');
    refused(
        "changed",
        w.trust.verify_receipt(&node, &to_wire(&bad)),
        Code::ReceiptForged,
    );
    let mut other = w.receipt();
    other.node_id = secrets(seed::OTHER_NODE).node_id(&w.org);
    refused(
        "in another's name",
        w.trust.verify_receipt(&node, &wire(&other, &[seed::NODE])),
        Code::WrongNode,
    );
    let mut lie = w.receipt();
    lie.exit = None;
    refused(
        "success without exit",
        w.trust.verify_receipt(&node, &wire(&lie, &[seed::NODE])),
        Code::DocumentInvalid,
    );
}

/// A node's receipts 1, 2, 3, ... each of a job of its own.
fn chain(w: &World, n: u64) -> Vec<Verified<Receipt>> {
    let node = w.node();
    let mut out: Vec<Verified<Receipt>> = Vec::new();
    for seq in 1..=n {
        let receipt = Receipt {
            node_seq: seq,
            prev: out.last().map(Verified::digest),
            job_digest: Digest::of(&seq.to_le_bytes()),
            finished_at: at(seq * 1000),
            ..w.receipt()
        };
        out.push(
            w.trust
                .verify_receipt(&node, &wire(&receipt, &[seed::NODE]))
                .unwrap(),
        );
    }
    out
}

#[test]
fn a_client_notices_gaps_and_closes_them() {
    let w = World::default();
    let r = chain(&w, 5);
    let mut t = ReceiptTracker::default();
    assert_eq!(t.observe(&r[0]).unwrap(), Observation::First);
    assert_eq!(t.observe(&r[1]).unwrap(), Observation::Next);
    assert_eq!(t.observe(&r[1]).unwrap(), Observation::Again);
    let gap = t.observe(&r[4]).unwrap();
    assert_eq!(gap, Observation::Gap { from: 3, to: 4 });
    assert_eq!(gap.refusal().unwrap().code, Code::ReceiptGap);
    let stored = serde_json::to_string(&t).unwrap();
    let mut t: ReceiptTracker = serde_json::from_str(&stored).unwrap();
    let node = &r[0].node_id;
    assert_eq!(t.missing(node).collect::<Vec<_>>(), [3, 4]);
    for i in [2, 3] {
        assert_eq!(t.observe(&r[i]).unwrap(), Observation::Earlier);
    }
    assert_eq!((t.missing(node).count(), t.highest(node)), (0, Some(5)));
}

#[test]
fn a_client_notices_doubled_and_reordered_receipts() {
    let w = World::default();
    let node = w.node();
    let r = chain(&w, 3);
    let verified = |receipt: &Receipt| {
        w.trust
            .verify_receipt(&node, &wire(receipt, &[seed::NODE]))
            .unwrap()
    };
    let mut t = ReceiptTracker::default();
    for receipt in &r {
        t.observe(receipt).unwrap();
    }
    type Case = (Code, &'static str, fn(&mut Receipt));
    let cases: [Case; 3] = [
        (Code::ReceiptConflict, "a second receipt of one job", |r| {
            r.node_seq = 9
        }),
        (Code::ReceiptConflict, "a second receipt of one number", |r| {
            r.job_digest = Digest::of(b"new")
        }),
        (Code::ReceiptConflict, "another predecessor", |r| {
            r.node_seq = 4;
            r.job_digest = Digest::of(b"new");
            r.prev = Some(Digest::of(b"no such receipt"));
        }),
    ];
    for (code, what, spoil) in cases {
        let mut doc = r[2].doc().clone();
        spoil(&mut doc);
        let before = t.clone();
        refused(what, t.observe(&verified(&doc)), code);
        assert_eq!(t, before, "{what}: nothing is remembered of it");
    }
    // A client that first sees receipt 3 knows nothing of 2; one that is newer than 3 went back.
    let mut t = ReceiptTracker::default();
    t.observe(&r[2]).unwrap();
    let mut back = r[1].doc().clone();
    back.node_seq = 1;
    back.prev = None;
    back.finished_at = at(DAY);
    refused("went back", t.observe(&verified(&back)), Code::ReceiptGap);
    assert_eq!(t.observe(&r[1]).unwrap(), Observation::Earlier);
}
