//! Roots, bundles, freshness and the clock: what is taken, what is refused, what denies everything.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, DocKind, Root};
use lictor_proto::{Code, OrgId};
use lictor_trust::{OrgTrust, sign};
use support::{
    DAY, FLEET_TOML, HOUR, PROFILES_TOML, World, at, key, law_docs, name, now, public_line, refused, role,
    root_v1, roster_toml, seed, weak_key, wire,
};

const OLD_ROOT: [u8; 2] = [seed::ROOT, seed::ROOT_2];

fn only_refusal(report: &lictor_trust::AcceptReport, kind: DocKind) -> Refusal {
    let [(k, refusal)] = report.refused.as_slice() else {
        panic!("expected one refusal: {report:?}");
    };
    assert_eq!(*k, kind);
    assert!(!report.changed(), "what is refused changes nothing: {report:?}");
    refusal.clone()
}

fn root_docs(wires: Vec<String>) -> LawDocs {
    LawDocs {
        roots: wires,
        ..LawDocs::default()
    }
}

#[test]
fn an_org_is_pinned_by_the_hash_of_its_first_root() {
    let text = wire(&root_v1(), &OLD_ROOT);
    let org = OrgId::from_root(&sign(&root_v1(), &[]).digest());
    OrgTrust::pin(&org, &text).unwrap();
    let mut other = root_v1();
    other.name = name("other");
    refused(
        "another root",
        OrgTrust::pin(&org, &wire(&other, &OLD_ROOT)),
        Code::WrongOrg,
    );
    refused(
        "one signature of two",
        OrgTrust::pin(&org, &wire(&root_v1(), &[seed::ROOT])),
        Code::ThresholdNotMet,
    );
    refused(
        "strangers",
        OrgTrust::pin(&org, &wire(&root_v1(), &[seed::STRANGER])),
        Code::SignerUnknown,
    );
    refused("junk", OrgTrust::pin(&org, "null"), Code::EnvelopeMalformed);
}

#[test]
fn a_root_with_weak_or_repeated_keys_makes_no_org() {
    let pin = |root: &Root| {
        let org = OrgId::from_root(&sign(root, &[]).digest());
        OrgTrust::pin(&org, &wire(root, &OLD_ROOT))
    };
    pin(&root_v1()).unwrap();
    let mut weak = root_v1();
    weak.roles.bundle.keys = vec![weak_key()];
    refused("weak", pin(&weak), Code::WeakKey);
    let mut twice = root_v1();
    twice.roles.bundle = role(&[seed::ROOT], 1);
    refused("one key in two roles", pin(&twice), Code::DuplicateKey);
    let mut second = root_v1();
    second.roles.root.keys.push(key(seed::ROOT).public());
    refused("one key twice in a role", pin(&second), Code::DocumentInvalid);
}

#[test]
fn one_key_signing_twice_is_one_key() {
    let w = World::default();
    let mut root = sign(&w.root_v2(), &[&key(seed::ROOT)]);
    let again = root.signatures[0].clone();
    root.signatures.push(again);
    let mut trust = w.trust.clone();
    let report = trust.accept(&root_docs(vec![lictor_trust::sign::to_wire(&root)]), now());
    assert_eq!(only_refusal(&report, DocKind::Root).code, Code::ThresholdNotMet);
}

#[test]
fn the_next_root_needs_the_old_keys_and_the_new_ones() {
    let w = World::default();
    let mut next = w.root_v2();
    next.roles.root = role(&[seed::ROOT_NEXT], 1);
    let both = [seed::ROOT, seed::ROOT_2, seed::ROOT_NEXT];
    let offer = |root: &Root, seeds: &[u8]| {
        let mut trust = w.trust.clone();
        let report = trust.accept(&root_docs(vec![wire(root, seeds)]), now());
        (trust, report)
    };
    let (trust, report) = offer(&next, &both);
    assert_eq!((report.root, trust.root().version), (Some(2), 2));

    let cases: [(Code, &str, Root, &[u8]); 6] = [
        (
            Code::SignerUnknown,
            "new keys only",
            next.clone(),
            &[seed::ROOT_NEXT],
        ),
        (Code::SignerUnknown, "old keys only", next.clone(), &OLD_ROOT),
        (
            Code::ThresholdNotMet,
            "half of the old keys",
            next.clone(),
            &[seed::ROOT, seed::ROOT_NEXT],
        ),
        (
            Code::RootVersion,
            "a version skipped",
            Root {
                version: 3,
                ..next.clone()
            },
            &both,
        ),
        (
            Code::WrongOrg,
            "another version 1",
            Root {
                version: 1,
                org: None,
                name: name("x"),
                ..next.clone()
            },
            &both,
        ),
        (
            Code::WrongOrg,
            "another org",
            Root {
                org: Some("a".repeat(32).parse().unwrap()),
                ..next.clone()
            },
            &both,
        ),
    ];
    for (code, what, root, seeds) in cases {
        let (_, report) = offer(&root, seeds);
        let got = only_refusal(&report, DocKind::Root).code;
        assert_eq!(got, code, "{what}");
    }
}

#[test]
fn a_root_that_was_overtaken_is_older_not_forged() {
    let mut w = World::default();
    let mut next = w.root_v2();
    next.roles.root = role(&[seed::ROOT_NEXT], 1);
    let mut also = w.root_v2();
    also.name = name("also-2");
    w.trust.accept(
        &root_docs(vec![wire(&next, &[seed::ROOT, seed::ROOT_2, seed::ROOT_NEXT])]),
        now(),
    );
    let report = w.trust.accept(&root_docs(vec![wire(&also, &OLD_ROOT)]), now());
    assert_eq!(only_refusal(&report, DocKind::Root).code, Code::RootOlder);
    let held = w.trust.docs().roots;
    assert!(
        !w.trust.accept(&root_docs(held), now()).changed(),
        "the whole chain again changes nothing"
    );
}

#[test]
fn a_root_that_takes_the_bundle_key_away_ends_the_law_signed_by_it() {
    let mut w = World::default();
    let mut next = w.root_v2();
    next.roles.bundle = role(&[seed::ROOT_NEXT], 1);
    let report = w.trust.accept(&root_docs(vec![wire(&next, &OLD_ROOT)]), now());
    assert_eq!(report.unloadable.as_ref().unwrap().code, Code::BundleUnloadable);
    refused("law", w.trust.law(now()), Code::BundleUnloadable);

    let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
    refused("law after a restart", restored.law(now()), Code::BundleUnloadable);
    assert_eq!(
        restored.bundle().unwrap().version,
        1,
        "the version is not forgotten"
    );

    let newer = Bundle {
        version: 2,
        ..w.bundle()
    };
    let docs = LawDocs {
        bundle: Some(wire(&newer, &[seed::ROOT_NEXT])),
        ..LawDocs::default()
    };
    assert_eq!(w.trust.accept(&docs, now()).bundle, Some(2));
    w.trust.law(now()).unwrap();
}

#[test]
fn a_bundle_only_goes_forward() {
    let mut w = World::default();
    let v = |version, seeds: &[u8]| {
        let b = Bundle {
            version,
            ..support::bundle(&World::default().org)
        };
        LawDocs {
            bundle: Some(wire(&b, seeds)),
            ..LawDocs::default()
        }
    };
    assert_eq!(w.trust.accept(&v(3, &[seed::BUNDLE]), now()).bundle, Some(3));
    assert!(!w.trust.accept(&v(3, &[seed::BUNDLE]), now()).changed());
    let refusal = |docs: &LawDocs, at| {
        only_refusal(
            &World {
                trust: w.trust.clone(),
                ..World::default()
            }
            .trust
            .accept(docs, at),
            DocKind::Bundle,
        )
        .code
    };
    assert_eq!(refusal(&v(2, &[seed::BUNDLE]), now()), Code::BundleOlder);
    assert_eq!(refusal(&v(4, &[seed::ALICE]), now()), Code::SignerUnknown);
    assert_eq!(refusal(&v(4, &[seed::BUNDLE]), at(365 * DAY)), Code::RootExpired);
    let other = Bundle {
        version: 3,
        max_staleness: 1,
        ..w.bundle()
    };
    assert_eq!(refusal(&law_docs(&other), now()), Code::BundleConflict);
    refused("asked for version 4", w.trust.require(4), Code::StaleBundle);
    w.trust.require(3).unwrap();
}

/// A newer authentic bundle that does not load: everything is denied, and the old law does not come back.
#[test]
fn a_newer_bundle_that_cannot_be_loaded_denies_everything() {
    type Case = (Code, &'static str, fn(&mut Bundle));
    fn put(b: &mut Bundle, path: &str, text: String) {
        b.files.insert(path.into(), text);
    }
    let cases: &[Case] = &[
        (Code::MinRoot, "a root that is not held", |b| b.min_root = 2),
        (Code::BundleUnloadable, "a strange path", |b| {
            put(b, "../roster.toml", String::new())
        }),
        (Code::BundleUnloadable, "no time to live", |b| {
            b.expires_at = b.issued_at
        }),
        (Code::SchemaUnsupported, "newer schema", |b| b.schema_version = 2),
        (Code::BundleUnloadable, "odd agent version", |b| {
            b.min_versions.agent = Some("1.x".into())
        }),
        (Code::BundleUnloadable, "no roster", |b| {
            drop(b.files.remove("roster.toml"))
        }),
        (Code::BundleUnloadable, "no profiles", |b| {
            drop(b.files.remove("profiles.toml"))
        }),
        (Code::BundleUnloadable, "no TOML", |b| {
            put(b, "fleet.toml", "= 1".into())
        }),
        (Code::BundleUnloadable, "unknown key in the roster", |b| {
            put(b, "roster.toml", format!("admin = true\n{}", roster_toml()))
        }),
        (Code::BundleUnloadable, "unknown key of an operator", |b| {
            put(
                b,
                "roster.toml",
                roster_toml().replacen("kind =", "root = true\nkind =", 1),
            )
        }),
        (Code::BundleUnloadable, "unknown right", |b| {
            put(
                b,
                "roster.toml",
                roster_toml().replace("\"revoke\"", "\"anything\""),
            )
        }),
        (Code::BundleUnloadable, "undeclared group", |b| {
            put(
                b,
                "roster.toml",
                roster_toml().replacen("\"leads\"]", "\"lead\"]", 1),
            )
        }),
        (Code::BundleUnloadable, "not a key", |b| {
            put(b, "roster.toml", roster_toml().replace("lictor-ed25519", "rsa"))
        }),
        (Code::DuplicateKey, "one key for two operators", |b| {
            put(
                b,
                "roster.toml",
                roster_toml().replace(&public_line(seed::BOB), &public_line(seed::ALICE)),
            )
        }),
        (Code::DuplicateKey, "a root key in the roster", |b| {
            put(
                b,
                "roster.toml",
                roster_toml().replace(&public_line(seed::BOB), &public_line(seed::BUNDLE)),
            )
        }),
        (Code::WeakKey, "a weak key", |b| {
            let weak = lictor_trust::keys::PublicLine {
                key: weak_key(),
                comment: None,
            };
            put(
                b,
                "roster.toml",
                roster_toml().replace(&public_line(seed::BOB), &weak.to_string()),
            );
        }),
        (Code::BundleUnloadable, "unknown key in the fleet", |b| {
            put(b, "fleet.toml", format!("x = 1\n{FLEET_TOML}"))
        }),
        (Code::BundleUnloadable, "enrollers without group", |b| {
            put(
                b,
                "fleet.toml",
                FLEET_TOML.replace("enrollers.admins", "enrollers.nobody"),
            )
        }),
        (Code::BundleUnloadable, "validity over 30 days", |b| {
            put(b, "fleet.toml", FLEET_TOML.replace("12h", "31d"))
        }),
        (Code::BundleUnloadable, "unknown key in a profile", |b| {
            put(b, "profiles.toml", format!("{PROFILES_TOML}privileged = true\n"))
        }),
        (Code::BundleUnloadable, "unknown backend", |b| {
            put(
                b,
                "profiles.toml",
                PROFILES_TOML.replace("backend = \"host\"", "backend = \"none\""),
            )
        }),
        (Code::BundleUnloadable, "a relative path", |b| {
            put(b, "profiles.toml", format!("{PROFILES_TOML}cwd = \"tmp\"\n"))
        }),
    ];
    for (code, what, spoil) in cases {
        let mut w = World::default();
        w.trust.law(now()).expect("the good bundle is law");
        let mut newer = Bundle {
            version: 2,
            ..w.bundle()
        };
        spoil(&mut newer);
        let report = w.accept_bundle(&newer);
        assert_eq!(report.bundle, Some(2), "{what}: it is kept: {report:?}");
        assert_eq!(
            report.unloadable.as_ref().map(|r| r.code),
            Some(*code),
            "{what}: {report:?}"
        );
        refused(what, w.trust.law(now()), *code);
        refused(
            what,
            w.trust.verify_cancel(&wire(&w.cancel(), &[seed::ALICE]), now()),
            *code,
        );
        let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
        refused(what, restored.law(now()), *code);
        let report = w.accept_bundle(&w.bundle());
        assert_eq!(
            report.refused[0].1.code,
            Code::BundleOlder,
            "{what}: the old law stays away"
        );
        assert_eq!(
            w.accept_bundle(&Bundle {
                version: 3,
                ..w.bundle()
            })
            .bundle,
            Some(3)
        );
        w.trust.law(now()).expect("a newer good one is law again");
    }
}

#[test]
fn law_whose_policies_do_not_load_is_no_law_until_a_newer_one() {
    let mut w = World::default();
    w.trust.mark_unloadable(Refusal::new(
        Code::BundleUnloadable,
        "policies/all.cedar: no such type",
    ));
    refused("marked", w.trust.law(now()), Code::BundleUnloadable);
    assert!(!w.accept_bundle(&w.bundle()).changed());
    refused(
        "the same bundle again",
        w.trust.law(now()),
        Code::BundleUnloadable,
    );
    w.accept_bundle(&Bundle {
        version: 2,
        ..w.bundle()
    });
    w.trust.law(now()).unwrap();
}

#[test]
fn there_is_no_law_before_a_bundle_and_none_after_its_end() {
    let w = World::default();
    let empty = OrgTrust::pin(&w.org, &wire(&w.root, &OLD_ROOT)).unwrap();
    refused("nothing yet", empty.law(now()), Code::NoLaw);
    w.trust.law(at(30 * DAY - 1)).unwrap();
    refused("expired", w.trust.law(at(30 * DAY)), Code::BundleExpired);
    let mut w = World::default();
    let mut newer = Bundle {
        version: 2,
        ..w.bundle()
    };
    newer.min_versions.agent = Some("99.0.0".into());
    w.accept_bundle(&newer);
    refused("a newer agent is wanted", w.trust.law(now()), Code::AgentTooOld);
    assert!(w.trust.held().is_ok(), "documents can still be read");
}

#[test]
fn a_clock_behind_signed_documents_is_not_believed() {
    let w = World::default();
    let before = |ms: u64| lictor_proto::Timestamp::from_millis(at(0).as_millis() - ms);
    w.trust.law(before(60_000)).unwrap();
    assert_eq!(
        w.trust.now(before(60_000)),
        at(0),
        "time never runs before what was signed"
    );
    refused("an hour back", w.trust.law(before(HOUR)), Code::ClockBack);
    refused(
        "a job, with the clock back",
        w.trust.verify_job(&wire(&w.job(), &[seed::ALICE]), before(HOUR)),
        Code::ClockBack,
    );
    let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
    assert_eq!(restored.clock_floor(), w.trust.clock_floor());
    refused("and after a restart", restored.law(before(HOUR)), Code::ClockBack);
}

#[test]
fn groups_come_from_signed_labels_and_names() {
    let w = World::default();
    let fleet = &w.trust.held().unwrap().fleet;
    let labels = w.grant().labels;
    assert_eq!(
        fleet.groups_of(&name("web-1"), &labels),
        [name("special"), name("web")]
    );
    assert_eq!(fleet.groups_of(&name("web-2"), &labels), [name("web")]);
    assert!(fleet.groups_of(&name("web-2"), &Default::default()).is_empty());
    let roster = &w.trust.held().unwrap().roster;
    assert!(roster.may_break_glass(&name("bob")) && !roster.may_break_glass(&name("alice")));
}
