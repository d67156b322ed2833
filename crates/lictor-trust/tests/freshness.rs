//! Freshness statements, revocations that last, and what comes back from disk.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, DocKind, Document, Freshness, RevocationKind, RevocationSet};
use lictor_proto::{Code, Digest};
use lictor_trust::{OrgTrust, sign};
use support::{DAY, HOUR, World, at, law_docs, now, public_line, refused, roster_toml, seed, wire};

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
    let newer = without_alice(&w);
    assert!(w.accept_bundle(&newer).unloadable.is_none());
    let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
    assert!(restored.is_revoked(RevocationKind::Operator, "bob"));
    refused(
        "bob",
        restored.verify_approval(&wire(&w.approval(), &[seed::BOB]), now()),
        Code::OperatorRevoked,
    );
}

/// Bundle 2, whose roster no longer has alice, who signed the revocations.
fn without_alice(w: &World) -> Bundle {
    let mut newer = Bundle {
        version: 2,
        ..w.bundle()
    };
    let roster = roster_toml()
        .replace("operators.alice", "operators.anna")
        .replace(&public_line(seed::ALICE), &public_line(50))
        .replace(&public_line(seed::ALICE_SECOND), &public_line(51));
    newer.files.insert("roster.toml".into(), roster);
    newer
}

#[test]
fn a_revocation_that_comes_together_with_the_law_that_drops_its_signer_is_kept() {
    let mut w = World::default();
    let bob = w.revocation(RevocationKind::Operator, "bob");
    let docs = LawDocs {
        revocations: vec![wire(&bob, &[seed::ALICE])],
        ..law_docs(&without_alice(&w))
    };
    let report = w.trust.accept(&docs, now());
    assert!(report.refused.is_empty(), "{report:?}");
    assert_eq!((report.bundle, report.revocations), (Some(2), vec![bob]));
    assert!(w.trust.is_revoked(RevocationKind::Operator, "bob"));
}

#[test]
fn a_newcomer_takes_the_revocations_that_the_bundle_vouches_for() {
    let w = World::with_freshness();
    let bob = w.revocation(RevocationKind::Operator, "bob");
    let digest = sign(&bob, &[]).digest();
    let newcomer = |bundle: &Bundle, revocation: String| {
        let statement = Freshness {
            bundle_version: 2,
            bundle_digest: sign(bundle, &[]).digest(),
            revocations: RevocationSet::of([digest]),
            ..w.freshness()
        };
        let mut trust = OrgTrust::pin(&w.org, w.trust.root().wire()).unwrap();
        let docs = LawDocs {
            bundle: Some(wire(bundle, &[seed::BUNDLE])),
            revocations: vec![revocation],
            ..fresh_docs(&statement)
        };
        let report = trust.accept(&docs, now());
        (trust, report)
    };
    let silent = without_alice(&w);
    let vouching = Bundle {
        revocations: vec![digest],
        ..silent.clone()
    };

    let (trust, report) = newcomer(&vouching, wire(&bob, &[seed::ALICE]));
    assert!(report.refused.is_empty(), "{report:?}");
    assert!(trust.is_revoked(RevocationKind::Operator, "bob"));
    trust.law(now()).expect("nothing is missing");
    let restored = OrgTrust::restore(&w.org, &trust.docs()).unwrap();
    assert!(restored.is_revoked(RevocationKind::Operator, "bob"));
    restored.law(now()).unwrap();

    let (_, report) = newcomer(&silent, wire(&bob, &[seed::ALICE]));
    assert_eq!(report.refused[0].1.code, Code::SignerUnknown);
    // Another text by the same hand is not what the bundle named.
    let robot = w.revocation(RevocationKind::Operator, "robot");
    let (trust, report) = newcomer(&vouching, wire(&robot, &[seed::ALICE]));
    assert_eq!(report.refused[0].1.code, Code::SignerUnknown);
    refused("bob's is missing", trust.law(now()), Code::FreshnessMismatch);
}

#[test]
fn the_next_bundle_vouches_for_what_is_known_and_for_what_the_last_one_named() {
    let mut w = World::default();
    assert!(w.trust.to_vouch_for().is_empty());
    let (low, high) = (Digest([0; 32]), Digest([255; 32]));
    w.accept_bundle(&Bundle {
        version: 2,
        revocations: vec![low, high],
        ..w.bundle()
    });
    w.revoke(RevocationKind::Operator, "bob");
    let bob = sign(&w.revocation(RevocationKind::Operator, "bob"), &[]).digest();
    assert_eq!(w.trust.to_vouch_for(), [low, bob, high]);
    w.accept_bundle(&Bundle {
        version: 3,
        revocations: w.trust.to_vouch_for(),
        ..w.bundle()
    });
    assert_eq!(w.trust.to_vouch_for(), [low, bob, high]);
}

#[test]
fn what_a_bundle_vouches_for_is_sorted_and_distinct() {
    let w = World::default();
    let (low, high) = (Digest([1; 32]), Digest([2; 32]));
    for (list, good) in [
        (vec![], true),
        (vec![low, high], true),
        (vec![high, low], false),
        (vec![low, low], false),
    ] {
        let bundle = Bundle {
            revocations: list.clone(),
            ..w.bundle()
        };
        assert_eq!(bundle.validate().is_ok(), good, "{list:?}");
    }
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
