//! What the hub refuses because it would be too much, and what it forgets.

use std::time::Duration;

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::Problem;
use lictor_proto::{Code, Digest, Timestamp};

use super::node::Node;
use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_more_as_busy_and_says_when_to_come_again() {
    let world = World::with(|c| c.max_queued_per_node = 2).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let job = org.job(&node.id, &["true"]);
        let answer = world
            .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &job)
            .await;
        statuses.push(answer.status);
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem.code, Code::Busy);
        }
    }
    let taken = StatusCode::ACCEPTED;
    assert_eq!(statuses, [taken, taken, StatusCode::SERVICE_UNAVAILABLE]);
    assert!(world.audit(&org).await.iter().any(|a| a == "request_refused"));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_stored_under_its_own_digest_only_and_forgotten_in_time() {
    let world = World::new().await;
    let org = world.org("one").await;
    // More than one part.
    let body = "0123456789abcdef".repeat(400_000);
    let hex = |d: Digest| d.to_string().replace("sha256:", "");
    let right = format!("/api/v1/blobs/{}", hex(Digest::of(body.as_bytes())));
    let wrong = format!("/api/v1/blobs/{}", hex(Digest::of(b"other")));
    let put = async |path: &str| {
        let answer = world.call(Some(&org.secret), Method::PUT, path, &body).await;
        answer.status
    };
    assert_eq!(put(&wrong).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(files(world.dir.path()), 0, "nothing of it is left");
    assert_eq!(put(&right).await, StatusCode::CREATED);
    assert_eq!(put(&right).await, StatusCode::OK);
    assert_eq!(files(world.dir.path()), 1);
    let app = world.hub.app();
    assert_eq!(app.sweep(Timestamp::now()).await.unwrap(), 0);
    let later = Timestamp::now().plus(Duration::from_secs(49 * 3600));
    assert_eq!(app.sweep(later).await.unwrap(), 1);
    assert_eq!(files(world.dir.path()), 0);
    assert!(world.audit(&org).await.iter().any(|a| a == "retention_applied"));
    assert_eq!(put(&right).await, StatusCode::CREATED);
    world.hub.shutdown().await;
}

/// Files of standard input, staged ones included.
fn files(dir: &std::path::Path) -> usize {
    let Ok(orgs) = std::fs::read_dir(dir.join("objects/stdin")) else {
        return 0;
    };
    orgs.map(|org| std::fs::read_dir(org.unwrap().path()).unwrap().count())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_are_forgotten_when_their_time_is_over_and_open_ones_never() {
    let world = World::with(|c| c.keep_jobs_days = 1).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let mut link = node.link(&world).await;
    let ended = org.job(&node.id, &["true"]);
    let done = node.finished(&ended, b"", 1, 0);
    link.say(lictor_proto::agent::Event::Finished(Box::new(done)));
    link.ack_of_result().await;
    let open = org.job(&node.id, &["false"]);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &open)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let later = Timestamp::now().plus(Duration::from_secs(2 * 86_400));
    assert_eq!(world.hub.app().sweep(later).await.unwrap(), 1);
    for (job, status) in [(&ended, StatusCode::NOT_FOUND), (&open, StatusCode::OK)] {
        let id = lictor_proto::JobId::from_digest(&super::node::job_digest(job));
        let answer = world
            .call(Some(&org.secret), Method::GET, &format!("/api/v1/jobs/{id}"), "")
            .await;
        assert_eq!(answer.status, status);
    }
    world.hub.shutdown().await;
}
