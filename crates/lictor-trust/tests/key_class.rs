//! Keys that a page of the hub could use.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::Code;
use lictor_proto::doc::RevocationKind;
use support::{World, now, public_line, refused, roster_toml, seed, wire};

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

#[test]
fn a_key_is_its_operators_own_unless_the_roster_says_more() {
    let w = world("own");
    w.trust
        .verify_job(&wire(&w.job(), &[seed::ALICE]), now())
        .unwrap();
    let w = world("other");
    refused("no such class", w.trust.law(now()), Code::BundleUnloadable);
}
