//! Offers over a link on which things go wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::JobId;
use lictor_proto::agent::{Event, Request};

use super::link::heartbeat;
use super::node::{Answering, Node, job_digest};
use super::world::{DEADLINE, Org, World};

/// Fails the first `times` requests of a kind; the link lives.
pub fn failing(times: usize, kind: fn(&Request) -> bool) -> (Answering, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(times));
    let counter = left.clone();
    let answering: Answering = Box::new(move |request| {
        let fails = kind(request)
            && counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok();
        fails.then_some(Err(StatusCode::INTERNAL_SERVER_ERROR))
    });
    (answering, left)
}

pub async fn submit(world: &World, org: &Org, job: &str) {
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", job)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_failed_on_a_living_link_is_made_again() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let (answering, left) = failing(2, |r| matches!(r, Request::Offer(_)));
    let mut link = node.link_answering(&world, answering).await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    assert_eq!(left.load(Ordering::Relaxed), 0, "it had failed");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_failed_is_told_again_and_holds_up_no_other_job() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let (canceled, other) = (org.job(&node.id, &["true"]), org.job(&node.id, &["true"]));
    submit(&world, &org, &canceled).await;
    submit(&world, &org, &other).await;
    let path = format!(
        "/api/v1/jobs/{}/cancel",
        JobId::from_digest(&job_digest(&canceled))
    );
    let cancel = org.cancel(&canceled);
    let answer = world.call(Some(&org.secret), Method::POST, &path, &cancel).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let (answering, _) = failing(1, |r| matches!(r, Request::CancelJob(_)));
    let mut link = node.link_answering(&world, answering).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    assert_eq!(link.offer().await, other);
    let told = tokio::time::timeout(DEADLINE, link.cancels.recv()).await.unwrap();
    assert_eq!(told.map(|c| c.job), Some(canceled), "and it is never offered");
    assert!(link.offers.try_recv().is_err());
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_offered_although_the_store_could_not_be_read_at_first() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    world.sql("ALTER TABLE documents RENAME TO elsewhere").await;
    let mut link = node.link(&world).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), link.offers.recv()).await;
    assert!(early.is_err(), "the store cannot be read");
    world.sql("ALTER TABLE elsewhere RENAME TO documents").await;
    assert_eq!(link.offer().await, job);
    world.hub.shutdown().await;
}
