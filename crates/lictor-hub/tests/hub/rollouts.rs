//! Rollouts over scripted nodes: many of them, and plans that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::Event;
use lictor_proto::api::{NewRollout, Problem, RolloutPlan, RolloutState, RolloutView};
use lictor_proto::{Code, JobId, NodeId};
use tokio::task::JoinSet;

use super::node::{Node, job_digest};
use super::world::{Org, World, until};

/// The nodes of the goal.
const MANY: usize = 200;

fn new(job: &str, batches: Vec<Vec<NodeId>>, change: impl FnOnce(&mut RolloutPlan)) -> String {
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
    let mut running = JoinSet::new();
    for node in nodes {
        let mut link = node.link(&world).await;
        let (at_it, most, job) = (at_it.clone(), most.clone(), job.clone());
        running.spawn(async move {
            let offered = link.offers.recv().await.unwrap();
            assert_eq!(offered, job);
            most.fetch_max(at_it.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let finished = node.finished(&job, b"", 1, 0);
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
    while let Some(node) = running.join_next().await {
        node.unwrap();
    }
    let id = JobId::from_digest(&job_digest(&job));
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
    let plans: Vec<(Vec<Vec<NodeId>>, fn(&mut RolloutPlan))> = vec![
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
