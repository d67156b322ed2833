//! Offers over a link on which things go wrong.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::{Event, LawDocs, LawHeld, OfferReply, Reply, Request};
use lictor_proto::api::ExecutionState;
use lictor_proto::code::Refusal;
use lictor_proto::doc::RevocationKind;
use lictor_proto::{Code, Digest, Envelope, JobId, limits};

use super::link::{heartbeat, view};
use super::node::{Answering, Node, job_digest, one};
use super::world::{DEADLINE, Org, World, until};

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
    let (world, org, node) = one().await;
    let (answering, left) = failing(2, |r| matches!(r, Request::Offer(_)));
    let mut link = node.link_answering(&world, answering).await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    assert_eq!(left.load(Ordering::Relaxed), 0, "it had failed");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_of_a_download_is_told_again_when_it_says_something_else() {
    let (world, org, node) = one().await;
    let words = Arc::new(Mutex::new("it comes"));
    let says = words.clone();
    let _link = node
        .link_answering(
            &world,
            Box::new(move |request| {
                let why = Refusal::new(Code::Downloading, *says.lock().unwrap());
                let later = || Ok(Reply::Offer(OfferReply::Later(why)));
                matches!(request, Request::Offer(_)).then(later)
            }),
        )
        .await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    let id = JobId::from_digest(&job_digest(&job));
    for now in ["it comes", "it waits for its turn", "it comes"] {
        *words.lock().unwrap() = now;
        let is_told = async || view(&world, &org, &id).await.executions[0].message == now;
        until(now, is_told).await;
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_failed_is_told_again_and_holds_up_no_other_job() {
    let (world, org, node) = one().await;
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

/// Says of the first `times` requests of a kind that the node's journal could not be written.
fn unwritten(times: usize, kind: fn(&Request) -> bool) -> Answering {
    let (mut failing, left) = failing(times, kind);
    Box::new(move |request| {
        let before = left.load(Ordering::Relaxed);
        let _ = failing(request)?;
        (before > 0).then(|| Ok(Reply::Refused(Refusal::plain(Code::JournalFailed))))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_the_node_could_not_write_is_told_again_and_the_job_is_not_offered_meanwhile() {
    let is_cancel = |r: &Request| matches!(r, Request::CancelJob(_));
    let (world, org, node) = one().await;
    let cancel = async |job: &str| {
        let id = JobId::from_digest(&job_digest(job));
        let path = format!("/api/v1/jobs/{id}/cancel");
        let signed = org.cancel(job);
        let answer = world.call(Some(&org.secret), Method::POST, &path, &signed).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    };
    // While the node was away.
    let waiting = org.job(&node.id, &["true"]);
    submit(&world, &org, &waiting).await;
    cancel(&waiting).await;
    let mut link = node.link_answering(&world, unwritten(2, is_cancel)).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    let told = tokio::time::timeout(DEADLINE, link.cancels.recv()).await.unwrap();
    assert_eq!(told.map(|c| c.job), Some(waiting));
    assert!(link.offers.try_recv().is_err(), "it was not offered");
    // And while it is there.
    drop(link);
    let mut link = node.link_answering(&world, unwritten(2, is_cancel)).await;
    let there = org.job(&node.id, &["true"]);
    submit(&world, &org, &there).await;
    assert_eq!(link.offer().await, there);
    cancel(&there).await;
    let told = tokio::time::timeout(DEADLINE, link.cancels.recv()).await.unwrap();
    assert_eq!(told.map(|c| c.job), Some(there));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_offered_although_the_store_could_not_be_read_at_first() {
    let (world, org, node) = one().await;
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

fn held(bundle: u64) -> LawHeld {
    LawHeld {
        root: 1,
        bundle,
        bundle_digest: None,
        freshness: None,
        revocations: 0,
        deny_all: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_signer_the_node_does_not_know_yet_is_offered_again_with_the_law() {
    let (world, org, node) = one().await;
    let mut knows = false;
    let answering: Answering = Box::new(move |request| match request {
        Request::Law(law) => {
            knows |= law.bundle.is_some();
            Some(Ok(Reply::Law(held(1))))
        }
        Request::Offer(_) if !knows => {
            Some(Ok(Reply::Offer(OfferReply::Refused(Code::SignerUnknown.into()))))
        }
        _ => None,
    });
    let mut link = node.link_answering(&world, answering).await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_goes_ahead_once_and_again_only_when_the_node_lacks_it() {
    let (world, org, node) = one().await;
    let input = b"input";
    let hex = Digest::of(input).to_string().replace("sha256:", "");
    let path = format!("/api/v1/blobs/{hex}");
    let answer = world.call(Some(&org.secret), Method::PUT, &path, "input").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let asked: Arc<std::sync::Mutex<Vec<&str>>> = Arc::default();
    let log = asked.clone();
    let mut replies = vec![Code::StdinMissing, Code::TooManyJobs, Code::TooManyJobs].into_iter();
    let answering: Answering = Box::new(move |request| {
        match request {
            Request::Stdin(_) => log.lock().unwrap().push("input"),
            Request::Offer(_) => {
                log.lock().unwrap().push("offer");
                let later = replies.next()?;
                return Some(Ok(Reply::Offer(OfferReply::Later(Refusal::plain(later)))));
            }
            _ => {}
        }
        None
    });
    let mut link = node.link_answering(&world, answering).await;
    let job = org.job_reading(&node.id, &["cat"], input);
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, ["input", "offer", "input", "offer", "offer", "offer"]);
    let audit = world.audit(&org).await;
    let told = audit.iter().filter(|a| *a == "job_handed_back");
    assert_eq!(told.count(), 1, "the same reason is told once");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_small_inputs_and_with_none_wait_for_no_large_ones() {
    let (world, org, node) = one().await;
    let large = "x".repeat(2 << 20);
    for input in [large.as_str(), "little"] {
        let hex = Digest::of(input.as_bytes()).to_string().replace("sha256:", "");
        let path = format!("/api/v1/blobs/{hex}");
        let answer = world.call(Some(&org.secret), Method::PUT, &path, input).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
    // What is large is wanted, and then not read.
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let answering: Answering = Box::new(move |request| {
        let Request::Offer(offer) = request else {
            return None;
        };
        let envelope = Envelope::parse(offer.job.as_bytes(), limits::JOB_ENVELOPE).unwrap();
        let job: serde_json::Value = serde_json::from_slice(&envelope.payload).unwrap();
        let size = job["stdin"]["size"].as_u64().unwrap_or_default();
        (size > 1 << 20).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Reply::Offer(OfferReply::Later(Refusal::plain(
                Code::StdinMissing,
            ))))
        })
    });
    let mut link = node.link_answering(&world, answering).await;
    for _ in 0..70 {
        let job = org.job_reading(&node.id, &["cat"], large.as_bytes());
        submit(&world, &org, &job).await;
    }
    until("as many are on their way as may be", async || {
        begun.load(Ordering::Relaxed) >= 16
    })
    .await;
    for job in [
        org.job_reading(&node.id, &["cat"], b"little"),
        org.job(&node.id, &["true"]),
    ] {
        submit(&world, &org, &job).await;
        assert_eq!(link.offer().await, job);
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_comes_before_the_ask_is_stored_is_offered_all_the_same() {
    let (world, org, node) = one().await;
    let job = org.job(&node.id, &["true"]);
    let ask = node.ask(&job);
    submit(&world, &org, &job).await;
    // No execution waits for approval when it comes: the job has not been offered.
    let approval = org.approval(&job);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/approvals", &approval)
        .await;
    assert!(answer.status.is_success(), "{answer:?}");
    // As the offer that the submission began: it knows of no approval.
    let answering: Answering = Box::new(move |request| match request {
        Request::Offer(offer) if offer.approvals.is_empty() => {
            Some(Ok(Reply::Offer(OfferReply::Ask(ask.clone()))))
        }
        _ => None,
    });
    let mut link = node.link_answering(&world, answering).await;
    let app = world.hub.app();
    let key = lictor_hub::store::ExecutionKey {
        org: org.id.clone(),
        job_id: JobId::from_digest(&job_digest(&job)),
        node_id: node.id.clone(),
    };
    let (row, _) = app.store.job(&org.id, &key.job_id).await.unwrap().unwrap();
    let live = app.live.enter(&key);
    let (row, nothing) = (Arc::new(row), lictor_hub::link::Signed::default());
    let offered = lictor_hub::link::Offered::stored(&row, &Arc::default(), nothing, live);
    app.links.get(&org.id, &node.id).unwrap().offer(offered);
    assert_eq!(link.offer().await, job, "with the approval");
    until("the job is leased", async || {
        view(&world, &org, &key.job_id).await.executions[0].state == ExecutionState::Leased
    })
    .await;
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_loses_its_link_at_once() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    let _links = (node.link(&world).await, other.link(&world).await);
    let docs = LawDocs {
        revocations: vec![org.revocation(RevocationKind::Node, node.id.as_str())],
        ..LawDocs::default()
    };
    let body = serde_json::to_string(&docs).unwrap();
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/trust", &body)
        .await;
    assert!(answer.status.is_success(), "{answer:?}");
    let links = &world.hub.app().links;
    until("the link ends", async || links.get(&org.id, &node.id).is_none()).await;
    assert!(links.get(&org.id, &other.id).is_some(), "the other's stays");
    world.hub.shutdown().await;
}
