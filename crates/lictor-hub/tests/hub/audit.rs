//! Each route that changes something writes its audit event, and so does each refusal.

use std::collections::BTreeSet;

use lictor_audit::{EventType, Record};
use lictor_link::http::Answer;
use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::api::{PollAnswer, PollOrders, StartedReport};
use lictor_proto::{Digest, JobId, Timestamp};

use super::link::heartbeat;
use super::node::{Node, frame, job_digest};
use super::routes::routes;
use super::world::{Org, World, until};

/// What only reads, though it takes a body to say what.
const READS: [&str; 1] = ["/api/v1/jobs/{id}/follow"];

/// What each route that is no read writes. A new route must be put here, and played below.
const WRITES: &[(&str, &str)] = &[
    ("DELETE /api/v1/notify/{id}", "notify_target_removed"),
    ("DELETE /api/v1/secrets/{name}", "secret_removed"),
    ("DELETE /api/v1/tokens/{id}", "token_deleted"),
    ("POST /api/v1/agent/answers", "job_leased"),
    ("POST /api/v1/agent/enroll", "node_enrolled"),
    ("POST /api/v1/agent/heartbeat", "node_connected"),
    ("POST /api/v1/agent/jobs/{id}/heartbeat", "node_connected"),
    ("POST /api/v1/agent/jobs/{id}/log", "output_stored"),
    ("POST /api/v1/agent/jobs/{id}/result", "result_stored"),
    ("POST /api/v1/agent/jobs/{id}/started", "job_running"),
    ("POST /api/v1/approvals", "approval_submitted"),
    ("POST /api/v1/grants", "grant_stored"),
    ("POST /api/v1/jobs", "job_submitted"),
    ("POST /api/v1/jobs/{id}/approvals", "approval_submitted"),
    ("POST /api/v1/jobs/{id}/cancel", "cancel_submitted"),
    ("POST /api/v1/jobs/{id}/releases", "release_submitted"),
    ("POST /api/v1/jobs/{id}/remarks", "remark_submitted"),
    ("POST /api/v1/notify", "notify_target_set"),
    ("POST /api/v1/notify/{id}/test", "notify_tested"),
    ("POST /api/v1/rollouts", "rollout_turned"),
    ("POST /api/v1/rollouts/{id}/continue", "rollout_turned"),
    ("POST /api/v1/schedules", "job_submitted"),
    ("POST /api/v1/secrets", "secret_set"),
    ("POST /api/v1/tokens", "token_created"),
    ("POST /api/v1/trust", "law_published"),
    ("PUT /api/v1/blobs/{sha256}", "blob_stored"),
];

/// Plays routes and holds that each writes what the table says.
struct Ledger<'a> {
    world: &'a World,
    org: &'a Org,
    played: BTreeSet<&'static str>,
}

impl Ledger<'_> {
    async fn count(&self, kind: &str) -> usize {
        let audit = self.world.audit(self.org).await;
        audit.iter().filter(|a| *a == kind).count()
    }

    async fn plays(&mut self, route: &'static str, call: impl Future<Output = Answer>) -> Answer {
        let (_, kind) = WRITES.iter().find(|(r, _)| *r == route).unwrap();
        let before = self.count(kind).await;
        let answer = call.await;
        assert!(answer.status.is_success(), "{route}: {answer:?}");
        until(&format!("{route} writes {kind}"), async || {
            self.count(kind).await > before
        })
        .await;
        self.played.insert(route);
        answer
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_that_changes_something_writes_its_event() {
    let world = World::new().await;
    let org = world.org("one").await;
    let token = Some(org.secret.as_str());
    let post = async |path: &str, body: &str| world.call(token, Method::POST, path, body).await;
    let mut ledger = Ledger {
        world: &world,
        org: &org,
        played: BTreeSet::new(),
    };
    let l = &mut ledger;
    l.plays("POST /api/v1/grants", post("/api/v1/grants", &org.grant("spare")))
        .await;
    // `world.org` pushed law, and `Node::enrol` enrols; the log of a new org tells.
    assert_eq!(l.count("law_published").await, 1);
    l.played.insert("POST /api/v1/trust");
    let node = Node::enrol(&world, &org, "web-1").await;
    let second = Node::enrol(&world, &org, "web-2").await;
    assert_eq!(l.count("node_enrolled").await, 2);
    l.played.insert("POST /api/v1/agent/enroll");

    let body = "standard input";
    let sha256 = Digest::of(body.as_bytes()).to_string().replace("sha256:", "");
    let path = format!("/api/v1/blobs/{sha256}");
    l.plays(
        "PUT /api/v1/blobs/{sha256}",
        world.call(token, Method::PUT, &path, body),
    )
    .await;
    let new = r#"{"label":"ci","scope":"read","expires_at":null}"#;
    let made = l.plays("POST /api/v1/tokens", post("/api/v1/tokens", new)).await;
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let path = format!("/api/v1/tokens/{}", made["token_id"].as_str().unwrap());
    l.plays(
        "DELETE /api/v1/tokens/{id}",
        world.call(token, Method::DELETE, &path, ""),
    )
    .await;

    let new = r#"{"way":"webhook","address":"https://192.0.32.8/","on":["node"]}"#;
    let made = l.plays("POST /api/v1/notify", post("/api/v1/notify", new)).await;
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let path = format!("/api/v1/notify/{}", made["target_id"].as_str().unwrap());
    let test = format!("{path}/test");
    l.plays("POST /api/v1/notify/{id}/test", post(&test, "")).await;
    l.plays(
        "DELETE /api/v1/notify/{id}",
        world.call(token, Method::DELETE, &path, ""),
    )
    .await;

    let secret = org.a_secret(&node.id, "db", 1);
    l.plays("POST /api/v1/secrets", post("/api/v1/secrets", &secret))
        .await;
    l.plays(
        "DELETE /api/v1/secrets/{name}",
        world.call(token, Method::DELETE, "/api/v1/secrets/db", ""),
    )
    .await;

    let job = org.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    l.plays("POST /api/v1/jobs", post("/api/v1/jobs", &job)).await;
    let schedule = org.schedule(&node.id, &["true"]);
    l.plays("POST /api/v1/schedules", post("/api/v1/schedules", &schedule))
        .await;
    l.plays(
        "POST /api/v1/approvals",
        post("/api/v1/approvals", &org.approval(&job)),
    )
    .await;
    let later = org.job(&node.id, &["true"]);
    let later_id = JobId::from_digest(&job_digest(&later));
    assert_eq!(post("/api/v1/jobs", &later).await.status, StatusCode::ACCEPTED);
    let path = format!("/api/v1/jobs/{later_id}/approvals");
    l.plays(
        "POST /api/v1/jobs/{id}/approvals",
        post(&path, &org.approval(&later)),
    )
    .await;
    let path = format!("/api/v1/jobs/{later_id}/cancel");
    l.plays("POST /api/v1/jobs/{id}/cancel", post(&path, &org.cancel(&later)))
        .await;

    let path = format!("/api/v1/jobs/{later_id}/releases");
    l.plays(
        "POST /api/v1/jobs/{id}/releases",
        post(&path, &org.release(&later, &node.id)),
    )
    .await;
    let path = format!("/api/v1/jobs/{later_id}/remarks");
    l.plays("POST /api/v1/jobs/{id}/remarks", post(&path, &org.remark(&later)))
        .await;
    play_rollout(l, &post).await;

    play_node(l, &node, &second, &job, &id).await;
    let listed: BTreeSet<String> = routes(&world)
        .await
        .into_iter()
        .filter(|r| !r.method.is_safe() && !READS.contains(&r.path.as_str()))
        .map(|r| format!("{} {}", r.method, r.path))
        .collect();
    let table: BTreeSet<String> = WRITES.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(
        listed, table,
        "the table names every route that changes something"
    );
    let played: BTreeSet<String> = ledger.played.iter().map(|r| (*r).to_owned()).collect();
    assert_eq!(played, table, "and every one of them was played");
    world.hub.shutdown().await;
}

/// One that a cancel stops, and that somebody has go on all the same.
async fn play_rollout(l: &mut Ledger<'_>, post: &impl AsyncFn(&str, &str) -> Answer) {
    let (world, org) = (l.world, l.org);
    let first = Node::enrol(world, org, "db-1").await;
    let second = Node::enrol(world, org, "db-2").await;
    let mut ids = vec![first.id.clone(), second.id.clone()];
    let job = org.job_on(&mut ids, &["true"]);
    let batches = ids.iter().map(|id| vec![id.clone()]).collect();
    let body = super::rollouts::new(&job, batches, |_| {});
    l.plays("POST /api/v1/rollouts", post("/api/v1/rollouts", &body))
        .await;
    let id = JobId::from_digest(&job_digest(&job));
    let cancel = post(&format!("/api/v1/jobs/{id}/cancel"), &org.cancel(&job)).await;
    assert!(cancel.status.is_success(), "{cancel:?}");
    let path = format!("/api/v1/rollouts/{id}/continue");
    l.plays("POST /api/v1/rollouts/{id}/continue", post(&path, ""))
        .await;
}

/// A whole job in poll mode.
async fn play_node(l: &mut Ledger<'_>, node: &Node, second: &Node, job: &str, id: &JobId) {
    let renew = format!("/api/v1/agent/jobs/{id}/heartbeat");
    let route = "POST /api/v1/agent/jobs/{id}/heartbeat";
    l.plays(route, second.call(Method::POST, &renew, Vec::new()))
        .await;
    let post = async |path: &str, body: Vec<u8>| node.call(Method::POST, path, body).await;
    let beat = json(&heartbeat(l.org, node));
    let path = "/api/v1/agent/heartbeat";
    l.plays("POST /api/v1/agent/heartbeat", post(path, beat)).await;
    let order = offer_order(node).await;
    let accepted = PollAnswer {
        order,
        reply: Reply::Offer(OfferReply::Accepted),
    };
    let path = "/api/v1/agent/answers";
    l.plays("POST /api/v1/agent/answers", post(path, json(&accepted)))
        .await;
    let at = |what: &str| format!("/api/v1/agent/jobs/{id}/{what}");
    let started = json(&StartedReport {
        at: Timestamp::now(),
        firing: None,
    });
    l.plays(
        "POST /api/v1/agent/jobs/{id}/started",
        post(&at("started"), started),
    )
    .await;
    let path = at("log?at=0");
    l.plays("POST /api/v1/agent/jobs/{id}/log", post(&path, frame(b"hello\n")))
        .await;
    let finished = json(&node.finished(job, b"hello\n", 1, 0));
    l.plays(
        "POST /api/v1/agent/jobs/{id}/result",
        post(&at("result"), finished),
    )
    .await;
}

/// Fetches orders, answering the rest, until there is an offer.
async fn offer_order(node: &Node) -> u64 {
    loop {
        let answer = node
            .call(Method::GET, "/api/v1/agent/jobs/next?wait=20", Vec::new())
            .await;
        let orders: PollOrders = serde_json::from_slice(&answer.body).unwrap();
        for order in orders.orders {
            if matches!(order.request, Request::Offer(_)) {
                return order.order;
            }
            let done = PollAnswer {
                order: order.order,
                reply: Reply::Done,
            };
            node.call(Method::POST, "/api/v1/agent/answers", json(&done))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_change_is_recorded() {
    let world = World::new().await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    let read = token(&world, &org, "read").await;
    let submit = token(&world, &org, "submit").await;
    let id = JobId::from_digest(&job_digest(&job));
    for route in routes(&world).await.into_iter().filter(|r| !r.method.is_safe()) {
        let path = route
            .path
            .replace("{id}", id.as_str())
            .replace("{name}", "nothing")
            .replace("{sha256}", &"0".repeat(64));
        let what = format!("{} {path}", route.method);
        if path == "/api/v1/agent/enroll" {
            // Who wants to enrol is nobody's yet: that is in the hub's own log.
            let answer = node.call(route.method, &path, b"rubbish".to_vec()).await;
            assert!(answer.status.is_client_error(), "{what}: {answer:?}");
            continue;
        }
        if path.starts_with("/api/v1/agent") {
            let before = world.audit(&org).await.len();
            let answer = node.call(route.method, &path, b"rubbish".to_vec()).await;
            // A renewal has no body, so that there is nothing in it to refuse.
            if !path.ends_with("/heartbeat") || !path.contains("/jobs/") {
                assert!(answer.status.is_client_error(), "{what}: {answer:?}");
                recorded(&world, &org, before, &what).await;
            }
            continue;
        }
        for (who, secret) in [("read", &read), ("submit", &submit), ("other", &other.secret)] {
            let log = if who == "other" { &other } else { &org };
            let before = world.audit(log).await.len();
            let answer = world
                .call(Some(secret), route.method.clone(), &path, "rubbish")
                .await;
            assert!(answer.status.is_client_error(), "{what} as {who}: {answer:?}");
            recorded(&world, log, before, &format!("{what} as {who}")).await;
        }
    }
    let lines = hub_log(world).await;
    assert!(lines.iter().any(|l| l.contains("/agent/enroll")), "{lines:?}");
}

/// Refusals in the hub's own log, which no org may read.
async fn hub_log(world: World) -> Vec<String> {
    let records = world.stop_and_read("hub").await;
    let refusals = records.iter().filter(|r| r.kind() == EventType::RequestRefused);
    refusals.map(Record::line).collect()
}

/// Something was recorded since.
async fn recorded(world: &World, org: &Org, before: usize, what: &str) {
    let after = world.audit(org).await;
    // Other tasks write too; a refusal is in the log when its answer is out.
    let refusals = after[before.min(after.len())..]
        .iter()
        .filter(|a| ["refused", "rejected"].iter().any(|w| a.contains(w)));
    assert!(refusals.count() > 0, "{what} is recorded: {after:?}");
}

async fn token(world: &World, org: &Org, scope: &str) -> String {
    let new = format!(r#"{{"label":"t","scope":"{scope}","expires_at":null}}"#);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/tokens", &new)
        .await;
    let made: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    made["secret"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_recorded_in_the_hubs_own_log_a_few_times_a_second() {
    let world = World::new().await;
    for _ in 0..40 {
        let answer = world.call(None, Method::POST, "/api/v1/jobs", "x").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let lines = hub_log(world).await;
    assert!((5..40).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|l| l.contains("unauthenticated")), "{lines:?}");
}
