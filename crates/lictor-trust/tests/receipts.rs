//! What nodes sign.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::{Code, Digest};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use support::{World, key, refused, secrets, seed, wire};

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
