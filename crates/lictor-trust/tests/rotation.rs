//! The next root: drafted, passed from holder to holder, and taken once both thresholds are met.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, Document, Freshness, RoleName, Root};
use lictor_proto::envelope::Envelope;
use lictor_proto::{Code, Timestamp, limits};
use lictor_trust::cosigned::Cosigned;
use lictor_trust::rotation::{NextRoot, RootChange};
use lictor_trust::sign::to_wire;
use lictor_trust::{AcceptReport, OrgTrust, sign};
use support::{World, at, key, name, now, refused, role, seed, wire};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn change() -> RootChange {
    RootChange {
        valid: YEAR,
        ..RootChange::default()
    }
}

fn draft(w: &World, change: &RootChange) -> Result<NextRoot, Refusal> {
    NextRoot::draft(&w.trust, change, now())
}

/// Root 2 of a world whose root keys are two of two, with one of them replaced.
fn replaced(w: &World) -> NextRoot {
    let change = RootChange {
        remove: vec![(RoleName::Root, key(seed::ROOT_2).id())],
        add: vec![(RoleName::Root, key(seed::ROOT_NEXT).public())],
        ..change()
    };
    draft(w, &change).unwrap()
}

fn offer(trust: &OrgTrust, root: &NextRoot) -> (OrgTrust, AcceptReport) {
    let mut trust = trust.clone();
    let docs = LawDocs {
        roots: vec![root.wire()],
        ..LawDocs::default()
    };
    let report = trust.accept(&docs, now());
    (trust, report)
}

#[test]
fn a_root_is_taken_exactly_when_both_thresholds_are_met() {
    let w = World::default();
    let (old, kept, new) = (key(seed::ROOT_2), key(seed::ROOT), key(seed::ROOT_NEXT));
    for mask in 0..8 {
        let mut next = replaced(&w);
        for (bit, holder) in [&old, &kept, &new].into_iter().enumerate() {
            if mask & (1 << bit) != 0 {
                next.sign(holder).unwrap();
            }
        }
        assert_eq!(next.is_complete(), mask == 7, "{mask:03b}");
        let (trust, report) = offer(&w.trust, &next);
        assert_eq!(
            report.root,
            next.is_complete().then_some(2),
            "{mask:03b}: {report:?}"
        );
        assert_eq!(trust.root().version, if mask == 7 { 2 } else { 1 });
    }
}

#[test]
fn it_says_who_has_signed_and_who_may_still() {
    let w = World::default();
    let mut next = replaced(&w);
    next.sign(&key(seed::ROOT)).unwrap();
    let (old, new) = (next.by_old(), next.by_new());
    assert_eq!((old.needed, new.needed), (2, 2));
    assert_eq!(old.signed, [key(seed::ROOT).id()]);
    assert_eq!(old.missing, [key(seed::ROOT_2).id()]);
    assert_eq!(new.missing, [key(seed::ROOT_NEXT).id()]);
    refused("a bundle key", next.sign(&key(seed::BUNDLE)), Code::SignerUnknown);
    refused("a stranger", next.sign(&key(seed::STRANGER)), Code::SignerUnknown);
}

#[test]
fn it_is_signed_one_after_the_other_or_apart() {
    let w = World::default();
    let passed_on = |next: &NextRoot| NextRoot::read(&w.trust, &next.wire(), now()).unwrap();
    let mut first = passed_on(&replaced(&w));
    first.sign(&key(seed::ROOT)).unwrap();
    let mut second = passed_on(&first);
    second.sign(&key(seed::ROOT_2)).unwrap();
    let mut apart = passed_on(&replaced(&w));
    apart.sign(&key(seed::ROOT_NEXT)).unwrap();
    second.merge(&apart).unwrap();
    assert!(second.is_complete());
    assert_eq!(offer(&w.trust, &passed_on(&second)).1.root, Some(2));

    let other = draft(
        &w,
        &RootChange {
            valid: 2 * YEAR,
            ..change()
        },
    )
    .unwrap();
    refused(
        "a copy of another root",
        second.merge(&other),
        Code::DocumentInvalid,
    );
}

#[test]
fn signatures_that_do_not_count_are_left_out() {
    let w = World::default();
    let next = replaced(&w);
    let mut envelope = sign(next.root(), &[&key(seed::ROOT), &key(seed::STRANGER)]);
    let mut forged = envelope.signatures[0].clone();
    forged.keyid = key(seed::ROOT_2).id();
    envelope.signatures.push(forged);
    let again = envelope.signatures[0].clone();
    envelope.signatures.push(again);
    let read = NextRoot::read(&w.trust, &to_wire(&envelope), now()).unwrap();
    assert_eq!(read.left_out(), 3);
    assert_eq!(read.by_old().signed, [key(seed::ROOT).id()]);
    let kept = Envelope::parse(read.wire().as_bytes(), 1 << 20).unwrap();
    assert_eq!(kept.signatures.len(), 1);
}

#[test]
fn no_byte_of_a_signed_root_can_be_changed_on_its_way() {
    let w = World::default();
    let mut next = replaced(&w);
    for holder in [seed::ROOT, seed::ROOT_2, seed::ROOT_NEXT] {
        next.sign(&key(holder)).unwrap();
    }
    let wire = next.wire();
    for at in 0..wire.len() {
        let mut changed = wire.clone().into_bytes();
        changed[at] ^= 1;
        let Ok(text) = String::from_utf8(changed) else {
            continue;
        };
        if let Ok(read) = NextRoot::read(&w.trust, &text, now()) {
            assert!(!read.is_complete(), "byte {at}: {text}");
            assert_eq!(offer(&w.trust, &read).1.root, None, "byte {at}");
        }
    }
}

#[test]
fn what_no_party_would_take_is_not_drafted() {
    let w = World::default();
    let cases: [(Code, &str, RootChange); 7] = [
        (
            Code::DuplicateKey,
            "a key in two roles",
            RootChange {
                add: vec![(RoleName::Freshness, key(seed::BUNDLE).public())],
                ..change()
            },
        ),
        (
            Code::DuplicateKey,
            "a key of the roster",
            RootChange {
                add: vec![(RoleName::Bundle, key(seed::BOB).public())],
                ..change()
            },
        ),
        (
            Code::WeakKey,
            "a weak key",
            RootChange {
                add: vec![(RoleName::Bundle, support::weak_key())],
                ..change()
            },
        ),
        (
            Code::DocumentInvalid,
            "a threshold that nobody can meet",
            RootChange {
                threshold: vec![(RoleName::Bundle, 2)],
                ..change()
            },
        ),
        (
            Code::DocumentInvalid,
            "no bundle key left",
            RootChange {
                remove: vec![(RoleName::Bundle, key(seed::BUNDLE).id())],
                ..change()
            },
        ),
        (
            Code::DocumentInvalid,
            "a key that is not there",
            RootChange {
                remove: vec![(RoleName::Bundle, key(seed::ROOT).id())],
                ..change()
            },
        ),
        (Code::DocumentInvalid, "over at once", RootChange::default()),
    ];
    for (code, what, change) in cases {
        refused(what, draft(&w, &change), code);
    }
}

#[test]
fn a_file_that_is_no_next_root_of_this_org_is_not_signed() {
    let w = World::default();
    let good = replaced(&w).root().clone();
    let read = |root: &Root| NextRoot::read(&w.trust, &wire(root, &[]), now()).map(drop);
    read(&good).unwrap();
    let other = World::with_freshness().org;
    let spoilt = |change: &dyn Fn(&mut Root)| {
        let mut root = good.clone();
        change(&mut root);
        read(&root)
    };
    refused(
        "the one held",
        spoilt(&|r| (r.version, r.org) = (1, None)),
        Code::WrongOrg,
    );
    refused("skips one", spoilt(&|r| r.version = 3), Code::RootVersion);
    refused(
        "another org's",
        spoilt(&|r| r.org = Some(other.clone())),
        Code::WrongOrg,
    );
    refused(
        "no root",
        NextRoot::read(&w.trust, &wire(&w.job(), &[]), now()).map(drop),
        Code::WrongType,
    );
    refused(
        "junk",
        NextRoot::read(&w.trust, "{}", now()).map(drop),
        Code::EnvelopeMalformed,
    );
    let mut newer = World::default();
    let mut second = replaced(&newer);
    for holder in [seed::ROOT, seed::ROOT_2, seed::ROOT_NEXT] {
        second.sign(&key(holder)).unwrap();
    }
    newer.trust = offer(&newer.trust, &second).0;
    refused(
        "taken already",
        NextRoot::read(&newer.trust, &second.wire(), now()).map(drop),
        Code::RootOlder,
    );
}

#[test]
fn new_bundle_keys_end_the_old_law_until_they_have_signed_the_next() {
    let w = World::default();
    let change = RootChange {
        remove: vec![(RoleName::Bundle, key(seed::BUNDLE).id())],
        add: vec![(RoleName::Bundle, key(seed::STRANGER).public())],
        ..change()
    };
    let mut next = draft(&w, &change).unwrap();
    for holder in [seed::ROOT, seed::ROOT_2] {
        next.sign(&key(holder)).unwrap();
    }
    let (mut trust, report) = offer(&w.trust, &next);
    assert_eq!(report.unloadable.unwrap().code, Code::BundleUnloadable);
    let mut bundle = w.bundle();
    (bundle.version, bundle.min_root) = (2, 2);
    let by = |signer: u8| LawDocs {
        bundle: Some(wire(&bundle, &[signer])),
        ..LawDocs::default()
    };
    let stolen = trust.accept(&by(seed::BUNDLE), now());
    assert_eq!(stolen.refused[0].1.code, Code::SignerUnknown, "{stolen:?}");
    assert_eq!(trust.accept(&by(seed::STRANGER), now()).bundle, Some(2));
    trust.law(now()).unwrap();

    // Together they leave no moment without law, and whoever joins later takes both.
    let mut at_once = w.trust.clone();
    let docs = LawDocs {
        roots: vec![next.wire()],
        ..by(seed::STRANGER)
    };
    at_once.accept(&docs, now());
    at_once.law(now()).unwrap();
    let restored = OrgTrust::restore(&w.org, &at_once.docs()).unwrap();
    assert_eq!(
        (restored.root().version, restored.bundle().unwrap().version),
        (2, 2)
    );
}

#[test]
fn law_gathers_the_signatures_of_its_role() {
    let mut w = World::default();
    let change = RootChange {
        add: vec![(RoleName::Bundle, key(seed::STRANGER).public())],
        threshold: vec![(RoleName::Bundle, 2)],
        ..change()
    };
    let mut next = draft(&w, &change).unwrap();
    for holder in [seed::ROOT, seed::ROOT_2] {
        next.sign(&key(holder)).unwrap();
    }
    w.trust = offer(&w.trust, &next).0;
    let bundle = Bundle {
        version: 2,
        ..w.bundle()
    };
    let mut law = Cosigned::draft(&w.trust, bundle.clone(), now()).unwrap();
    let accepted = |law: &Cosigned<Bundle>| {
        let docs = LawDocs {
            bundle: Some(law.wire()),
            ..LawDocs::default()
        };
        w.trust.clone().accept(&docs, now()).bundle
    };
    refused("a root key", law.sign(&key(seed::ROOT)), Code::SignerUnknown);
    law.sign(&key(seed::BUNDLE)).unwrap();
    assert_eq!(law.quorum().missing, [key(seed::STRANGER).id()]);
    assert_eq!((law.quorum().is_met(), accepted(&law)), (false, None));
    let mut passed_on = Cosigned::<Bundle>::read(&w.trust, &law.wire(), now()).unwrap();
    passed_on.sign(&key(seed::STRANGER)).unwrap();
    assert_eq!(
        (passed_on.quorum().is_met(), accepted(&passed_on)),
        (true, Some(2))
    );

    let forged = wire(&bundle, &[seed::BUNDLE, seed::ALICE]);
    let read = Cosigned::<Bundle>::read(&w.trust, &forged, now()).unwrap();
    assert_eq!((read.left_out(), read.quorum().signed.len()), (1, 1));
    let fresh = wire(&w.freshness(), &[]);
    refused(
        "another kind",
        Cosigned::<Bundle>::read(&w.trust, &fresh, now()).map(drop),
        Code::WrongType,
    );
    refused(
        "no such role",
        Cosigned::<Freshness>::read(&w.trust, &fresh, now()).map(drop),
        Code::SignerUnknown,
    );
    let other = World::with_freshness().bundle();
    refused(
        "another org's",
        Cosigned::draft(&w.trust, other, now()).map(drop),
        Code::WrongOrg,
    );
}

#[test]
fn an_org_founded_without_freshness_can_begin_to_say_it() {
    let mut w = World::default();
    let change = RootChange {
        add: vec![(RoleName::Freshness, key(seed::FRESHNESS).public())],
        ..change()
    };
    let mut next = draft(&w, &change).unwrap();
    assert_eq!(next.root().roles.freshness, role(&[seed::FRESHNESS], 1));
    for holder in [seed::ROOT, seed::ROOT_2] {
        next.sign(&key(holder)).unwrap();
    }
    w.trust = offer(&w.trust, &next).0;
    refused("not said yet", w.trust.law(now()), Code::Stale);
    let docs = LawDocs {
        freshness: Some(wire(&w.freshness(), &[seed::FRESHNESS])),
        ..LawDocs::default()
    };
    w.trust.accept(&docs, now());
    w.trust.law(now()).unwrap();
}

#[test]
fn a_role_that_loses_all_keys_is_none() {
    let w = World::with_freshness();
    let change = RootChange {
        remove: vec![(RoleName::Freshness, key(seed::FRESHNESS).id())],
        ..change()
    };
    let next = draft(&w, &change).unwrap();
    assert_eq!(next.root().roles.freshness, role(&[], 0));
    assert_eq!(next.root().name, name("example"));
    let issued: Timestamp = next.root().issued_at;
    assert!(issued > at(0) && next.root().validate().is_ok());
}

#[test]
fn nobody_is_asked_to_sign_what_is_dated_ahead() {
    let w = World::with_freshness();
    let within = now().plus(limits::CLOCK_AHEAD);
    let late = within.plus(Duration::from_millis(1));
    let root = |issued_at| {
        let mut root = draft(&w, &change()).unwrap().root().clone();
        root.issued_at = issued_at;
        NextRoot::read(&w.trust, &wire(&root, &[]), now()).map(drop)
    };
    let law = |issued_at| {
        let bundle = Bundle {
            issued_at,
            ..w.bundle()
        };
        Cosigned::<Bundle>::read(&w.trust, &wire(&bundle, &[]), now()).map(drop)
    };
    let fresh = |issued_at| {
        let statement = Freshness {
            issued_at,
            ..w.freshness()
        };
        Cosigned::<Freshness>::read(&w.trust, &wire(&statement, &[]), now()).map(drop)
    };
    root(within).unwrap();
    law(within).unwrap();
    fresh(within).unwrap();
    refused("a root", root(late), Code::IssuedInFuture);
    refused("law", law(late), Code::IssuedInFuture);
    refused("a statement", fresh(late), Code::IssuedInFuture);
}
