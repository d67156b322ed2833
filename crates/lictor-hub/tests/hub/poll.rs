//! Poll mode: orders that are not lost, logs that are stored to their end.

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::JobId;
use lictor_proto::agent::{LawDocs, OfferReply, Reply, Request};
use lictor_proto::api::{ExecutionState, PollAnswer, PollOrder, PollOrders};
use lictor_proto::doc::RevocationKind;

use super::link::{heartbeat, view};
use super::node::{Node, job_digest, one};
use super::offers::submit;
use super::world::{DEADLINE, Org, until};

pub async fn begin(node: &Node, org: &Org) {
    let beat = serde_json::to_vec(&heartbeat(org, node)).unwrap();
    let answer = node.call(Method::POST, "/api/v1/agent/heartbeat", beat).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
}

/// What the hub wants of the node once there is anything.
pub async fn orders(node: &Node) -> Vec<PollOrder> {
    let path = "/api/v1/agent/jobs/next?wait=10";
    let answer = node.call(Method::GET, path, Vec::new()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    serde_json::from_slice::<PollOrders>(&answer.body).unwrap().orders
}

pub async fn reply(node: &Node, order: u64, reply: Reply) {
    let answer = serde_json::to_vec(&PollAnswer { order, reply }).unwrap();
    let answer = node.call(Method::POST, "/api/v1/agent/answers", answer).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_comes_again_under_its_number_until_it_is_answered() {
    let (world, org, node) = one().await;
    let job = org.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    begin(&node, &org).await;
    submit(&world, &org, &job).await;
    // As if the connection had broken under each of these answers.
    let first = orders(&node).await;
    assert!(matches!(&first[0].request, Request::Offer(offer) if offer.job == job));
    assert_eq!(orders(&node).await[0], first[0]);
    reply(&node, first[0].order, Reply::Offer(OfferReply::Accepted)).await;
    until("the job is leased", async || {
        view(&world, &org, &id).await.executions[0].state == ExecutionState::Leased
    })
    .await;
    let next = org.job(&node.id, &["true"]);
    submit(&world, &org, &next).await;
    let second = orders(&node).await;
    assert!(
        second.iter().all(|o| o.order > first[0].order),
        "what is answered does not come again"
    );
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_and_a_revocation_that_comes_later_reach_a_polling_node() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    begin(&node, &org).await;
    let stolen = org.revocation(RevocationKind::Node, other.id.as_str());
    let docs = LawDocs {
        revocations: vec![stolen.clone()],
        ..LawDocs::default()
    };
    let body = serde_json::to_string(&docs).unwrap();
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/trust", &body)
        .await;
    assert!(answer.status.is_success(), "{answer:?}");
    let brought = async {
        loop {
            for order in orders(&node).await {
                if matches!(&order.request, Request::Law(law) if law.revocations.contains(&stolen)) {
                    return;
                }
                let held = heartbeat(&org, &node).law;
                reply(&node, order.order, Reply::Law(held)).await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, brought).await.expect("it comes");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_come_before_offers_that_wait_longer() {
    let (world, org, node) = one().await;
    begin(&node, &org).await;
    let (first, second) = (org.job(&node.id, &["true"]), org.job(&node.id, &["true"]));
    submit(&world, &org, &first).await;
    submit(&world, &org, &second).await;
    until("both are offered", async || {
        let orders = orders(&node).await;
        let offered = |job: &str| {
            orders
                .iter()
                .any(|o| matches!(&o.request, Request::Offer(o) if o.job == job))
        };
        offered(&first) && offered(&second)
    })
    .await;
    let path = format!("/api/v1/jobs/{}/cancel", JobId::from_digest(&job_digest(&second)));
    let cancel = org.cancel(&second);
    let answer = world.call(Some(&org.secret), Method::POST, &path, &cancel).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let is_cancel = |order: &PollOrder| matches!(&order.request, Request::CancelJob(c) if c.job == second);
    until("the cancel is there", async || {
        orders(&node).await.iter().any(is_cancel)
    })
    .await;
    let orders = orders(&node).await;
    assert!(is_cancel(&orders[0]), "{orders:?}");
    world.hub.shutdown().await;
}
