//! Rollouts over scripted nodes: many of them, and plans that are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lictor_hub::app::Caller;
use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::{Event, OfferReply, Reply, Request};
use lictor_proto::api::{
    ExecutionState, JobView, NewRollout, Problem, RolloutPlan, RolloutState, RolloutView, TokenScope,
};
use lictor_proto::doc::ApprovalFacts;
use lictor_proto::{Code, Digest, JobId, NodeId};
use tokio::task::JoinSet;

use super::node::{Node, job_digest};
use super::world::{Org, World, until};

/// The nodes of the goal.
const MANY: usize = 200;

/// What is handed in: one failure stops it.
pub(crate) fn new(job: &str, batches: Vec<Vec<NodeId>>, change: impl FnOnce(&mut RolloutPlan)) -> String {
    let mut plan = RolloutPlan {
        batches,
        concurrency: None,
        pause_ms: 0,
        max_failures: 1,
    };
    change(&mut plan);
    let job = job.to_owned();
    serde_json::to_string(&NewRollout { job, plan }).unwrap()
}

async fn view(world: &World, org: &Org, id: &JobId) -> RolloutView {
    let path = format!("/api/v1/rollouts/{id}");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_nodes_run_in_batches_and_never_more_at_once_than_may() {
    let world = World::new().await;
    let org = world.org("many").await;
    let mut nodes = Vec::new();
    for n in 0..MANY {
        nodes.push(Node::enrol(&world, &org, &format!("web-{n}")).await);
    }
    let mut ids: Vec<NodeId> = nodes.iter().map(|n| n.id.clone()).collect();
    let job = org.job_on(&mut ids, &["true"]);
    let (at_it, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Each node's work is over when it is told so: before that, the rollout must not go on.
    let over = Arc::new(tokio::sync::Semaphore::new(11));
    let mut running = JoinSet::new();
    for node in nodes {
        let mut link = node.link(&world).await;
        let (at_it, most, job, over) = (at_it.clone(), most.clone(), job.clone(), over.clone());
        running.spawn(async move {
            let offered = link.offers.recv().await.unwrap();
            assert_eq!(offered, job);
            most.fetch_max(at_it.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let finished = node.finished(&job, b"", 1, 0);
            over.acquire().await.unwrap().forget();
            at_it.fetch_sub(1, Ordering::SeqCst);
            link.say(Event::Finished(Box::new(finished)));
            link.ack_of_result().await;
        });
    }
    let batches = vec![ids[..1].to_vec(), ids[1..11].to_vec(), ids[11..].to_vec()];
    let body = new(&job, batches, |plan| plan.concurrency = Some(25));
    let began = Instant::now();
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/rollouts", &body)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let id = JobId::from_digest(&job_digest(&job));
    until("as many are at it as may be", async || {
        at_it.load(Ordering::SeqCst) == 25
    })
    .await;
    let held = super::link::view(&world, &org, &id).await;
    let held = held.executions.iter().filter(|e| e.state == ExecutionState::Held);
    assert_eq!(held.count(), MANY - 11 - 25, "nobody else has been let begin");
    over.add_permits(MANY);
    while let Some(node) = running.join_next().await {
        node.unwrap();
    }
    until("the rollout ends", async || {
        view(&world, &org, &id).await.state == RolloutState::Ended
    })
    .await;
    let took = began.elapsed();
    println!("{MANY} nodes in batches of 1, 10 and the rest, 25 at once: {took:?}");
    assert!(most.load(Ordering::SeqCst) <= 25, "{most:?} at once");
    assert_eq!(view(&world, &org, &id).await.failed, 0);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_leaves_out_doubles_or_adds_a_node_is_refused_and_nothing_is_stored() {
    let world = World::new().await;
    let org = world.org("one").await;
    let (one, two) = (
        Node::enrol(&world, &org, "web-1").await,
        Node::enrol(&world, &org, "web-2").await,
    );
    let mut ids = vec![one.id.clone(), two.id.clone()];
    let job = org.job_on(&mut ids, &["true"]);
    type Spoil = fn(&mut RolloutPlan);
    let plans: Vec<(Vec<Vec<NodeId>>, Spoil)> = vec![
        (vec![vec![ids[0].clone()]], |_| {}),
        (vec![ids.clone(), vec![ids[0].clone()]], |_| {}),
        (vec![ids.clone(), Vec::new()], |_| {}),
        (vec![ids.clone()], |p| p.concurrency = Some(0)),
        (vec![ids.clone()], |p| p.max_failures = 0),
        (vec![ids.clone()], |p| p.pause_ms = u64::MAX >> 11),
    ];
    for (batches, change) in plans {
        let body = new(&job, batches, change);
        let answer = world
            .call(Some(&org.secret), Method::POST, "/api/v1/rollouts", &body)
            .await;
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem.code, Code::BadRequest, "{body}");
    }
    let id = JobId::from_digest(&job_digest(&job));
    let path = format!("/api/v1/jobs/{id}");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let body = new(&job, vec![ids], |_| {});
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/rollouts", &body)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    world.hub.shutdown().await;
}

/// A rollout of `true` in these batches that the hub has taken: the job, signed.
async fn handed_in(world: &World, org: &Org, batches: Vec<Vec<NodeId>>) -> String {
    let mut ids = batches.concat();
    let job = org.job_on(&mut ids, &["true"]);
    let body = new(&job, batches, |_| {});
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/rollouts", &body)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    job
}

/// Where the job's executions stand.
async fn states(world: &World, org: &Org, id: &JobId) -> BTreeMap<NodeId, ExecutionState> {
    let path = format!("/api/v1/jobs/{id}");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    let job: JobView = serde_json::from_slice(&answer.body).unwrap();
    let executions = job.executions.into_iter();
    executions.map(|e| (e.node_id, e.state)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_had_no_room_when_its_rollout_stopped_is_offered_the_job_when_it_goes_on() {
    let world = World::new().await;
    let org = world.org("stop").await;
    let full = Node::enrol(&world, &org, "web-1").await;
    let bad = Node::enrol(&world, &org, "web-2").await;
    let last = Node::enrol(&world, &org, "web-3").await;
    let has_room = Arc::new(AtomicBool::new(false));
    let (room, said) = (has_room.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = said.clone();
    let answering = move |request: &Request| {
        let is_offer = matches!(request, Request::Offer(_));
        (is_offer && !room.load(Ordering::SeqCst)).then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Reply::Offer(OfferReply::Later(Code::TooManyJobs.into())))
        })
    };
    let mut full_link = full.link_answering(&world, Box::new(answering)).await;
    let mut bad_link = bad.link(&world).await;
    let batches = vec![vec![full.id.clone(), bad.id.clone()], vec![last.id.clone()]];
    let job = handed_in(&world, &org, batches).await;
    let id = JobId::from_digest(&job_digest(&job));
    assert_eq!(bad_link.offer().await, job);
    until("one says later", async || said.load(Ordering::SeqCst) > 0).await;
    bad_link.say(Event::Finished(Box::new(bad.finished(&job, b"", 1, 1))));
    bad_link.ack_of_result().await;
    until("the rollout stops", async || {
        view(&world, &org, &id).await.state == RolloutState::Stopped
    })
    .await;
    assert_eq!(states(&world, &org, &id).await[&full.id], ExecutionState::Held);

    has_room.store(true, Ordering::SeqCst);
    let later = tokio::time::timeout(Duration::from_secs(3), full_link.offers.recv()).await;
    assert!(later.is_err(), "it was offered after the stop");
    let path = format!("/api/v1/rollouts/{id}/continue");
    let answer = world.call(Some(&org.secret), Method::POST, &path, "").await;
    assert!(answer.status.is_success(), "{answer:?}");
    assert_eq!(full_link.offer().await, job);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_after_its_store_could_not_be_read() {
    let world = World::new().await;
    let org = world.org("store").await;
    let (one, two) = (
        Node::enrol(&world, &org, "web-1").await,
        Node::enrol(&world, &org, "web-2").await,
    );
    let (mut first, mut second) = (one.link(&world).await, two.link(&world).await);
    let job = handed_in(&world, &org, vec![vec![one.id.clone()], vec![two.id.clone()]]).await;
    assert_eq!(first.offer().await, job);
    world.sql("ALTER TABLE rollouts RENAME TO elsewhere").await;
    first.say(Event::Finished(Box::new(one.finished(&job, b"", 1, 0))));
    first.ack_of_result().await;
    // Longer than a rollout goes unlooked at.
    let early = tokio::time::timeout(Duration::from_secs(3), second.offers.recv()).await;
    assert!(early.is_err(), "nobody can have known that it may begin");
    world.sql("ALTER TABLE elsewhere RENAME TO rollouts").await;
    assert_eq!(second.offer().await, job);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_begins_also_when_who_handed_it_in_went_away() {
    let world = World::new().await;
    let org = world.org("gone").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let _link = node.link(&world).await;
    let caller = Caller {
        org: org.id.clone(),
        scope: TokenScope::Admin,
        token_id: "t".to_owned(),
    };
    for n in 0..24 {
        let mut ids = vec![node.id.clone()];
        let job = org.job_on(&mut ids, &["true", &n.to_string()]);
        let new: NewRollout = serde_json::from_str(&new(&job, vec![ids], |_| {})).unwrap();
        let patience = Duration::from_micros(250 * n);
        // The answer is dropped at some point on its way.
        drop(tokio::time::timeout(patience, world.hub.app().submit_rollout(&caller, new)).await);
        let id = JobId::from_digest(&job_digest(&job));
        let path = format!("/api/v1/jobs/{id}");
        let stored = world.call(Some(&org.secret), Method::GET, &path, "").await;
        if stored.status == StatusCode::NOT_FOUND {
            continue;
        }
        until("it begins", async || {
            states(&world, &org, &id).await[&node.id] != ExecutionState::Held
        })
        .await;
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_of_a_node_that_the_job_has_not_is_refused() {
    let world = World::new().await;
    let org = world.org("release").await;
    let (one, two) = (
        Node::enrol(&world, &org, "web-1").await,
        Node::enrol(&world, &org, "web-2").await,
    );
    let job = handed_in(&world, &org, vec![vec![one.id.clone()]]).await;
    let id = JobId::from_digest(&job_digest(&job));
    let hand_in = async |kind: &str, paper: String| {
        let path = format!("/api/v1/jobs/{id}/{kind}");
        world.call(Some(&org.secret), Method::POST, &path, &paper).await
    };
    let papers = |node: &NodeId| {
        let facts = ApprovalFacts {
            node_id: node.clone(),
            facts_digest: Digest::of(b"{}"),
        };
        [
            ("releases", org.release(&job, node)),
            ("approvals", org.approval_of(&job, vec![facts])),
            ("cancel", org.cancel_on(&job, vec![node.clone()])),
        ]
    };
    for (kind, paper) in papers(&two.id) {
        let answer = hand_in(kind, paper).await;
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem.code, Code::WrongNode, "{kind}");
    }
    for (kind, paper) in papers(&one.id) {
        let answer = hand_in(kind, paper).await;
        assert!(answer.status.is_success(), "{kind}: {answer:?}");
    }
    world.hub.shutdown().await;
}
