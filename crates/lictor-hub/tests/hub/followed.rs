//! What the store tells a follower about one execution.

use lictor_hub::store::{ExecutionKey, Step};
use lictor_proto::agent::Event;
use lictor_proto::api::ExecutionState;
use lictor_proto::{Code, JobId, NodeId, Timestamp};

use super::node::{Node, frame, job_digest};
use super::offers::submit;
use super::world::{World, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_state_newest_ask_receipt_and_length_of_its_own_execution() {
    let world = World::new().await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    let key = ExecutionKey {
        org: org.id.clone(),
        job_id: JobId::from_digest(&job_digest(&job)),
        node_id: node.id.clone(),
    };
    let store = &world.hub.app().store;
    let followed = async || store.followed(&key).await.unwrap().expect("it is known");
    let queued = followed().await;
    assert_eq!(queued.execution.state, ExecutionState::Queued);
    assert_eq!(queued.execution.node_name.as_str(), "web-1");
    assert_eq!(queued.execution.log_bytes, 0);
    assert_eq!((queued.ask, queued.receipt), (None, None));

    let asks = [node.ask(&job), node.ask(&job)];
    for ask in &asks {
        let step = Step::Asked {
            release: false,
            digest: job_digest(ask),
            ask: ask.clone(),
        };
        assert!(store.advance(&key, step).await.unwrap());
        let stored_by = Timestamp::now();
        until("time goes on", async || Timestamp::now() > stored_by).await;
    }
    let asked = followed().await;
    assert_eq!(asked.execution.state, ExecutionState::AwaitingApproval);
    assert_eq!(
        asked.execution.refusal.map(|r| r.code),
        Some(Code::ApprovalNeeded)
    );
    assert_eq!(asked.ask.as_ref(), asks.last(), "the newest counts");

    let mut link = node.link(&world).await;
    link.print(job_digest(&job), b"hello\n");
    let finished = node.finished(&job, b"hello\n", 1, 0);
    link.say(Event::Finished(Box::new(finished.clone())));
    link.ack_of_result().await;
    let ended = followed().await;
    assert_eq!(ended.execution.state, ExecutionState::Succeeded);
    assert_eq!(ended.execution.log_bytes, frame(b"hello\n").len() as u64);
    assert_eq!(ended.receipt, Some(finished.receipt));

    let elsewhere = [
        ExecutionKey {
            org: other.id.clone(),
            ..key.clone()
        },
        ExecutionKey {
            node_id: NodeId::derive(&org.id, &[7; 32]),
            ..key.clone()
        },
        ExecutionKey {
            job_id: JobId::from_digest(&job_digest(&asks[0])),
            ..key.clone()
        },
    ];
    for key in elsewhere {
        assert!(store.followed(&key).await.unwrap().is_none(), "{key:?}");
    }
    world.hub.shutdown().await;
}
