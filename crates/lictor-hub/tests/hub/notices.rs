//! The outbox of notifications: its bounds, and what becomes of what nobody takes.

use std::time::Duration;

use lictor_hub::store::{Busy, ExecutionKey, JobDocument, Notice, Step, Tested};
use lictor_link::hyper::Method;
use lictor_proto::api::NoticeKind;
use lictor_proto::{Digest, JobId, Timestamp};

use super::node::{Node, job_digest};
use super::offers::submit;
use super::world::{Org, World, until};

fn notice(n: usize) -> Notice {
    Notice {
        kind: NoticeKind::Law,
        event: "law.expiring",
        key: format!("test {n}"),
        says: vec![("what", "bundle 1".to_owned())],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_nobody_takes_for_a_day_is_given_up_and_one_too_many_is_dropped_and_both_are_said()
 {
    let world = World::with(|c| c.notify.allow_private = true).await;
    let org = world.org("one").await;
    // Nobody listens there.
    let new = r#"{"way":"webhook","address":"http://127.0.0.1:9/","on":["law"]}"#;
    let made = world
        .call(Some(&org.secret), Method::POST, "/api/v1/notify", new)
        .await;
    assert!(made.status.is_success(), "{made:?}");
    let store = &world.hub.app().store;
    store.notify(&org.id, notice(0)).await.unwrap();
    store.notify(&org.id, notice(0)).await.unwrap();
    let unwanted = Notice {
        kind: NoticeKind::Node,
        ..notice(0)
    };
    let wanted = store.notify(&org.id, unwanted).await.unwrap();
    assert!(!wanted, "nobody wants to know of nodes");
    let waiting = async || store.notify_targets(&org.id).await.unwrap().remove(0).waiting;
    assert_eq!(waiting().await, 1, "the same is told once");
    until("it was tried", async || {
        store.notify_targets(&org.id).await.unwrap()[0]
            .last_error
            .is_some()
    })
    .await;
    let later = Timestamp::now().plus(Duration::from_secs(3600));
    let due = store.due_notices(later, Busy::default()).await.unwrap().remove(0);
    for busy in [
        Busy {
            targets: vec![due.target.target_id.clone()],
            orgs: Vec::new(),
        },
        Busy {
            targets: Vec::new(),
            orgs: vec![org.id.clone()],
        },
    ] {
        assert!(store.due_notices(later, busy).await.unwrap().is_empty());
    }
    assert!(store.is_waiting(&due.id).await.unwrap());
    let old = Timestamp::from_millis(0);
    store
        .notice_failed(&due, "no".to_owned(), later, old)
        .await
        .unwrap();
    assert_eq!(waiting().await, 1, "a day has not passed");
    for n in 1..=1000 {
        store.notify(&org.id, notice(n)).await.unwrap();
    }
    assert_eq!(waiting().await, 1000);
    let count = async |kind: &str| world.audit(&org).await.iter().filter(|a| *a == kind).count();
    assert_eq!(count("notification_dropped").await, 1);
    store
        .notice_failed(&due, "no".to_owned(), later, later)
        .await
        .unwrap();
    assert_eq!(waiting().await, 0);
    world.hub.shutdown().await;
}

/// Takes connections and never says a word.
struct Mute(std::net::TcpListener);

impl Mute {
    fn new() -> Self {
        // Whoever connects is taken by the kernel, up to its backlog.
        Self(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn target(&self) -> String {
        let at = self.0.local_addr().unwrap();
        format!(r#"{{"way":"webhook","address":"http://{at}/","on":["law"]}}"#)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_targets_delay_no_others_and_what_is_new_does_not_have_them_tried_again() {
    let world = World::with(|c| c.notify.allow_private = true).await;
    let (one, two) = (world.org("one").await, world.org("two").await);
    let mute = Mute::new();
    let add = async |org: &Org, new: &str| {
        let made = world
            .call(Some(&org.secret), Method::POST, "/api/v1/notify", new)
            .await;
        assert!(made.status.is_success(), "{made:?}");
    };
    for _ in 0..40 {
        add(&one, &mute.target()).await;
    }
    // Nobody listens there: it fails at once, which is an answer.
    let refused = r#"{"way":"webhook","address":"http://127.0.0.1:9/","on":["law"]}"#;
    add(&two, refused).await;
    let store = &world.hub.app().store;
    store.notify(&one.id, notice(0)).await.unwrap();
    store.notify(&two.id, notice(0)).await.unwrap();
    let tried = async |org: &Org| {
        let targets = store.notify_targets(&org.id).await.unwrap();
        targets.iter().filter(|t| t.last_error.is_some()).count()
    };
    until("the other org's is tried", async || tried(&two).await == 1).await;
    assert_eq!(
        tried(&one).await,
        0,
        "while all of the first one's are waited for"
    );

    // After a failure its time has not come, whatever is new.
    let soon = Timestamp::now().plus(Duration::from_secs(1));
    store.notify(&two.id, notice(1)).await.unwrap();
    let due = store.due_notices(soon, Busy::default()).await.unwrap();
    assert!(due.iter().all(|d| d.target.org == one.id), "{due:?}");
    assert!(due.len() <= 16, "of one org: {}", due.len());
    let later = Timestamp::now().plus(Duration::from_secs(7));
    let all = Busy {
        targets: Vec::new(),
        orgs: vec![one.id.clone()],
    };
    let due = store.due_notices(later, all).await.unwrap();
    assert_eq!(due.len(), 1);
    let body: serde_json::Value = serde_json::from_str(&due[0].body).unwrap();
    let waiting = store.notify_targets(&two.id).await.unwrap()[0].waiting;
    assert_eq!((&body["type"], waiting), (&"law.expiring".into(), 2));
    assert_eq!(due[0].tries, 1, "the older one, again");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_test_goes_to_a_target_in_a_while_and_no_second_one_waits() {
    let world = World::with(|c| c.notify.allow_private = true).await;
    let org = world.org("one").await;
    let mute = Mute::new();
    let made = world
        .call(Some(&org.secret), Method::POST, "/api/v1/notify", &mute.target())
        .await;
    let target: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let path = format!("/api/v1/notify/{}/test", target["target_id"].as_str().unwrap());
    let ask = async || world.call(Some(&org.secret), Method::POST, &path, "").await;
    assert_eq!(ask().await.status.as_u16(), 202);
    let again = ask().await;
    assert_eq!(again.status.as_u16(), 429, "{again:?}");
    assert!(again.retry_after.is_some(), "{again:?}");
    let store = &world.hub.app().store;
    let id = target["target_id"].as_str().unwrap();
    let test = Notice {
        event: "test",
        ..notice(0)
    };
    // Once it may be sent again, the one that waits is enough.
    let tested = store.test_notify_target(&org.id, id, test.clone(), Duration::ZERO);
    assert_eq!(tested.await.unwrap(), Tested::Sent);
    assert_eq!(store.notify_targets(&org.id).await.unwrap()[0].waiting, 1);
    let unknown = store.test_notify_target(&org.id, "other", test, Duration::ZERO);
    assert_eq!(unknown.await.unwrap(), Tested::Unknown);
    let events = world.audit(&org).await;
    assert_eq!(events.iter().filter(|a| *a == "notify_tested").count(), 2);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_approve_is_told_once_of_many_nodes_and_again_when_more_is_wanted_after_an_approval() {
    let world = World::with(|c| c.notify.allow_private = true).await;
    let org = world.org("one").await;
    let mute = Mute::new();
    let new = mute.target().replace("law", "approval");
    let made = world
        .call(Some(&org.secret), Method::POST, "/api/v1/notify", &new)
        .await;
    assert!(made.status.is_success(), "{made:?}");
    let mut nodes = Vec::new();
    for n in 0..4 {
        nodes.push(Node::enrol(&world, &org, &format!("web-{n}")).await);
    }
    let mut ids: Vec<_> = nodes.iter().map(|n| n.id.clone()).collect();
    let job = org.job_on(&mut ids, &["true"]);
    submit(&world, &org, &job).await;
    let id = JobId::from_digest(&job_digest(&job));
    let store = &world.hub.app().store;
    let asks = async |node: &Node, release| {
        let key = ExecutionKey {
            org: org.id.clone(),
            job_id: id.clone(),
            node_id: node.id.clone(),
        };
        let ask = node.ask(&job);
        let digest = Digest::of(ask.as_bytes());
        let step = Step::Asked { release, digest, ask };
        assert!(store.advance(&key, step).await.unwrap());
        store.notify_targets(&org.id).await.unwrap()[0].waiting
    };
    assert_eq!(
        (asks(&nodes[0], false).await, asks(&nodes[1], false).await),
        (1, 1)
    );
    let path = format!("/api/v1/jobs/{id}/approvals");
    let approved = world
        .call(Some(&org.secret), Method::POST, &path, &org.approval(&job))
        .await;
    assert!(approved.status.is_success(), "{approved:?}");
    // The next batch: an approval there is does not lift what it asks for.
    assert_eq!(
        (asks(&nodes[2], false).await, asks(&nodes[3], false).await),
        (2, 2)
    );
    assert_eq!(
        asks(&nodes[3], true).await,
        3,
        "a release is another thing to want"
    );
    let documents = store.documents(&org.id, &id).await.unwrap();
    let kept = documents.iter().filter(|d| d.kind == JobDocument::Ask).count();
    assert_eq!(kept, 4, "one ask of each node");
    world.hub.shutdown().await;
}
