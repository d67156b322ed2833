//! Secrets of jobs that wait for an approval, and of schedules, whose nodes keep them.

use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::doc::{Delivery, DocKind, Outcome, RevocationKind, Schedule, Secret, SecretUse};
use lictor_proto::{Code, Digest, Envelope, Timestamp, limits};
use lictor_trust::seal::{Bound, seal};
use lictor_trust::sign::{sign_payload, to_wire};

use crate::schedules::{Turned, fired, fires, revoke, times};
use crate::support::*;

const RULE: &str = r#"
@id("secrets") permit(principal, action == Action::"use_secret", resource);
"#;

/// Alice's secret `db`, and its digest.
fn secret(world: &World) -> (String, Digest) {
    secret_of(world, "alice")
}

/// The same, of this operator's.
fn secret_of(world: &World, who: &str) -> (String, Digest) {
    let (operator, called) = (name(who), name("db"));
    let bound = Bound {
        org: &world.org,
        name: &called,
        version: 1,
        operator: &operator,
    };
    let sealed = seal(b"correct horse", bound, [(&world.node_id, &world.node.seal)]).unwrap();
    let document = Secret {
        tag: Default::default(),
        org: world.org.clone(),
        operator: operator.clone(),
        name: called.clone(),
        version: 1,
        sealed,
        issued_at: Timestamp::now(),
    };
    let signed = wire(&document, seed_of(who));
    let digest = Envelope::parse(signed.as_bytes(), limits::ENVELOPE)
        .unwrap()
        .digest();
    (signed, digest)
}

#[test]
fn an_approval_that_comes_without_the_secret_of_its_job_is_kept_until_that_comes() {
    let mut world = World::new();
    runtime().block_on(async {
        let law = world.next_law(&format!("{POLICY}{RULE}"));
        let (document, digest) = secret(&world);
        let mut wanted = world.job("carol", &["true"]);
        wanted.secrets = vec![SecretUse {
            name: name("db"),
            version: 1,
            digest,
            delivery: Delivery::Memfd,
        }];
        let (job, mut o) = world.sign_job(&wanted);
        o.secrets = vec![document];
        {
            let warden = world.warden().await;
            let reply = warden.ask(Request::Law(law)).await;
            assert!(matches!(reply, Reply::Law(_)), "{reply:?}");
            let reply = offer(&warden, o.clone()).await;
            assert!(matches!(reply, OfferReply::Ask(_)), "{reply:?}");
            // The same one twice is kept once.
            let approval = world.approval(job, "bob");
            for text in [approval.clone(), format!("{approval}\n")] {
                assert_eq!(warden.ask(Request::Approval(text)).await, Reply::Done);
            }
            warden.close().await;
        }
        let warden = world.warden().await;
        let mut feed = warden.events();
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
        assert_eq!(receipt.approvals.len(), 1);
    });
}

#[test]
fn a_job_whose_secret_is_of_a_form_that_is_not_read_is_denied_and_not_tried_again() {
    let mut world = World::new();
    runtime().block_on(async {
        let law = world.next_law(&format!("{POLICY}{RULE}"));
        let warden = world.warden().await;
        assert!(matches!(warden.ask(Request::Law(law)).await, Reply::Law(_)));
        let payload = br#"{"type":"secret","sealed":[]}"#.to_vec();
        let other = sign_payload(DocKind::Secret.payload_type(), payload, &[&key(seed_of("alice"))]);
        let mut wanted = world.job("alice", &["true"]);
        wanted.secrets = vec![SecretUse {
            name: name("db"),
            version: 1,
            digest: other.digest(),
            delivery: Delivery::Memfd,
        }];
        let (_, mut o) = world.sign_job(&wanted);
        o.secrets = vec![to_wire(&other)];
        let reply = offer(&warden, o).await;
        assert!(
            matches!(&reply, OfferReply::Denied(why) if why.code == Code::PayloadMalformed),
            "{reply:?}"
        );
    });
}

/// Alice's schedule that counts the bytes of a secret.
fn counting(world: &World, digest: Digest) -> Schedule {
    let mut schedule = world.schedule("alice", &["sh", "-c", "wc -c < $LICTOR_SECRET_DB"]);
    schedule.secrets = vec![SecretUse {
        name: name("db"),
        version: 1,
        digest,
        delivery: Delivery::Memfd,
    }];
    schedule
}

#[test]
fn a_schedule_keeps_its_secrets_sealed_and_each_firing_uses_them_also_after_a_restart() {
    let (mut world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let law = world.next_law(&format!("{POLICY}{RULE}"));
        let (document, digest) = secret(&world);
        let schedule = counting(&world, digest);
        let (id, mut o) = world.sign_schedule(&schedule);
        let at = times(&schedule, 3);
        {
            let warden = clock.warden(&world).await;
            let mut feed = warden.events();
            assert!(matches!(warden.ask(Request::Law(law)).await, Reply::Law(_)));
            // Without it, or with another, it does not stand yet, and nothing is over.
            let reply = offer(&warden, o.clone()).await;
            assert!(
                matches!(&reply, OfferReply::Later(r) if r.code == Code::SecretMissing),
                "{reply:?}"
            );
            o.secrets = vec![secret_of(&world, "alice").0];
            let reply = offer(&warden, o.clone()).await;
            assert!(
                matches!(&reply, OfferReply::Later(r) if r.code == Code::SecretMismatch),
                "{reply:?}"
            );
            o.secrets = vec![format!("{}{document}", " ".repeat(4096))];
            assert_eq!(offer(&warden, o.clone()).await, OfferReply::Accepted);
            let (heard, done) = fires(&clock, &mut feed, fired(id, at[0])).await;
            assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
            assert_eq!(heard.stdout, b"13\n");
            warden.close().await;
        }
        let journal = std::fs::read(world.dir.path().join("journal.log")).unwrap();
        let has = |text: &[u8]| journal.windows(text.len()).any(|w| w == text);
        assert!(has(b"lictor.secret") && !has(b"correct horse"));
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let (heard, _) = fires(&clock, &mut feed, fired(id, at[1])).await;
        assert_eq!(heard.stdout, b"13\n", "from what this node has kept");
    });
}

#[test]
fn a_firing_is_refused_a_secret_that_the_law_of_then_does_not_let_it_use() {
    let (mut world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let law = world.next_law(&format!("{POLICY}{RULE}"));
        // Set by somebody else than the schedule's operator, who may be revoked alone.
        let (document, digest) = secret_of(&world, "bob");
        let schedule = counting(&world, digest);
        let (id, mut o) = world.sign_schedule(&schedule);
        o.secrets = vec![document];
        let at = times(&schedule, 3);
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        assert!(matches!(warden.ask(Request::Law(law)).await, Reply::Law(_)));
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (_, done) = fires(&clock, &mut feed, fired(id, at[0])).await;
        assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
        let without = world.next_law(POLICY);
        assert!(matches!(warden.ask(Request::Law(without)).await, Reply::Law(_)));
        let (_, done) = fires(&clock, &mut feed, fired(id, at[1])).await;
        assert_eq!(world.receipt(&done).code, Some(Code::NoMatch));
        let again = world.next_law(&format!("{POLICY}{RULE}"));
        assert!(matches!(warden.ask(Request::Law(again)).await, Reply::Law(_)));
        revoke(&world, &warden, RevocationKind::Operator, "bob").await;
        let (_, done) = fires(&clock, &mut feed, fired(id, at[2])).await;
        assert_eq!(world.receipt(&done).code, Some(Code::OperatorRevoked));
    });
}
