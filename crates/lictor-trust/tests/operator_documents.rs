//! Jobs, approvals, cancels and revocations: each good one passes, and each way to be wrong has its own code.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Document, Job, RevocationKind, Stdin, StdinWord};
use lictor_proto::{Code, JobId, NodeId};
use lictor_trust::sign::{cosign, sign_payload, to_wire};
use lictor_trust::{OrgTrust, sign};
use support::{DAY, HOUR, MINUTE, World, at, key, name, now, refused, root_v1, seed, wire};

/// How a document is spoilt.
type Spoil<T> = (Code, &'static str, fn(&mut T));

fn spoilt<T: Document + Clone, V: std::fmt::Debug>(
    good: &T,
    signer: u8,
    verify: impl Fn(&str) -> Result<V, Refusal>,
    cases: &[Spoil<T>],
) {
    verify(&wire(good, &[signer])).expect("the good document passes");
    for (code, what, spoil) in cases {
        let mut doc = good.clone();
        spoil(&mut doc);
        refused(what, verify(&wire(&doc, &[signer])), *code);
    }
}

#[test]
fn a_job_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    spoilt(
        &w.job(),
        seed::ALICE,
        |j| w.trust.verify_job(j, now()),
        &[
            (Code::SignerMismatch, "names another operator", |j| {
                j.operator = name("bob")
            }),
            (Code::IssuedInFuture, "61 s ahead", |j| {
                j.issued_at = now().plus(std::time::Duration::from_millis(60_001));
                j.not_before = j.issued_at;
                j.expires_at = at(HOUR);
            }),
            (Code::NotYetValid, "not before later", |j| {
                j.not_before = at(2 * MINUTE)
            }),
            (Code::Expired, "expired this moment", |j| j.expires_at = now()),
            (Code::ValidityTooLong, "over the bundle's cap", |j| {
                j.expires_at = at(12 * HOUR + 1)
            }),
            (Code::LimitExceeded, "over 30 days", |j| {
                j.expires_at = at(31 * DAY)
            }),
            (Code::StaleBundle, "asks for newer law", |j| j.min_bundle = 2),
            (Code::DocumentInvalid, "short nonce", |j| j.nonce = vec![0; 15]),
            (Code::DocumentInvalid, "no node", |j| j.nodes.clear()),
            (Code::DocumentInvalid, "a node twice", |j| {
                j.nodes.push(j.nodes[0].clone())
            }),
            (Code::LimitExceeded, "long reason", |j| {
                j.reason = "x".repeat(1025)
            }),
            (Code::KindUnsupported, "live stdin", |j| {
                j.stdin = Stdin::Word(StdinWord::E2e)
            }),
        ],
    );
}

#[test]
fn a_job_may_be_dated_a_minute_ahead() {
    let w = World::default();
    let mut job = w.job();
    job.issued_at = at(2 * MINUTE);
    job.not_before = job.issued_at;
    w.trust.verify_job(&wire(&job, &[seed::ALICE]), now()).unwrap();
}

#[test]
fn signatures_of_others_do_not_make_a_job() {
    let w = World::default();
    let verify = |text: &str| w.trust.verify_job(text, now());
    let good = sign(&w.job(), &[&key(seed::ALICE)]);
    verify(&to_wire(&good)).unwrap();

    refused(
        "a stranger's key",
        verify(&wire(&w.job(), &[seed::STRANGER])),
        Code::SignerUnknown,
    );
    refused(
        "a bundle key",
        verify(&wire(&w.job(), &[seed::BUNDLE])),
        Code::SignerUnknown,
    );
    refused(
        "an expired key",
        verify(&{
            let mut job = w.job();
            job.operator = name("retired");
            wire(&job, &[seed::RETIRED])
        }),
        Code::KeyExpired,
    );

    let mut two = good.clone();
    cosign(&mut two, &key(seed::ALICE_SECOND));
    refused("two signatures", verify(&to_wire(&two)), Code::SignatureCount);
    let mut none = good.clone();
    none.signatures.clear();
    refused("no signature", verify(&to_wire(&none)), Code::SignatureCount);

    let mut changed = good.clone();
    let byte = changed.payload.iter().position(|b| *b == b'u').unwrap();
    changed.payload[byte] = b'v';
    refused(
        "one changed byte",
        verify(&to_wire(&changed)),
        Code::SignatureInvalid,
    );
    let mut hint = good.clone();
    hint.signatures[0].keyid = key(seed::BOB).id();
    refused(
        "another key's id",
        verify(&to_wire(&hint)),
        Code::SignatureInvalid,
    );
    let mut short = good;
    short.signatures[0].sig.pop();
    refused(
        "a cut signature",
        verify(&to_wire(&short)),
        Code::SignatureInvalid,
    );
}

#[test]
fn a_signature_of_one_kind_never_serves_as_another() {
    let w = World::default();
    let approval = sign(&w.approval(), &[&key(seed::BOB)]);
    w.trust.verify_approval(&to_wire(&approval), now()).unwrap();
    refused(
        "approval as job",
        w.trust.verify_job(&to_wire(&approval), now()),
        Code::WrongType,
    );
    refused(
        "job as cancel",
        w.trust.verify_cancel(&wire(&w.job(), &[seed::ALICE]), now()),
        Code::WrongType,
    );

    let mut renamed = approval;
    renamed.payload_type = <Job as Document>::KIND.payload_type();
    refused(
        "approval renamed to job",
        w.trust.verify_job(&to_wire(&renamed), now()),
        Code::SignatureInvalid,
    );

    let job_type = <Job as Document>::KIND.payload_type();
    let payload = lictor_proto::json::to_vec(&w.cancel()).unwrap();
    let confused = sign_payload(job_type, payload, &[&key(seed::ALICE)]);
    refused(
        "a cancel's payload signed as job",
        w.trust.verify_job(&to_wire(&confused), now()),
        Code::PayloadMalformed,
    );
}

#[test]
fn bytes_that_are_no_strict_document_are_refused_before_and_after_the_signature() {
    let w = World::default();
    let verify = |text: &str| w.trust.verify_job(text, now());
    let good = wire(&w.job(), &[seed::ALICE]);
    refused("junk", verify("{}"), Code::EnvelopeMalformed);
    refused(
        "trailing bytes",
        verify(&format!("{good} x")),
        Code::EnvelopeMalformed,
    );
    refused(
        "unknown field",
        verify(&good.replacen('{', "{\"x\":1,", 1)),
        Code::EnvelopeMalformed,
    );
    refused(
        "over 2 MiB",
        verify(&format!("{good}{}", " ".repeat(2 << 20))),
        Code::LimitExceeded,
    );

    let payload = String::from_utf8(sign(&w.job(), &[]).payload).unwrap();
    let signed = |payload: &str| {
        let kind = <Job as Document>::KIND.payload_type();
        to_wire(&sign_payload(kind, payload.into(), &[&key(seed::ALICE)]))
    };
    verify(&signed(&payload)).unwrap();
    let spoil = [
        (
            "a repeated key",
            payload.replacen("\"operator\"", "\"operator\":\"bob\",\"operator\"", 1),
        ),
        (
            "an unknown field",
            payload.replacen("\"operator\"", "\"sudo\":true,\"operator\"", 1),
        ),
        (
            "a float",
            payload.replacen("\"min_bundle\":1", "\"min_bundle\":1.0", 1),
        ),
        (
            "a huge integer",
            payload.replacen("\"min_bundle\":1", "\"min_bundle\":9007199254740993", 1),
        ),
        (
            "a filled reserved list",
            payload.replacen("\"after\":[]", "\"after\":[1]", 1),
        ),
        ("another time form", payload.replacen(".000Z", "Z", 1)),
        (
            "another type word",
            payload.replacen("\"type\":\"job\"", "\"type\":\"cancel\"", 1),
        ),
    ];
    for (what, text) in spoil {
        assert_ne!(text, payload, "{what}");
        refused(what, verify(&signed(&text)), Code::PayloadMalformed);
    }
}

#[test]
fn a_job_of_another_org_is_refused_even_with_the_same_keys() {
    let w = World::default();
    let mut other_root = root_v1();
    other_root.name = name("other");
    let other = World::with_root(other_root);
    assert_ne!(w.org, other.org);
    let job = wire(&w.job(), &[seed::ALICE]);
    w.trust.verify_job(&job, now()).unwrap();
    refused("other org", other.trust.verify_job(&job, now()), Code::WrongOrg);
}

#[test]
fn a_job_is_for_the_nodes_it_names() {
    let w = World::default();
    let job = w
        .trust
        .verify_job(&wire(&w.job(), &[seed::ALICE]), now())
        .unwrap();
    let here = w.secrets.node_id(&w.org);
    job.check_node(&here).unwrap();
    let there = support::secrets(seed::OTHER_NODE).node_id(&w.org);
    refused("other node", job.check_node(&there), Code::WrongNode);
    assert_eq!(job.id(), JobId::from_digest(&w.job_digest()));
}

#[test]
fn revoking_a_key_an_operator_or_a_job_ends_the_job() {
    let w = World::default();
    let job = wire(&w.job(), &[seed::ALICE]);
    w.trust.verify_job(&job, now()).unwrap();
    let id = JobId::from_digest(&w.job_digest());
    for (kind, target, code) in [
        (
            RevocationKind::Key,
            key(seed::ALICE).id().to_string(),
            Code::KeyRevoked,
        ),
        (
            RevocationKind::Operator,
            "alice".to_owned(),
            Code::OperatorRevoked,
        ),
        (RevocationKind::Job, id.to_string(), Code::JobRevoked),
    ] {
        let mut w = World::default();
        w.revoke(kind, &target);
        refused(&target, w.trust.verify_job(&job, now()), code);
        assert!(w.trust.historic_job(&job).is_ok(), "history stays readable");
    }
    // The other key of the same person is not touched.
    let mut w = World::default();
    w.revoke(RevocationKind::Key, &key(seed::ALICE).id().to_string());
    w.trust
        .verify_job(&wire(&w.job(), &[seed::ALICE_SECOND]), now())
        .unwrap();
}

#[test]
fn an_approval_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    spoilt(
        &w.approval(),
        seed::BOB,
        |a| w.trust.verify_approval(a, now()),
        &[
            (Code::SignerMismatch, "in another's name", |a| {
                a.approver = name("alice")
            }),
            (Code::Expired, "expired", |a| a.expires_at = now()),
            (Code::StaleBundle, "asks for newer law", |a| a.min_bundle = 2),
            (Code::IssuedInFuture, "from the future", |a| {
                a.issued_at = at(DAY);
                a.expires_at = at(2 * DAY);
            }),
            (Code::DocumentInvalid, "facts twice", |a| {
                a.facts.push(a.facts[0].clone())
            }),
        ],
    );
    let mut revoked = World::default();
    let approval = wire(&revoked.approval(), &[seed::BOB]);
    revoked.revoke(RevocationKind::Operator, "bob");
    refused(
        "revoked approver",
        revoked.trust.verify_approval(&approval, now()),
        Code::OperatorRevoked,
    );
}

#[test]
fn an_approval_is_for_one_job_and_never_ones_own() {
    let w = World::default();
    let job = w
        .trust
        .verify_job(&wire(&w.job(), &[seed::ALICE]), now())
        .unwrap();
    let approve = |doc: &lictor_proto::doc::Approval, signer| {
        w.trust.verify_approval(&wire(doc, &[signer]), now()).unwrap()
    };
    approve(&w.approval(), seed::BOB).check_for(&job).unwrap();
    let mut other = w.approval();
    other.job_digest = lictor_proto::Digest::of(b"another job");
    refused(
        "another job",
        approve(&other, seed::BOB).check_for(&job),
        Code::WrongJob,
    );
    let mut own = w.approval();
    own.approver = name("alice");
    refused(
        "own job",
        approve(&own, seed::ALICE_SECOND).check_for(&job),
        Code::SelfApproval,
    );
}

#[test]
fn a_cancel_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    spoilt(
        &w.cancel(),
        seed::ALICE,
        |c| w.trust.verify_cancel(c, now()),
        &[
            (Code::SignerMismatch, "in another's name", |c| {
                c.operator = name("bob")
            }),
            (Code::Expired, "expired", |c| c.expires_at = now()),
            (Code::StaleBundle, "asks for newer law", |c| c.min_bundle = 2),
            (Code::LimitExceeded, "long reason", |c| {
                c.reason = "x".repeat(1025)
            }),
        ],
    );
    let cancel = w
        .trust
        .verify_cancel(&wire(&w.cancel(), &[seed::ALICE]), now())
        .unwrap();
    cancel.check_for(&w.job_digest()).unwrap();
    refused(
        "another job",
        cancel.check_for(&lictor_proto::Digest::of(b"")),
        Code::WrongJob,
    );
    let robot = w.cancel();
    refused(
        "unsigned by its operator",
        w.trust.verify_cancel(&wire(&robot, &[seed::STRANGER]), now()),
        Code::SignerUnknown,
    );
}

#[test]
fn a_cancel_is_obeyed_also_when_the_law_is_too_old_for_new_work() {
    let w = World::default();
    let late = at(40 * DAY);
    let mut cancel = w.cancel();
    cancel.issued_at = late;
    cancel.expires_at = late.plus(std::time::Duration::from_secs(60));
    w.trust
        .verify_cancel(&wire(&cancel, &[seed::ALICE]), late)
        .unwrap();
    let mut job = w.job();
    job.issued_at = late;
    job.not_before = late;
    job.expires_at = cancel.expires_at;
    refused(
        "a job",
        w.trust.verify_job(&wire(&job, &[seed::ALICE]), late),
        Code::BundleExpired,
    );
}

#[test]
fn a_revocation_needs_the_right_and_a_fitting_target() {
    let w = World::default();
    let good = w.revocation(RevocationKind::Operator, "bob");
    spoilt(
        &good,
        seed::ALICE,
        |r| w.trust.verify_revocation(r),
        &[
            (Code::SignerMismatch, "in another's name", |r| {
                r.operator = name("bob")
            }),
            (Code::DocumentInvalid, "not a node id", |r| {
                r.kind = RevocationKind::Node
            }),
            (Code::DocumentInvalid, "not a key id", |r| {
                r.kind = RevocationKind::Key
            }),
            (Code::LimitExceeded, "long reason", |r| {
                r.reason = "x".repeat(1025)
            }),
        ],
    );
    let mut by_bob = good.clone();
    by_bob.operator = name("bob");
    refused(
        "without the right",
        w.trust.verify_revocation(&wire(&by_bob, &[seed::BOB])),
        Code::RightMissing,
    );
    let mut late = good;
    late.operator = name("retired");
    late.issued_at = at(HOUR);
    refused(
        "after its key's end",
        w.trust.verify_revocation(&wire(&late, &[seed::RETIRED])),
        Code::KeyExpired,
    );
}

#[test]
fn revocations_hold_whatever_the_order_they_come_in() {
    let base = World::default();
    let node: NodeId = base.secrets.node_id(&base.org);
    let texts = [
        wire(
            &base.revocation(RevocationKind::Node, node.as_str()),
            &[seed::ALICE],
        ),
        wire(
            &base.revocation(RevocationKind::Operator, "alice"),
            &[seed::ALICE],
        ),
        wire(
            &base.revocation(RevocationKind::Key, &key(seed::BOB).id().to_string()),
            &[seed::ALICE_SECOND],
        ),
    ];
    let mut summaries = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut trust: OrgTrust = World::default().trust;
        let docs = LawDocs {
            revocations: order.iter().map(|i| texts[*i].clone()).collect(),
            ..LawDocs::default()
        };
        assert!(trust.accept(&docs, now()).refused.is_empty());
        assert!(
            !trust.accept(&docs, now()).changed(),
            "the same again changes nothing"
        );
        summaries.push(trust.revocations().summary());
    }
    summaries.dedup();
    assert_eq!(summaries.len(), 1);
    assert_eq!(summaries[0].count, 3);
}
