//! The outbox of notifications: its bounds, and what becomes of what nobody takes.

use std::time::Duration;

use lictor_hub::store::Notice;
use lictor_link::hyper::Method;
use lictor_proto::Timestamp;
use lictor_proto::api::NoticeKind;

use super::world::{World, until};

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
    store.notify(&org.id, notice(0), None).await.unwrap();
    store.notify(&org.id, notice(0), None).await.unwrap();
    let unwanted = Notice {
        kind: NoticeKind::Node,
        ..notice(0)
    };
    let wanted = store.notify(&org.id, unwanted, None).await.unwrap();
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
    let due = store.due_notices(later, Vec::new()).await.unwrap().remove(0);
    let busy = vec![due.target.target_id.clone()];
    assert!(store.due_notices(later, busy).await.unwrap().is_empty());
    assert!(store.is_waiting(&due.id).await.unwrap());
    let old = Timestamp::from_millis(0);
    store
        .notice_failed(&due, "no".to_owned(), later, old)
        .await
        .unwrap();
    assert_eq!(waiting().await, 1, "a day has not passed");
    for n in 1..=1000 {
        store.notify(&org.id, notice(n), None).await.unwrap();
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
