//! Secrets at the hub: versions only go up, a removed one keeps its number, and nobody else's are seen.

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::{Page, Problem, SecretDocument, SecretView};
use lictor_proto::{Code, Digest, NodeId};

use super::world::{Org, World};

async fn put(world: &World, org: &Org, version: u64) -> Result<SecretView, Problem> {
    let node = NodeId::derive(&org.id, &[1; 32]);
    let wire = org.a_secret(&node, "db", version);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/secrets", &wire)
        .await;
    match answer.status {
        StatusCode::CREATED => Ok(serde_json::from_slice(&answer.body).unwrap()),
        _ => Err(serde_json::from_slice(&answer.body).unwrap()),
    }
}

async fn get(world: &World, org: &Org) -> Option<SecretDocument> {
    let answer = world
        .call(Some(&org.secret), Method::GET, "/api/v1/secrets/db", "")
        .await;
    (answer.status == StatusCode::OK).then(|| serde_json::from_slice(&answer.body).unwrap())
}

async fn list(world: &World, org: &Org) -> Vec<SecretView> {
    let answer = world
        .call(Some(&org.secret), Method::GET, "/api/v1/secrets", "")
        .await;
    let page: Page<SecretView> = serde_json::from_slice(&answer.body).unwrap();
    page.items
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_secret_only_go_up_also_once_it_was_removed() {
    let world = World::new().await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    assert_eq!(put(&world, &org, 1).await.unwrap().version, 1);
    assert_eq!(put(&world, &org, 2).await.unwrap().version, 2);
    let behind = put(&world, &org, 1).await.unwrap_err();
    assert_eq!(behind.code, Code::SecretConflict);
    let newest = get(&world, &org).await.unwrap();
    let wire = newest.envelope.unwrap();
    let envelope = lictor_proto::Envelope::parse(wire.as_bytes(), 1 << 20).unwrap();
    let digest: Digest = envelope.digest();
    assert_eq!((newest.secret.version, newest.secret.digest), (2, digest));
    assert_eq!(list(&world, &org).await, vec![newest.secret]);
    // Not for others: they have a name of their own.
    assert!(get(&world, &other).await.is_none());
    assert!(list(&world, &other).await.is_empty());
    let delete = async |org: &Org| {
        let call = world.call(Some(&org.secret), Method::DELETE, "/api/v1/secrets/db", "");
        call.await.status
    };
    assert_eq!(delete(&other).await, StatusCode::NOT_FOUND);
    assert_eq!(delete(&org).await, StatusCode::NO_CONTENT);
    assert_eq!(delete(&org).await, StatusCode::NOT_FOUND);
    assert!(list(&world, &org).await.is_empty());
    let removed = get(&world, &org).await.unwrap();
    assert_eq!((removed.secret.version, removed.envelope), (2, None));
    assert_eq!(put(&world, &org, 2).await.unwrap_err().code, Code::SecretConflict);
    assert_eq!(put(&world, &org, 3).await.unwrap().version, 3);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_secret_that_the_hub_has_not_is_refused_at_once() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = super::node::Node::enrol(&world, &org, "web-1").await;
    let submit = async |wire: &str| {
        let call = world.call(Some(&org.secret), Method::POST, "/api/v1/jobs", wire);
        call.await
    };
    let secret = put(&world, &org, 1).await.unwrap();
    let with = org.job_with_secret(&node.id, secret.digest);
    assert_eq!(submit(&with).await.status, StatusCode::ACCEPTED);
    let without = org.job_with_secret(&node.id, Digest::of(b"another"));
    let problem: Problem = serde_json::from_slice(&submit(&without).await.body).unwrap();
    assert_eq!(problem.code, Code::SecretMissing);
    world.hub.shutdown().await;
}
