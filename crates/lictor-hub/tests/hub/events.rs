//! Every type of event that a hub writes is written when what it says happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_audit::{EventType, Record, Source};
use lictor_link::http::Answer;
use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::{Event, OfferReply, Reply, Request};
use lictor_proto::api::ExecutionState;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, JobId, Timestamp};

use super::link::view;
use super::node::{Answering, Linked, Node, job_digest};
use super::offers::submit;
use super::world::{Org, World, until};

/// One hub, from its start to its end, with everything in it that an event is written for.
struct Life {
    world: World,
    org: Org,
    /// Whose documents are no good here.
    other: Org,
    node: Node,
}

impl Life {
    async fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        let token = Some(self.org.secret.as_str());
        self.world.call(token, method, path, body).await
    }

    async fn accepted(&self, method: Method, path: &str, body: &str) -> serde_json::Value {
        let answer = self.call(method, path, body).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    async fn refused(&self, path: &str, body: &str) {
        let answer = self.call(Method::POST, path, body).await;
        assert!(answer.status.is_client_error(), "{path}: {answer:?}");
    }

    async fn becomes(&self, job: &str, state: ExecutionState) {
        let id = JobId::from_digest(&job_digest(job));
        until(state.as_str(), async || {
            view(&self.world, &self.org, &id).await.executions[0].state == state
        })
        .await;
    }

    async fn recorded(&self, kind: EventType) {
        until(kind.as_str(), async || {
            let audit = self.world.audit(&self.org).await;
            audit.iter().any(|a| a == kind.as_str())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_hub_is_written_when_it_happens() {
    // Short leases, so that one lapses while the test looks.
    let world = World::with(|c| c.lease_seconds = 1).await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    let node = Node::enrol(&world, &org, "web-1").await;
    let life = Life {
        world,
        org,
        other,
        node,
    };
    keys_and_law(&life).await;
    documents(&life).await;
    nobody_takes(&life).await;
    let asked = jobs(&life).await;
    // Long after: what was stored for a while is forgotten.
    let later = Timestamp::now().plus(Duration::from_secs(49 * 3600));
    assert_eq!(life.world.hub.app().sweep(later).await.unwrap(), 1);

    let (world, org) = (life.world, life.org);
    let log = org.id.to_string();
    let own = world.stop_and_read(&log).await;
    let of = |kind: EventType| own.iter().find(|r| r.kind() == kind).unwrap();
    let awaiting = of(EventType::JobAwaiting);
    assert_eq!(awaiting.fields()["ask"], asked.to_string().into());
    assert_eq!(of(EventType::OrgCreated).fields()["name"], "one".into());
    assert_eq!(own[0].kind(), EventType::OrgCreated, "an org's log begins so");
    // The hub's own log is another one, and begins and ends with the hub.
    let seen: BTreeSet<EventType> = own.iter().map(Record::kind).collect();
    let missing: Vec<_> = EventType::ALL
        .iter()
        .filter(|t| {
            t.source() == Source::Hub && !HUBS_OWN.contains(t) && !ELSEWHERE.contains(t) && !seen.contains(t)
        })
        .collect();
    assert!(missing.is_empty(), "never written: {missing:?}");
}

/// What takes a day, or a thousand of them: `notices.rs` has that.
const ELSEWHERE: [EventType; 2] = [EventType::NotificationDropped, EventType::NotificationGivenUp];

/// What is no org's: the next test reads it.
const HUBS_OWN: [EventType; 2] = [EventType::HubStarted, EventType::HubStopped];

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_own_log_begins_and_ends_with_the_hub() {
    let world = World::new().await;
    world.call(None, Method::POST, "/api/v1/jobs", "x").await;
    let world = world.restart().await;
    let kinds: Vec<_> = world
        .stop_and_read("hub")
        .await
        .iter()
        .map(Record::kind)
        .collect();
    let [started, stopped] = HUBS_OWN;
    let refused = EventType::RequestRefused;
    assert_eq!(kinds, [started, refused, stopped, started, stopped]);
}

/// Tokens, law, grants.
async fn keys_and_law(life: &Life) {
    let new = r#"{"label":"ci","scope":"read","expires_at":null}"#;
    let made = life.accepted(Method::POST, "/api/v1/tokens", new).await;
    let path = format!("/api/v1/tokens/{}", made["token_id"].as_str().unwrap());
    life.accepted(Method::DELETE, &path, "").await;
    let new = r#"{"way":"webhook","address":"https://192.0.32.8/","on":["law"]}"#;
    let made = life.accepted(Method::POST, "/api/v1/notify", new).await;
    let path = format!("/api/v1/notify/{}", made["target_id"].as_str().unwrap());
    life.accepted(Method::POST, &format!("{path}/test"), "").await;
    life.accepted(Method::DELETE, &path, "").await;
    let secret = life.org.a_secret(&life.node.id, "db", 1);
    life.accepted(Method::POST, "/api/v1/secrets", &secret).await;
    life.accepted(Method::DELETE, "/api/v1/secrets/db", "").await;
    // A token that has been deleted, and is known to have been this org's.
    life.refused("/api/v1/tokens", "rubbish").await;
    let theirs = life.other.job(&life.node.id, &["true"]);
    let forged = serde_json::json!({ "bundle": life.other.cancel(&theirs) }).to_string();
    life.call(Method::POST, "/api/v1/trust", &forged).await;
    life.refused("/api/v1/grants", &life.other.grant("web-9")).await;
}

/// What is signed about jobs, by those who may and by those who may not; and standard input.
async fn documents(life: &Life) {
    let job = life.org.job(&life.node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    life.refused("/api/v1/jobs", &life.other.job(&life.node.id, &["true"]))
        .await;
    submit(&life.world, &life.org, &job).await;
    life.refused("/api/v1/approvals", &life.other.approval(&job))
        .await;
    let approval = life.org.approval(&job);
    life.accepted(Method::POST, "/api/v1/approvals", &approval).await;
    let cancel = format!("/api/v1/jobs/{id}/cancel");
    life.refused(&cancel, &life.other.cancel(&job)).await;
    life.accepted(Method::POST, &cancel, &life.org.cancel(&job)).await;
    let releases = format!("/api/v1/jobs/{id}/releases");
    life.refused(&releases, &life.other.release(&job, &life.node.id))
        .await;
    let release = life.org.release(&job, &life.node.id);
    life.accepted(Method::POST, &releases, &release).await;
    let remarks = format!("/api/v1/jobs/{id}/remarks");
    life.refused(&remarks, &life.other.remark(&job)).await;
    life.accepted(Method::POST, &remarks, &life.org.remark(&job))
        .await;
    let spread = life.org.job(&life.node.id, &["spread"]);
    let body = super::rollouts::new(&spread, vec![vec![life.node.id.clone()]], |_| {});
    life.accepted(Method::POST, "/api/v1/rollouts", &body).await;
    let hex = Digest::of(b"input").to_string().replace("sha256:", "");
    let path = format!("/api/v1/blobs/{hex}");
    life.accepted(Method::PUT, &path, "input").await;
}

/// A job whose validity ends while its node is away.
async fn nobody_takes(life: &Life) {
    let away = Node::enrol(&life.world, &life.org, "web-2").await;
    let job = life.org.job_valid_for(&away.id, Duration::from_secs(4));
    submit(&life.world, &life.org, &job).await;
    life.becomes(&job, ExecutionState::Expired).await;
    life.recorded(EventType::JobTimedOutInQueue).await;
}

/// What a node does with jobs; gives the digest of its ask.
async fn jobs(life: &Life) -> Digest {
    let argv = |word: &str| life.org.job(&life.node.id, &[word]);
    let (run, ask) = (argv("run"), argv("ask"));
    let asking = life.node.ask(&ask);
    let mut link = life
        .node
        .link_answering(&life.world, answers(&run, &ask, &asking))
        .await;
    submit(&life.world, &life.org, &ask).await;
    life.becomes(&ask, ExecutionState::AwaitingApproval).await;
    submit(&life.world, &life.org, &run).await;
    assert_eq!(link.offer().await, run);
    // Before it runs: a node whose start comes first is never only leased.
    life.recorded(EventType::JobLeased).await;
    let started = Event::Started {
        job: job_digest(&run),
        at: Timestamp::now(),
        firing: None,
    };
    link.say(started);
    link.print(job_digest(&run), b"hello\n");
    life.recorded(EventType::JobRunning).await;
    life.recorded(EventType::OutputStored).await;
    // Its node says nothing of it any more, and comes back after all.
    life.becomes(&run, ExecutionState::Lost).await;
    let end = |seq, exit| Event::Finished(Box::new(life.node.finished(&run, b"hello\n", seq, exit)));
    link.say(end(1, 0));
    link.ack_of_result().await;
    link.say(end(2, 1));
    life.recorded(EventType::ResultConflicted).await;
    forged(life, &link).await;
    let app = life.world.hub.app();
    app.links.get(&life.org.id, &life.node.id).unwrap().stop.cancel();
    life.recorded(EventType::NodeDisconnected).await;
    job_digest(&asking)
}

/// A result that another node has signed.
async fn forged(life: &Life, link: &Linked) {
    let other = Node::enrol(&life.world, &life.org, "web-3").await;
    let job = life.org.job(&life.node.id, &["forged"]);
    link.say(Event::Finished(Box::new(other.finished(&job, b"", 1, 0))));
    life.recorded(EventType::ResultRejected).await;
    let path = format!("/api/v1/jobs/{}", JobId::from_digest(&job_digest(&job)));
    let answer = life.call(Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

/// Gives the first job back once, and wants an approval for the second.
fn answers(run: &str, ask: &str, asking: &str) -> Answering {
    let later = Reply::Offer(OfferReply::Later(Refusal::plain(Code::TooManyJobs)));
    let mut replies = BTreeMap::from([
        (run.to_owned(), later),
        (ask.to_owned(), Reply::Offer(OfferReply::Ask(asking.to_owned()))),
    ]);
    Box::new(move |request| match request {
        Request::Offer(offer) => replies.remove(&offer.job).map(Ok),
        _ => None,
    })
}
