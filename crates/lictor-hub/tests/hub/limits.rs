//! What the hub refuses because it would be too much, and what it forgets.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lictor_hub::HubConfig;
use lictor_hub::app::{Caller, Error};
use lictor_hub::config::OrgSettings;
use lictor_hub::store::{JobDocument, Paper, Stored};
use lictor_link::http::Answer;
use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::{CreatedToken, ExecutionState, Problem, TokenScope};
use lictor_proto::{Code, Digest, JobId, Timestamp};

use super::link::view;
use super::node::{Node, job_digest};
use super::offers::submit;
use super::world::{Org, World, name, until};

/// Submits a job and gives the answer with the problem in it, if it is one.
async fn try_to_submit(world: &World, org: &Org, node: &Node) -> (Answer, Option<Problem>) {
    let job = org.job(&node.id, &["true"]);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &job)
        .await;
    let problem = serde_json::from_slice(&answer.body).ok();
    (answer, problem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_more_and_says_when_to_come_again() {
    let world = World::with(|c| c.max_queued_per_node = 2).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    for _ in 0..2 {
        let (answer, _) = try_to_submit(&world, &org, &node).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    let (answer, problem) = try_to_submit(&world, &org, &node).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.retry_after, Some(Duration::from_secs(5)));
    assert_eq!(problem.map(|p| p.code), Some(Code::QueueFull));
    assert!(world.audit(&org).await.iter().any(|a| a == "request_refused"));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_has_the_limits_that_the_configuration_gives_it_and_others_are_as_before() {
    let mut world = World::new().await;
    let (own, other) = (world.org("one").await, world.org("two").await);
    let (mine, theirs) = (
        Node::enrol(&world, &own, "web-1").await,
        Node::enrol(&world, &other, "web-1").await,
    );
    for (org, node) in [(&own, &mine), (&other, &theirs)] {
        let (answer, _) = try_to_submit(&world, org, node).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    let id = own.id.clone();
    world = world
        .restart_with(|c| {
            let settings = OrgSettings {
                max_jobs: Some(1),
                ..OrgSettings::default()
            };
            c.orgs.insert(id, settings);
            c.keep_jobs_days = 1;
        })
        .await;
    // What was stored before the hub came back counts.
    until("the counts are read", async || {
        let (answer, problem) = try_to_submit(&world, &own, &mine).await;
        problem.is_some_and(|p| p.code == Code::JobsFull) && answer.retry_after.is_some()
    })
    .await;
    let (answer, _) = try_to_submit(&world, &other, &theirs).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let id = own.id.clone();
    world = world
        .restart_with(|c| {
            let settings = OrgSettings {
                max_jobs: Some(1),
                ..OrgSettings::default()
            };
            c.orgs.insert(id, settings);
        })
        .await;
    until(
        "where no job is ever forgotten, nobody is told to wait",
        async || {
            let (answer, problem) = try_to_submit(&world, &own, &mine).await;
            problem.is_some_and(|p| p.code == Code::JobsFull) && answer.retry_after.is_none()
        },
    )
    .await;
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_asks_too_often_is_refused_and_others_of_its_org_are_not() {
    let world = World::with(|c| {
        c.requests_per_second = NonZeroU32::new(1).unwrap();
        c.request_burst = NonZeroU32::new(20).unwrap();
    })
    .await;
    let org = world.org("one").await;
    let new = serde_json::json!({ "label": "t", "scope": "read", "expires_at": null }).to_string();
    let made = world
        .call(Some(&org.secret), Method::POST, "/api/v1/tokens", &new)
        .await;
    let made: CreatedToken = serde_json::from_slice(&made.body).unwrap();
    let ask = async || {
        world
            .call(Some(&made.secret), Method::GET, "/api/v1/jobs", "")
            .await
    };
    let mut answer = ask().await;
    assert_eq!(answer.status, StatusCode::OK);
    for _ in 0..60 {
        answer = ask().await;
        if answer.status != StatusCode::OK {
            break;
        }
    }
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.retry_after, Some(Duration::from_secs(1)));
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem.code, Code::RateLimited);
    let answer = world
        .call(Some(&org.secret), Method::GET, "/api/v1/jobs", "")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "another token");
    let more =
        serde_json::json!({ "label": "t", "scope": "read", "expires_at": null, "requests_per_second": 2 });
    let answer = world
        .call(
            Some(&org.secret),
            Method::POST,
            "/api/v1/tokens",
            &more.to_string(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "more than any may");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_an_org_is_at_work_than_may_be_also_after_the_hub_was_away() {
    let limit = |c: &mut HubConfig| c.max_running_per_org = 1;
    let mut world = World::with(limit).await;
    let org = world.org("one").await;
    let (one, two) = (
        Node::enrol(&world, &org, "web-1").await,
        Node::enrol(&world, &org, "web-2").await,
    );
    let mut first = one.link(&world).await;
    let running = org.job(&one.id, &["true"]);
    submit(&world, &org, &running).await;
    assert_eq!(first.offer().await, running);
    until("it is taken", async || {
        state_of(&world, &org, &running).await.0 != ExecutionState::Queued
    })
    .await;
    world = world.restart_with(limit).await;
    let mut first = one.link(&world).await;
    let mut second = two.link(&world).await;
    let held = org.job(&two.id, &["true"]);
    submit(&world, &org, &held).await;
    let why = Some(Code::TooManyRunning);
    until("it says why it waits", async || {
        state_of(&world, &org, &held).await == (ExecutionState::Queued, why)
    })
    .await;
    assert!(second.offers.try_recv().is_err(), "it was offered");
    first.say(lictor_proto::agent::Event::Finished(Box::new(
        one.finished(&running, b"", 1, 0),
    )));
    first.ack_of_result().await;
    assert_eq!(second.offer().await, held);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_and_what_a_node_makes_up_takes_no_place_also_after_the_hub_was_away() {
    let limit = |c: &mut HubConfig| c.max_running_per_org = 1;
    let mut world = World::with(limit).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let mut link = node.link(&world).await;
    let schedule = org.schedule(&node.id, &["true"]);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/schedules", &schedule)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(link.offer().await, schedule);
    until("the schedule is taken", async || {
        state_of(&world, &org, &schedule).await.0 != ExecutionState::Queued
    })
    .await;
    for unknown in [org.job(&node.id, &["true"]), schedule] {
        link.say(lictor_proto::agent::Event::Started {
            job: job_digest(&unknown),
            at: Timestamp::now(),
            firing: None,
        });
    }
    // What the node said before is heard before.
    let ended = node.finished(&org.job(&node.id, &["true"]), b"", 1, 0);
    link.say(lictor_proto::agent::Event::Finished(Box::new(ended)));
    link.ack_of_result().await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    link.say(lictor_proto::agent::Event::Finished(Box::new(
        node.finished(&job, b"", 1, 0),
    )));
    link.ack_of_result().await;
    world = world.restart_with(limit).await;
    let mut link = node.link(&world).await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    while link.offer().await != job {}
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_one_person_signs_about_a_job_the_newest_stay_and_old_ones_move_nothing() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    let id = JobId::from_digest(&job_digest(&job));
    let path = format!("/api/v1/jobs/{id}/remarks");
    let secret = Some(org.secret.as_str());
    let mut all = Vec::new();
    while all.len() < 10 {
        let remark = org.remark(&job);
        // Two of one millisecond are the same.
        if all.last() != Some(&remark) {
            let answer = world.call(secret, Method::POST, &path, &remark).await;
            assert!(answer.status.is_success(), "{answer:?}");
            all.push(remark);
        }
    }
    let kept = async || {
        let path = format!("/api/v1/jobs/{id}/documents");
        let answer = world.call(secret, Method::GET, &path, "").await;
        let documents: lictor_proto::api::JobDocuments = serde_json::from_slice(&answer.body).unwrap();
        documents.remarks
    };
    let newest = kept().await;
    assert_eq!(newest.len(), 8);
    assert!(all[2..].iter().all(|r| newest.contains(r)), "the newest stay");
    let old = world.call(secret, Method::POST, &path, &all[0]).await;
    let problem: Problem = serde_json::from_slice(&old.body).unwrap();
    assert_eq!(problem.code, Code::LimitExceeded);
    assert_eq!(kept().await, newest);
    let audit = world.audit(&org).await;
    let count = |kind: &str| audit.iter().filter(|a| *a == kind).count();
    assert_eq!((count("remark_submitted"), count("remark_rejected")), (10, 1));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_signed_as_many_cancels_as_may_be_can_still_end_the_whole_job() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    let id = JobId::from_digest(&job_digest(&job));
    let on_it = || org.cancel_on(&job, vec![node.id.clone()]);
    let wire = on_it();
    for n in 0..256u64 {
        let paper = Paper {
            kind: JobDocument::Cancel,
            digest: Digest::of(&n.to_be_bytes()),
            wire: wire.clone(),
            signer: name("alice"),
            issued_at: Timestamp::from_millis(n),
        };
        let stored = world.hub.app().store.put_paper(&org.id, &id, paper).await;
        assert_eq!(stored.unwrap(), Stored::New);
    }
    let path = format!("/api/v1/jobs/{id}/cancel");
    let hand_in = async |cancel: String| world.call(Some(&org.secret), Method::POST, &path, &cancel).await;
    let problem: Problem = serde_json::from_slice(&hand_in(on_it()).await.body).unwrap();
    assert_eq!(problem.code, Code::LimitExceeded);
    let all = org.cancel(&job);
    assert_eq!(hand_in(all.clone()).await.status, StatusCode::ACCEPTED);
    let path = format!("/api/v1/jobs/{id}/documents");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    let documents: lictor_proto::api::JobDocuments = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(documents.cancels.len(), 256);
    assert!(documents.cancels.contains(&all));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_under_way_count_into_what_an_org_may_have_stored() {
    let world = World::with(|c| c.max_stored_mib_per_org = 4).await;
    let org = world.org("one").await;
    let caller = || Caller {
        org: org.id.clone(),
        scope: TokenScope::Submit,
        token_id: "t".to_owned(),
    };
    let input = |n: u8| vec![n; 3 << 20];
    let of = |n: u8| Digest::of(&input(n));
    let app = world.hub.app();
    // It has brought all and has not ended.
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = begun.clone();
    let last = futures_util::stream::once(async move {
        told.notify_one();
        let _ = ended.await;
        Ok::<_, Error>(Bytes::new())
    });
    let slow = futures_util::stream::iter([Ok(Bytes::from(input(1)))]).chain(Box::pin(last));
    let mut bringing = tokio::task::JoinSet::new();
    let (first, by, sha256) = (app.clone(), caller(), of(1));
    bringing.spawn(async move { first.put_stdin(&by, &sha256, slow).await });
    begun.notified().await;
    let whole = |n: u8| futures_util::stream::iter([Ok(Bytes::from(input(n)))]);
    let refused = app.put_stdin(&caller(), &of(2), whole(2)).await;
    let Err(Error::Refused(why)) = refused else {
        panic!("it was taken: {refused:?}");
    };
    assert_eq!(why.code, Code::LimitExceeded);
    end.send(()).unwrap();
    bringing.join_next().await.unwrap().unwrap().unwrap();
    let stored = app.store.blob_bytes(&org.id, &Digest::of(b"")).await.unwrap();
    assert_eq!(stored, 3 << 20);
    assert!(
        app.put_stdin(&caller(), &of(2), whole(2)).await.is_err(),
        "now it is stored"
    );
    // Where the first was given up, the second has its room.
    let other = world.org("two").await;
    let caller = || Caller {
        org: other.id.clone(),
        ..caller()
    };
    let broken = [Ok(Bytes::from(input(1))), Err(Error::NotFound)];
    let gave_up = app
        .put_stdin(&caller(), &of(1), futures_util::stream::iter(broken))
        .await;
    assert!(gave_up.is_err());
    app.put_stdin(&caller(), &of(2), whole(2)).await.unwrap();
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_sender_goes_away_at_its_end_has_its_row_all_the_same() {
    let world = World::new().await;
    let org = world.org("one").await;
    let caller = Caller {
        org: org.id.clone(),
        scope: TokenScope::Submit,
        token_id: "t".to_owned(),
    };
    let sha256 = Digest::of(b"input");
    let (ended, mut at_its_end) = tokio::sync::oneshot::channel::<()>();
    let mut ended = Some(ended);
    let end = futures_util::stream::poll_fn(move |_| {
        drop(ended.take());
        std::task::Poll::Ready(None::<Result<Bytes, Error>>)
    });
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"input"))]).chain(end);
    let app = world.hub.app();
    tokio::select! {
        biased;
        _ = &mut at_its_end => {}
        done = app.put_stdin(&caller, &sha256, body) => panic!("nobody went away: {done:?}"),
    }
    until("its row is there", async || {
        app.store.blob(&org.id, &sha256).await.unwrap() == Some(5)
    })
    .await;
    world.hub.shutdown().await;
}

async fn state_of(world: &World, org: &Org, job: &str) -> (ExecutionState, Option<Code>) {
    let view = view(world, org, &JobId::from_digest(&job_digest(job))).await;
    (view.executions[0].state, view.executions[0].code)
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
pub fn files(dir: &std::path::Path) -> usize {
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
