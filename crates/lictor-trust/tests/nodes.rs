//! Grants, node records and the directory.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use lictor_proto::doc::{Grant, NodeRecord, RevocationKind, Token};
use lictor_proto::{Code, Digest};
use lictor_trust::directory::Node;
use lictor_trust::enrol::{check_enrolment, join_key};
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeSecrets, sign};
use support::{DAY, HOUR, MINUTE, World, at, key, name, now, refused, secrets, seed, weak_key, wire};

#[test]
fn a_grant_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    let verify = |g: &Grant, signer| w.trust.verify_grant(&wire(g, &[signer]));
    verify(&w.grant(), seed::ALICE).unwrap();
    type Case = (Code, &'static str, fn(&mut Grant));
    let cases: [Case; 8] = [
        (Code::GrantNotAllowed, "a value that may not be conferred", |g| {
            g.labels.insert(name("role"), name("payroll"));
        }),
        (Code::GrantNotAllowed, "a label that may not be conferred", |g| {
            g.labels.insert(name("env"), name("prod"));
        }),
        (Code::SignerMismatch, "in another's name", |g| {
            g.operator = name("bob")
        }),
        (Code::WeakKey, "a weak join key", |g| g.join_key = weak_key()),
        (Code::DuplicateKey, "an operator's key as join key", |g| {
            g.join_key = key(seed::BOB).public()
        }),
        (Code::DocumentInvalid, "name and prefix", |g| {
            g.name_prefix = Some(name("web"))
        }),
        (Code::LimitExceeded, "no use", |g| g.max_uses = 0),
        (Code::LimitExceeded, "over 30 days", |g| {
            g.expires_at = at(31 * DAY)
        }),
    ];
    for (code, what, spoil) in cases {
        let mut grant = w.grant();
        spoil(&mut grant);
        refused(what, verify(&grant, seed::ALICE), code);
    }
    let mut any_site = w.grant();
    any_site.labels.insert(name("site"), name("anywhere"));
    verify(&any_site, seed::ALICE).unwrap();
    let mut by_bob = w.grant();
    by_bob.operator = name("bob");
    refused(
        "nobody lets bob enrol",
        verify(&by_bob, seed::BOB),
        Code::GrantNotAllowed,
    );
    let mut by_retired = w.grant();
    by_retired.operator = name("retired");
    verify(&by_retired, seed::RETIRED).expect("signed before the key's end, it stands for good");
    by_retired.issued_at = at(MINUTE);
    refused(
        "after the key's end",
        verify(&by_retired, seed::RETIRED),
        Code::KeyExpired,
    );
}

#[test]
fn who_may_confer_only_some_labels_takes_no_name_that_means_something() {
    const GROUPS: &str = "[groups.vault]\nnames = [\"vault-1\", \"vault-2\"]\n[enrollers.admins]\n";
    let world = |rule: &str| {
        let mut w = World::default();
        let mut b = w.bundle();
        b.version = 2;
        b.files.insert("fleet.toml".into(), format!("{GROUPS}{rule}"));
        assert!(w.accept_bundle(&b).unloadable.is_none(), "{rule}");
        w
    };
    let narrow = world("labels = { role = [\"web\"] }");
    let listed = world("labels = { role = [\"web\"] }\nnames = [\"vault-1\", \"web-1\"]");
    let wide = world("labels = { role = [\"web\"] }\nnames = \"any\"");
    let all = world("labels = \"any\"");
    let none = world("labels = \"any\"\nnames = []");
    type Case = (&'static str, fn(&mut Grant), [bool; 5]);
    fn prefix(g: &mut Grant, text: &str) {
        (g.name, g.name_prefix) = (None, Some(name(text)));
    }
    fn replaces(g: &mut Grant) {
        g.replaces = Some(World::default().secrets.node_id(&World::default().org));
    }
    let cases: [Case; 8] = [
        ("a plain name", |_| (), [true; 5]),
        ("a plain prefix", |g| prefix(g, "web"), [true; 5]),
        (
            "a group's name",
            |g| g.name = Some(name("vault-1")),
            [false, true, true, true, false],
        ),
        (
            "another one",
            |g| g.name = Some(name("vault-2")),
            [false, false, true, true, false],
        ),
        (
            "a prefix of it",
            |g| prefix(g, "va"),
            [false, false, true, true, false],
        ),
        (
            "the prefix that it is",
            |g| prefix(g, "vault-1"),
            [false, true, true, true, false],
        ),
        ("a replacement", replaces, [false, true, true, true, false]),
        (
            "a replacement of any name",
            |g| {
                replaces(g);
                prefix(g, "web");
            },
            [false, false, true, true, false],
        ),
    ];
    for (what, change, want) in cases {
        for (w, good) in [&narrow, &listed, &wide, &all, &none].into_iter().zip(want) {
            let mut grant = w.grant();
            change(&mut grant);
            let got = w.trust.verify_grant(&wire(&grant, &[seed::ALICE]));
            match good {
                true => drop(got.unwrap_or_else(|r| panic!("{what}: {r:?}"))),
                false => refused(what, got, Code::GrantNotAllowed),
            }
        }
    }
}

#[test]
fn a_grant_that_is_met_for_the_first_time_needs_a_key_that_is_valid_now() {
    let w = World::default();
    let by_alice = w.verified_grant();
    w.trust.check_granter(&by_alice, at(DAY)).unwrap();
    let mut dated_back = w.grant();
    dated_back.operator = name("retired");
    let grant = w
        .trust
        .verify_grant(&wire(&dated_back, &[seed::RETIRED]))
        .expect("by its own date it is good");
    w.trust.check_granter(&grant, at(0)).unwrap();
    refused("now", w.trust.check_granter(&grant, at(DAY)), Code::KeyExpired);
}

#[test]
fn enrolment_is_limited_in_time_and_uses() {
    let grant = World::default().grant();
    check_enrolment(&grant, 0, now()).unwrap();
    refused("late", check_enrolment(&grant, 0, at(HOUR)), Code::GrantExpired);
    refused("used", check_enrolment(&grant, 1, now()), Code::GrantUsed);
    let early = lictor_proto::Timestamp::from_millis(at(0).as_millis() - 2 * MINUTE);
    refused("early", check_enrolment(&grant, 0, early), Code::IssuedInFuture);
}

fn spoilt_record(w: &World, grant: Digest, signers: [u8; 2], spoil: impl Fn(&mut NodeRecord)) -> String {
    let text = w.record(grant, "web-1", &w.secrets);
    let envelope = lictor_proto::Envelope::parse(text.as_bytes(), 1 << 20).unwrap();
    let mut record: NodeRecord = lictor_proto::json::from_slice(&envelope.payload).unwrap();
    spoil(&mut record);
    wire(&record, &signers)
}

#[test]
fn a_node_record_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    let grant = w.verified_grant();
    let own = [seed::NODE, seed::JOIN];
    let verify = |text: String| w.trust.verify_node(&grant, &text);
    let spoilt = |spoil: &dyn Fn(&mut NodeRecord)| verify(spoilt_record(&w, grant.digest(), own, spoil));
    assert_eq!(spoilt(&|_| ()).unwrap().signers().len(), 2);

    refused(
        "no join signature",
        verify(spoilt_record(
            &w,
            grant.digest(),
            [seed::NODE, seed::STRANGER],
            |_| (),
        )),
        Code::JoinSignature,
    );
    refused(
        "no identity signature",
        verify(spoilt_record(
            &w,
            grant.digest(),
            [seed::STRANGER, seed::JOIN],
            |_| (),
        )),
        Code::SignatureInvalid,
    );
    refused(
        "another grant",
        verify(spoilt_record(&w, Digest::of(b""), own, |_| ())),
        Code::NodeRecordInvalid,
    );
    refused(
        "another name",
        spoilt(&|r| r.name = name("web-2")),
        Code::NodeRecordInvalid,
    );
    refused(
        "after the grant's time",
        spoilt(&|r| r.issued_at = at(HOUR)),
        Code::NodeRecordInvalid,
    );
    refused(
        "another's identity key",
        spoilt(&|r| r.identity_key = key(seed::OTHER_NODE).public()),
        Code::DocumentInvalid,
    );
    refused(
        "a made-up id",
        spoilt(&|r| r.node_id = secrets(seed::OTHER_NODE).node_id(&r.org)),
        Code::DocumentInvalid,
    );
    refused(
        "a key used twice",
        spoilt(&|r| r.link_key = r.e2e_key),
        Code::DocumentInvalid,
    );
    refused(
        "a weak sealing key",
        spoilt(&|r| r.seal_key = [0; 32]),
        Code::WeakKey,
    );
    refused("a weak key", spoilt(&|r| r.e2e_key = weak_key()), Code::WeakKey);
    refused(
        "an operator's key",
        spoilt(&|r| r.link_key = key(seed::ALICE).public()),
        Code::DuplicateKey,
    );
    refused(
        "the join key",
        spoilt(&|r| r.link_key = key(seed::JOIN).public()),
        Code::DuplicateKey,
    );
    refused(
        "another org",
        spoilt(&|r| {
            r.org = "a".repeat(32).parse().unwrap();
            r.node_id = lictor_proto::NodeId::derive(&r.org, &r.identity_key.key);
        }),
        Code::WrongOrg,
    );
}

#[test]
fn what_is_revoked_vouches_for_nothing() {
    let base = World::default();
    let grant = wire(&base.grant(), &[seed::ALICE]);
    let digest = base.verified_grant().digest();
    let record = base.record(digest, "web-1", &base.secrets);
    Node::verify(&base.trust, &grant, &record).unwrap();
    let node = base.secrets.node_id(&base.org);
    for (kind, target, code) in [
        (RevocationKind::Node, node.to_string(), Code::NodeRevoked),
        (RevocationKind::Grant, digest.to_string(), Code::GrantRevoked),
        (
            RevocationKind::Key,
            key(seed::ALICE).id().to_string(),
            Code::KeyRevoked,
        ),
        (RevocationKind::Operator, "alice".into(), Code::OperatorRevoked),
    ] {
        let mut w = World::default();
        w.revoke(kind, &target);
        refused(&target, Node::verify(&w.trust, &grant, &record), code);
    }
}

#[test]
fn a_token_goes_with_its_grant_and_the_law() {
    let w = World::default();
    let grant = w.verified_grant();
    let token = Token {
        hub_url: "https://hub.example:8443".into(),
        hub_spki: Digest::of(b"spki"),
        org_id: w.org.clone(),
        min_root: 1,
        min_bundle: 1,
        grant_digest: grant.digest(),
        join_seed: [seed::JOIN; 32],
    };
    assert_eq!(Token::decode(&token.encode()).unwrap(), token);
    assert_eq!(join_key(&token, &grant).unwrap().id(), key(seed::JOIN).id());
    w.trust.check_token(&token).unwrap();
    let with = |spoil: &dyn Fn(&mut Token)| {
        let mut t = token.clone();
        spoil(&mut t);
        t
    };
    refused(
        "another seed",
        join_key(&with(&|t| t.join_seed = [0; 32]), &grant),
        Code::JoinSignature,
    );
    refused(
        "another grant",
        join_key(&with(&|t| t.grant_digest = Digest::of(b"")), &grant),
        Code::NodeRecordInvalid,
    );
    refused(
        "old root",
        w.trust.check_token(&with(&|t| t.min_root = 2)),
        Code::RootOlder,
    );
    refused(
        "old law",
        w.trust.check_token(&with(&|t| t.min_bundle = 2)),
        Code::StaleBundle,
    );
    refused(
        "another org",
        w.trust
            .check_token(&with(&|t| t.org_id = "a".repeat(32).parse().unwrap())),
        Code::WrongOrg,
    );
}

/// A second grant for a name, with a join key of its own.
fn pair(
    w: &World,
    node: &str,
    join: u8,
    secrets: &NodeSecrets,
    spoil: impl Fn(&mut Grant),
) -> (String, String) {
    let mut grant = w.grant();
    grant.name = Some(name(node));
    grant.join_key = key(join).public();
    spoil(&mut grant);
    let text = wire(&grant, &[seed::ALICE]);
    let digest = sign(&grant, &[]).digest();
    let node = name(node);
    let of = lictor_trust::enrol::RecordOf {
        org: &w.org,
        grant: digest,
        name: &node,
        epoch: 1,
        issued_at: at(1),
    };
    (text, to_wire(&secrets.record(&of, &key(join))))
}

#[test]
fn two_live_records_for_one_name_are_ambiguous_until_settled() {
    let mut w = World::default();
    let first = pair(&w, "web-1", 20, &w.secrets, |_| ());
    let other = secrets(seed::OTHER_NODE);
    let second = pair(&w, "web-1", 21, &other, |_| ());
    let alone = w.directory(std::slice::from_ref(&first));
    assert_eq!(
        alone.resolve(&name("web-1")).unwrap().groups,
        [name("special"), name("web")]
    );
    refused("unknown", alone.resolve(&name("web-9")), Code::NodeUnknown);

    let both = w.directory(&[first.clone(), second.clone()]);
    refused("two", both.resolve(&name("web-1")), Code::AmbiguousName);
    assert!(both.get(&other.node_id(&w.org)).is_ok(), "by id both are known");

    let old = w.secrets.node_id(&w.org);
    let successor = pair(&w, "web-1", 22, &other, |g| g.replaces = Some(old.clone()));
    let settled = w.directory(&[first.clone(), successor]);
    assert_eq!(
        *settled.resolve(&name("web-1")).unwrap().id(),
        other.node_id(&w.org)
    );
    assert!(settled.get(&old).unwrap().replaced);

    w.revoke(RevocationKind::Node, old.as_str());
    let settled = w.directory(&[first, second]);
    assert_eq!(
        *settled.resolve(&name("web-1")).unwrap().id(),
        other.node_id(&w.org)
    );
    assert_eq!(settled.refused()[0].1.code, Code::NodeRevoked);
    refused("revoked", settled.get(&old), Code::NodeUnknown);
}

#[test]
fn a_replacement_takes_only_its_own_name() {
    let w = World::default();
    let first = pair(&w, "web-1", 20, &w.secrets, |_| ());
    let old = w.secrets.node_id(&w.org);
    let thief = pair(&w, "web-2", 21, &secrets(seed::OTHER_NODE), |g| {
        g.replaces = Some(old.clone())
    });
    let d = w.directory(&[first, thief]);
    assert_eq!(*d.resolve(&name("web-1")).unwrap().id(), old);
}

#[test]
fn a_grant_used_too_often_vouches_for_none() {
    let w = World::default();
    let one = pair(&w, "web-1", 20, &w.secrets, |_| ());
    let other = pair(&w, "web-1", 20, &secrets(seed::OTHER_NODE), |_| ());
    let d = w.directory(&[one, other]);
    assert_eq!(d.iter().count(), 0);
    assert!(d.refused().iter().all(|(_, r)| r.code == Code::GrantUsed) && d.refused().len() == 2);
}

#[test]
fn nodes_do_not_share_keys() {
    let w = World::default();
    let one = pair(&w, "web-1", 20, &w.secrets, |_| ());
    let mut borrowed = secrets(seed::OTHER_NODE);
    borrowed.link = w.secrets.identity.clone();
    let thief = pair(&w, "web-2", 21, &borrowed, |_| ());
    let d = w.directory(&[one, thief]);
    assert!(d.resolve(&name("web-1")).is_ok(), "who proves the key keeps it");
    assert_eq!(d.refused()[0].1.code, Code::DuplicateKey);
}

#[test]
fn secrets_of_a_node_are_stored_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let made = NodeSecrets::generate().unwrap();
    made.store(dir.path()).unwrap();
    let read = NodeSecrets::load(dir.path()).unwrap();
    let org = World::default().org;
    assert_eq!(made.node_id(&org), read.node_id(&org));
    assert_eq!(made.seal.x25519_public(), read.seal.x25519_public());
}

#[test]
fn labels_are_the_grants() {
    let w = World::default();
    let (grant, record) = pair(&w, "web-1", 20, &w.secrets, |_| ());
    let node = Node::verify(&w.trust, &grant, &record).unwrap();
    assert_eq!(node.labels, BTreeMap::from([(name("role"), name("web"))]));
}
