//! A root, bundle or freshness statement on its way from signer to signer: whatever the file says, it is answered, it
//! says the same when it is passed on, and only those who count are counted.
//!
//! The first byte chooses the kind, and whether the rest is the file or what was signed in it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, DocKind, Freshness, Root};
use lictor_proto::{OrgId, Timestamp, json};
use lictor_trust::cosigned::{Cosigned, OfRole};
use lictor_trust::rotation::NextRoot;
use lictor_trust::sign::{sign_payload, to_wire};
use lictor_trust::{OrgTrust, SecretKey, sign};

fn vector(text: &str, part: &str) -> String {
    let vector: serde_json::Value = serde_json::from_str(text).expect("vectors are JSON");
    vector[part].as_str().expect("text").to_owned()
}

static TRUST: LazyLock<OrgTrust> = LazyLock::new(|| {
    let first = include_str!("../../docs/protocol/vectors/root-1.json");
    let second = include_str!("../../docs/protocol/vectors/root-2.json");
    let bundle = include_str!("../../docs/protocol/vectors/bundle.json");
    let root: Root = json::from_slice(vector(first, "payload").as_bytes()).expect("a root");
    let org = OrgId::from_root(&sign(&root, &[]).digest());
    let mut trust = OrgTrust::pin(&org, &vector(first, "envelope")).expect("the vectors verify");
    let docs = LawDocs {
        roots: vec![vector(second, "envelope")],
        bundle: Some(vector(bundle, "envelope")),
        ..LawDocs::default()
    };
    assert!(trust.accept(&docs, now()).refused.is_empty());
    trust
});

fn now() -> Timestamp {
    "2026-01-01T00:01:00.000Z".parse().expect("a time")
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// The file as it came; or one with this payload, signed by a stranger too, perhaps.
fn file(kind: DocKind, text: &str, is_file: bool, stranger: bool) -> String {
    if is_file {
        return text.to_owned();
    }
    let stranger = stranger.then(|| key(99));
    to_wire(&sign_payload(
        kind.payload_type(),
        text.into(),
        &stranger.iter().collect::<Vec<_>>(),
    ))
}

fn next_root(text: &str, stranger: bool) {
    let Ok(mut root) = NextRoot::read(&TRUST, text, now()) else {
        return;
    };
    assert!(!stranger || root.left_out() == 1, "a stranger counts");
    let again = NextRoot::read(&TRUST, &root.wire(), now()).expect("what is passed on is read");
    assert_eq!((again.digest(), again.left_out()), (root.digest(), 0));
    assert_eq!((again.by_old(), again.by_new()), (root.by_old(), root.by_new()));
    let before = root.wire();
    root.merge(&again).expect("the same root");
    assert_eq!(root.wire(), before, "nothing is counted twice");
    for seed in [1, 2] {
        let _ = root.sign(&key(seed));
    }
    assert!(root.sign(&key(99)).is_err() || root.root().roles.root.keys.contains(&key(99).public()));
    if root.is_complete() {
        let docs = LawDocs {
            roots: vec![root.wire()],
            ..LawDocs::default()
        };
        let report = TRUST.clone().accept(&docs, now());
        assert!(
            report.refused.is_empty(),
            "complete, and not taken: {:?}",
            report.refused
        );
    }
}

fn cosigned<T: OfRole>(text: &str, stranger: bool) {
    let Ok(mut one) = Cosigned::<T>::read(&TRUST, text, now()) else {
        return;
    };
    assert!(!stranger || one.left_out() == 1, "a stranger counts");
    let again = Cosigned::<T>::read(&TRUST, &one.wire(), now()).expect("what is passed on is read");
    assert_eq!((again.digest(), again.left_out()), (one.digest(), 0));
    assert_eq!(again.quorum(), one.quorum());
    assert!(one.sign(&key(99)).is_err(), "a stranger signs");
}

fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    let (is_file, stranger) = (choice & 4 != 0, choice & 8 != 0);
    let kind = match choice % 3 {
        0 => DocKind::Root,
        1 => DocKind::Bundle,
        _ => DocKind::Freshness,
    };
    let text = file(kind, text, is_file, stranger);
    let stranger = stranger && !is_file;
    match kind {
        DocKind::Root => next_root(&text, stranger),
        DocKind::Bundle => cosigned::<Bundle>(&text, stranger),
        _ => cosigned::<Freshness>(&text, stranger),
    }
});
