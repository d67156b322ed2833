//! Newer law that this version cannot read: authentic, so everything is denied; not authentic, so nothing changes.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::Code;
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, DocKind};
use lictor_proto::envelope::Signature;
use lictor_trust::sign::to_wire;
use lictor_trust::{OrgTrust, sign};
use support::{World, key, now, refused, seed, wire};

/// The bundle of a version that this one does not understand: changed at will, and signed by `seeds`.
fn strange_bundle(w: &World, seeds: &[u8], change: impl Fn(&mut serde_json::Value)) -> LawDocs {
    let newer = Bundle {
        version: 2,
        ..w.bundle()
    };
    let mut payload = serde_json::to_value(&newer).unwrap();
    change(&mut payload);
    let mut envelope = sign(&newer, &[]);
    envelope.payload = payload.to_string().into_bytes();
    let pae = envelope.pae();
    envelope.signatures = seeds
        .iter()
        .map(|s| Signature {
            keyid: key(*s).public().id(),
            sig: key(*s).sign(&pae).to_vec(),
            assertion: None,
        })
        .collect();
    LawDocs {
        bundle: Some(to_wire(&envelope)),
        ..LawDocs::default()
    }
}

#[test]
fn a_newer_bundle_that_cannot_be_read_denies_everything_also_after_a_restart() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change); 4] = [
        ("an unknown field", |b| b["quorum"] = 3.into()),
        ("a field of another type", |b| b["files"] = 1.into()),
        ("a missing field", |b| {
            b.as_object_mut().unwrap().remove("max_staleness");
        }),
        ("no time", |b| b["issued_at"] = "tomorrow".into()),
    ];
    for (what, change) in cases {
        let mut w = World::default();
        let report = w
            .trust
            .accept(&strange_bundle(&w, &[seed::BUNDLE], change), now());
        assert_eq!(report.bundle, Some(2), "{what}: {report:?}");
        assert_eq!(report.unloadable.unwrap().code, Code::BundleUnloadable, "{what}");
        refused(what, w.trust.law(now()), Code::BundleUnloadable);
        let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
        refused(what, restored.law(now()), Code::BundleUnloadable);
        assert_eq!(restored.bundle().unwrap().version, 2);

        let next = Bundle {
            version: 3,
            ..w.bundle()
        };
        w.accept_bundle(&next);
        w.trust.law(now()).expect("newer law that can be read");
    }
}

#[test]
fn what_is_not_newer_law_of_this_org_leaves_the_old_law_in_force() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Code, &[u8], Change); 6] = [
        (Code::SignerUnknown, &[seed::ALICE], |b| b["quorum"] = 3.into()),
        (Code::PayloadMalformed, &[seed::BUNDLE], |b| {
            b["version"] = "two".into()
        }),
        (Code::PayloadMalformed, &[seed::BUNDLE], |b| {
            b["type"] = "law".into()
        }),
        (Code::PayloadMalformed, &[seed::BUNDLE], |b| {
            b["version"] = 2.5.into()
        }),
        (Code::WrongOrg, &[seed::BUNDLE], |b| {
            b["org"] = "a".repeat(32).into()
        }),
        (Code::BundleConflict, &[seed::BUNDLE], |b| {
            b["version"] = 1.into();
            b["quorum"] = 3.into();
        }),
    ];
    for (code, seeds, change) in cases {
        let mut w = World::default();
        let report = w.trust.accept(&strange_bundle(&w, seeds, change), now());
        assert!(!report.changed(), "{report:?}");
        let (kind, refusal) = &report.refused[0];
        assert_eq!((*kind, refusal.code), (DocKind::Bundle, code), "{report:?}");
        w.trust.law(now()).unwrap();
    }
}

#[test]
fn law_that_asks_for_a_newer_root_is_law_as_soon_as_the_root_is_there() {
    let mut w = World::default();
    let newer = Bundle {
        version: 2,
        min_root: 2,
        ..w.bundle()
    };
    assert_eq!(w.accept_bundle(&newer).unloadable.unwrap().code, Code::MinRoot);
    refused("without the root", w.trust.law(now()), Code::MinRoot);
    let docs = LawDocs {
        roots: vec![wire(&w.root_v2(), &[seed::ROOT, seed::ROOT_2])],
        ..LawDocs::default()
    };
    assert_eq!(w.trust.accept(&docs, now()).root, Some(2));
    assert_eq!(w.trust.law(now()).unwrap().meta.version, 2);
}
