//! Keys that a page of the hub could use.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::doc::RevocationKind;
use lictor_proto::webauthn::{AuthenticatorData, ClientData, challenge_of};
use lictor_proto::{Code, Envelope};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use support::{World, key, now, public_line, refused, roster_toml, seed, wire};

/// An org in which a key of alice is of that class.
fn world(class: &str) -> World {
    let mut w = World::default();
    let mut newer = w.bundle();
    newer.version = 2;
    let line = format!("\"{}\"", public_line(seed::ALICE));
    let roster = roster_toml().replace(&line, &format!("{line}, class = \"{class}\""));
    assert!(roster.contains(class), "{roster}");
    newer.files.insert("roster.toml".into(), roster);
    let report = w.accept_bundle(&newer);
    assert_eq!(report.unloadable.is_some(), class == "other", "{report:?}");
    w
}

#[test]
fn a_web_key_signs_nothing() {
    let w = world("web");
    let by = |seed| {
        let revocation = w.revocation(RevocationKind::Operator, "bob");
        [
            w.trust.verify_job(&wire(&w.job(), &[seed]), now()).err(),
            w.trust.verify_cancel(&wire(&w.cancel(), &[seed]), now()).err(),
            w.trust.verify_grant(&wire(&w.grant(), &[seed])).err(),
            w.trust.verify_revocation(&wire(&revocation, &[seed])).err(),
            w.trust.historic_job(&wire(&w.job(), &[seed])).err(),
        ]
    };
    for refusal in by(seed::ALICE) {
        assert_eq!(refusal.unwrap().code, Code::KeyClass);
    }
    for refusal in by(seed::ALICE_SECOND) {
        assert_eq!(refusal, None, "her other key does");
    }
}

/// The one envelope of the vectors that a passkey signed.
#[test]
fn what_a_passkey_signed_is_read_and_refused_by_name() {
    let path = support::vectors::directory().join("assertion.json");
    let v: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let wire = v["assertion_envelope"].as_str().unwrap();
    let envelope = Envelope::parse(wire.as_bytes(), 1 << 20).unwrap();
    let assertion = envelope.signatures[0].assertion.as_ref().unwrap();
    let client = ClientData::parse(&assertion.client_data).unwrap();
    assert_eq!(client.kind, "webauthn.get");
    assert_eq!(client.challenge, envelope.digest(), "bound to the document");
    assert_eq!(v["challenge"], challenge_of(&envelope.digest()));
    let authenticator = AuthenticatorData::parse(&assertion.authenticator_data).unwrap();
    assert!(authenticator.user_present && authenticator.user_verified);

    let w = world("web");
    let verify = |wire: &str| w.trust.verify_approval(wire, now());
    let code: Code = v["refused"].as_str().unwrap().parse().unwrap();
    refused("its signature", verify(wire), code);
    // A good signature of another key does not make up for it.
    let mut both = sign(&w.approval(), &[&key(seed::BOB)]);
    verify(&to_wire(&both)).unwrap();
    both.signatures[0].assertion = envelope.signatures[0].assertion.clone();
    refused("beside a good one", verify(&to_wire(&both)), code);
}

#[test]
fn a_key_is_its_operators_own_unless_the_roster_says_more() {
    let w = world("own");
    w.trust
        .verify_job(&wire(&w.job(), &[seed::ALICE]), now())
        .unwrap();
    let w = world("other");
    refused("no such class", w.trust.law(now()), Code::BundleUnloadable);
}
