//! A job that uses a secret and waits for an approval.

use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::doc::{Delivery, Outcome, Secret, SecretUse};
use lictor_proto::{Digest, Envelope, Timestamp, limits};
use lictor_trust::seal::{Bound, seal};

use crate::support::*;

const RULE: &str = r#"
@id("secrets") permit(principal, action == Action::"use_secret", resource);
"#;

/// Alice's secret `db`, and its digest.
fn secret(world: &World) -> (String, Digest) {
    let (operator, called) = (name("alice"), name("db"));
    let bound = Bound {
        org: &world.org,
        name: &called,
        version: 1,
        operator: &operator,
    };
    let sealed = seal(b"correct horse", bound, (&world.node_id, &world.node.seal)).unwrap();
    let document = Secret {
        tag: Default::default(),
        org: world.org.clone(),
        operator: operator.clone(),
        name: called.clone(),
        version: 1,
        sealed: vec![sealed],
        issued_at: Timestamp::now(),
    };
    let signed = wire(&document, seed_of("alice"));
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
