//! Freshness statements, revocations that last, and what comes back from disk.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, DocKind, Freshness, RevocationKind, RevocationSet};
use lictor_proto::{Code, Digest};
use lictor_trust::{OrgTrust, sign};
use support::{DAY, HOUR, World, at, now, public_line, refused, roster_toml, seed, wire};

fn fresh_docs(f: &Freshness) -> LawDocs {
    LawDocs {
        freshness: Some(wire(f, &[seed::FRESHNESS])),
        ..LawDocs::default()
    }
}

#[test]
fn without_a_fresh_statement_there_is_no_new_work() {
    let mut w = World::with_freshness();
    refused("never seen", w.trust.law(now()), Code::Stale);
    let report = w.trust.accept(&fresh_docs(&w.freshness()), now());
    assert_eq!(report.freshness, Some(at(0)));
    w.trust.law(at(7 * DAY - 1)).unwrap();
    refused("older than max_staleness", w.trust.law(at(7 * DAY)), Code::Stale);
    let short = Freshness {
        issued_at: at(1),
        expires_at: at(HOUR),
        ..w.freshness()
    };
    w.trust.accept(&fresh_docs(&short), now());
    refused("past its own end", w.trust.law(at(HOUR)), Code::Stale);
    assert!(
        !w.trust.accept(&fresh_docs(&w.freshness()), now()).changed(),
        "an older one is not taken back"
    );
    let forged = LawDocs {
        freshness: Some(wire(&w.freshness(), &[seed::BUNDLE])),
        ..LawDocs::default()
    };
    let report = w.trust.accept(&forged, now());
    assert_eq!(
        (report.refused[0].0, report.refused[0].1.code),
        (DocKind::Freshness, Code::SignerUnknown)
    );
}

#[test]
fn a_statement_about_law_or_revocations_that_are_withheld_stops_new_work() {
    let other = Digest::of(b"other");
    type Case = (&'static str, fn(&mut Freshness, Digest));
    let cases: [Case; 4] = [
        ("a newer bundle", |f, _| f.bundle_version = 2),
        ("another bundle of this version", |f, d| f.bundle_digest = d),
        ("a newer root", |f, _| f.root_version = 2),
        ("a revocation", |f, d| f.revocations = RevocationSet::of([d])),
    ];
    for (what, spoil) in cases {
        let mut w = World::with_freshness();
        let mut statement = w.freshness();
        spoil(&mut statement, other);
        w.trust.accept(&fresh_docs(&statement), now());
        refused(what, w.trust.law(now()), Code::FreshnessMismatch);
        let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
        refused(what, restored.law(now()), Code::FreshnessMismatch);
    }
}

#[test]
fn revocations_made_after_a_statement_do_not_spoil_it() {
    let mut w = World::with_freshness();
    let first = w.revocation(RevocationKind::Operator, "robot");
    let digest = sign(&first, &[]).digest();
    let statement = Freshness {
        revocations: RevocationSet::of([digest]),
        ..w.freshness()
    };
    w.trust.accept(&fresh_docs(&statement), now());
    refused("it is withheld", w.trust.law(now()), Code::FreshnessMismatch);
    w.revoke(RevocationKind::Operator, "robot");
    w.trust.law(now()).unwrap();
    w.revoke(RevocationKind::Operator, "retired");
    w.trust.law(now()).expect("a later one only takes away");
    let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
    restored.law(now()).expect("also after a restart");
}

#[test]
fn a_revocation_is_kept_when_its_signer_leaves_the_roster() {
    let mut w = World::default();
    w.revoke(RevocationKind::Operator, "bob");
    let mut newer = Bundle {
        version: 2,
        ..w.bundle()
    };
    let without_alice = roster_toml()
        .replace("operators.alice", "operators.anna")
        .replace(&public_line(seed::ALICE), &public_line(50))
        .replace(&public_line(seed::ALICE_SECOND), &public_line(51));
    newer.files.insert("roster.toml".into(), without_alice);
    assert!(w.accept_bundle(&newer).unloadable.is_none());
    let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
    assert!(restored.is_revoked(RevocationKind::Operator, "bob"));
    refused(
        "bob",
        restored.verify_approval(&wire(&w.approval(), &[seed::BOB]), now()),
        Code::OperatorRevoked,
    );
}

#[test]
fn what_was_stored_comes_back_the_same_and_not_when_changed() {
    let mut w = World::with_freshness();
    w.trust.accept(&fresh_docs(&w.freshness()), now());
    w.revoke(RevocationKind::Operator, "robot");
    let docs = w.trust.docs();
    let restored = OrgTrust::restore(&w.org, &docs).unwrap();
    assert_eq!(restored.docs(), docs);
    assert_eq!(restored.law_held(now()), w.trust.law_held(now()));

    let forged = Bundle {
        version: 9,
        ..w.bundle()
    };
    let changed = LawDocs {
        bundle: Some(wire(&forged, &[seed::STRANGER])),
        ..docs.clone()
    };
    refused(
        "a forged bundle on disk",
        OrgTrust::restore(&w.org, &changed),
        Code::SignerUnknown,
    );
    refused(
        "no root",
        OrgTrust::restore(&w.org, &LawDocs::default()),
        Code::NoLaw,
    );
}
