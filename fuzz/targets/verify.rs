//! Whatever arrives, every verifying function answers; and what nobody in the roster signed is never believed.
//!
//! The first byte chooses who looks at it. The rest is looked at twice: as an envelope from nowhere, and as a payload
//! that a key of the org has signed, which is how far a hostile operator or node gets.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Root};
use lictor_proto::{OrgId, Timestamp, json};
use lictor_trust::directory::Node;
use lictor_trust::sign::{sign_payload, to_wire};
use lictor_trust::{OrgTrust, SecretKey, sign};

struct Org {
    trust: OrgTrust,
    node: Node,
}

fn vector(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("vectors are JSON")
}

fn envelope(text: &str) -> String {
    vector(text)["envelope"].as_str().expect("an envelope").to_owned()
}

static ORG: LazyLock<Org> = LazyLock::new(|| {
    let root = envelope(include_str!("../../docs/protocol/vectors/root-1.json"));
    let payload = vector(include_str!("../../docs/protocol/vectors/root-1.json"));
    let first: Root =
        json::from_slice(payload["payload"].as_str().expect("text").as_bytes()).expect("a root");
    let org = OrgId::from_root(&sign(&first, &[]).digest());
    let mut trust = OrgTrust::pin(&org, &root).expect("the vectors verify");
    let docs = LawDocs {
        roots: vec![envelope(include_str!("../../docs/protocol/vectors/root-2.json"))],
        bundle: Some(envelope(include_str!("../../docs/protocol/vectors/bundle.json"))),
        freshness: Some(envelope(include_str!(
            "../../docs/protocol/vectors/freshness.json"
        ))),
        revocations: vec![envelope(include_str!(
            "../../docs/protocol/vectors/revocation.json"
        ))],
    };
    assert!(trust.accept(&docs, now()).refused.is_empty());
    let grant = envelope(include_str!("../../docs/protocol/vectors/grant.json"));
    let record = envelope(include_str!("../../docs/protocol/vectors/node.json"));
    let node = Node::verify(&trust, &grant, &record).expect("the vectors verify");
    Org { trust, node }
});

fn now() -> Timestamp {
    "2026-01-01T00:01:00.000Z".parse().expect("a time")
}

/// Looks at `wire` as whatever `kind` says; whether it was believed.
fn look(kind: DocKind, wire: &str) -> Result<(), Refusal> {
    let Org { trust, node } = &*ORG;
    match kind {
        DocKind::Job => trust.verify_job(wire, now()).map(|_| ()),
        DocKind::Approval => trust.verify_approval(wire, now()).map(|_| ()),
        DocKind::Cancel => trust.verify_cancel(wire, now()).map(|_| ()),
        DocKind::Revocation => trust.verify_revocation(wire).map(|_| ()),
        DocKind::Grant => trust.verify_grant(wire).map(|_| ()),
        DocKind::Node => trust.verify_node(&node.grant, wire).map(|_| ()),
        DocKind::Ask => trust.verify_ask(&node.keys, wire).map(|_| ()),
        DocKind::Receipt => trust.verify_receipt(&node.keys, wire).map(|_| ()),
        _ => OrgTrust::pin(trust.org(), wire).map(|_| ()),
    }
}

fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    // Seeds of the vectors: alice, bob, the node and its join key.
    let (kind, seeds): (DocKind, &[u8]) = match choice % 9 {
        0 => (DocKind::Job, &[10]),
        1 => (DocKind::Approval, &[12]),
        2 => (DocKind::Cancel, &[10]),
        3 => (DocKind::Revocation, &[10]),
        4 => (DocKind::Grant, &[10]),
        5 => (DocKind::Node, &[30, 20]),
        6 => (DocKind::Ask, &[30]),
        7 => (DocKind::Receipt, &[30]),
        _ => (DocKind::Root, &[1, 2]),
    };
    // From nowhere: a signature cannot be guessed, so only the vectors themselves would pass.
    let _ = look(kind, text);
    let keys: Vec<_> = seeds.iter().map(|s| SecretKey::from_seed(&[*s; 32])).collect();
    let signed = sign_payload(kind.payload_type(), text.into(), &keys.iter().collect::<Vec<_>>());
    let _ = look(kind, &to_wire(&signed));
    let stranger = sign_payload(
        kind.payload_type(),
        text.into(),
        &[&SecretKey::from_seed(&[99; 32])],
    );
    assert!(
        look(kind, &to_wire(&stranger)).is_err(),
        "a stranger was believed"
    );
});
