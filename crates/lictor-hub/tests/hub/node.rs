//! A scripted node: enrols, links, takes every job, prints and signs what the test says.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_link::cert::Identity;
use lictor_link::dial::{HubUrl, dial};
use lictor_link::h2;
use lictor_link::http::{Answer, HttpClient, full};
use lictor_link::hyper::{Method, Request as HttpRequest, StatusCode};
use lictor_link::tls::ClientTls;
use lictor_link::ws::{WsStream, connect};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Ack, CancelJob, Event, Finished, LawHeld, LogRange, OfferReply, Reply, Request};
use lictor_proto::api::EnrollRequest;
use lictor_proto::doc::{Ask, Exit, Fired, FiredWire, KeptRange, OpenGate, Outcome, Receipt, StreamSummary};
use lictor_proto::frame::{Frame, FrameKind};
use lictor_proto::{Digest, Envelope, NodeId, OrgId, Timestamp, limits};
use lictor_trust::enrol::RecordOf;
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeSecrets, sign};
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::TaskTracker;

use super::offers::submit;
use super::world::{DEADLINE, Org, World, name, until};

pub struct Node {
    pub id: NodeId,
    org: OrgId,
    secrets: NodeSecrets,
    tls: ClientTls,
    url: HubUrl,
}

/// A node's own way to answer: a reply, a failure (the link lives, the answer does not come), or `None` for the
/// script's usual answer.
pub type Answering = Box<dyn FnMut(&Request) -> Option<Result<Reply, StatusCode>> + Send>;

/// How a node gives its logs: of a job, from a position on.
pub type Reading = Box<dyn FnMut(&str, u64) -> Body + Send>;

/// A link that is up.
pub struct Linked {
    pub events: mpsc::UnboundedSender<Message>,
    pub acks: mpsc::UnboundedReceiver<Ack>,
    pub offers: mpsc::UnboundedReceiver<String>,
    pub cancels: mpsc::UnboundedReceiver<CancelJob>,
}

struct Script {
    answering: Mutex<Answering>,
    reading: Mutex<Reading>,
    cancels: mpsc::UnboundedSender<CancelJob>,
    acks: mpsc::UnboundedSender<Ack>,
    offers: mpsc::UnboundedSender<String>,
    events: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
}

/// A hub with one org and one node of it.
pub async fn one() -> (World, Org, Node) {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    (world, org, node)
}

impl Node {
    pub async fn enrol(world: &World, org: &Org, title: &str) -> Self {
        let grant = org.grant(title);
        let method = lictor_link::hyper::Method::POST;
        let answer = world
            .call(Some(&org.secret), method, "/api/v1/grants", &grant)
            .await;
        assert!(answer.status.is_success(), "{answer:?}");
        let digest = Envelope::parse(grant.as_bytes(), limits::ENVELOPE)
            .unwrap()
            .digest();
        let secrets = NodeSecrets::generate().unwrap();
        let title = name(title);
        let of = RecordOf {
            org: &org.id,
            grant: digest,
            name: &title,
            epoch: 1,
            issued_at: Timestamp::now(),
        };
        let record = to_wire(&secrets.record(&of, &org.join));
        let identity = Identity::link(&secrets.link.seed()).unwrap();
        let tls = ClientTls::node(identity, vec![world.hub.link_spki]).unwrap();
        let url: HubUrl = format!("https://{}", world.hub.addr).parse().unwrap();
        let body = serde_json::to_vec(&EnrollRequest {
            org: org.id.clone(),
            grant_digest: digest,
            record,
        });
        let http = HttpClient::new(url.clone(), Some(tls.clone()), TaskTracker::new());
        let request = HttpRequest::post("/api/v1/agent/enroll")
            .body(full(body.unwrap()))
            .unwrap();
        let answer = http.call(request, limits::ASK, DEADLINE).await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        Self {
            id: secrets.node_id(&org.id),
            org: org.id.clone(),
            secrets,
            tls,
            url,
        }
    }

    /// A call over a connection that proves this node's link key: poll mode.
    pub async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        let http = HttpClient::new(self.url.clone(), Some(self.tls.clone()), TaskTracker::new());
        let request = HttpRequest::builder().method(method).uri(path);
        let request = request.body(full(body)).unwrap();
        http.call(request, limits::ASK, DEADLINE).await.unwrap()
    }

    pub async fn link(&self, world: &World) -> Linked {
        self.link_answering(world, Box::new(|_| None)).await
    }

    /// A link over which a job has come that was submitted for it.
    pub async fn takes(&self, world: &World, org: &Org) -> (Linked, String) {
        let mut link = self.link(world).await;
        let job = org.job(&self.id, &["true"]);
        submit(world, org, &job).await;
        assert_eq!(link.offer().await, job);
        (link, job)
    }

    pub async fn link_answering(&self, world: &World, answering: Answering) -> Linked {
        self.link_scripted(world, answering, Box::new(|_, _| Body::empty()))
            .await
    }

    pub async fn link_reading(&self, world: &World, reading: Reading) -> Linked {
        self.link_scripted(world, Box::new(|_| None), reading).await
    }

    async fn link_scripted(&self, world: &World, answering: Answering, reading: Reading) -> Linked {
        let tasks = TaskTracker::new();
        // Where it listens now: it may have been started again.
        let url: HubUrl = format!("https://{}", world.hub.addr).parse().unwrap();
        let io = dial(&url, Some(&self.tls), DEADLINE).await.unwrap();
        let socket = connect(io, &url.authority(), "/api/v1/agent/link", &[])
            .await
            .unwrap();
        let (acks, acked) = mpsc::unbounded_channel();
        let (offers, offered) = mpsc::unbounded_channel();
        let (events, feed) = mpsc::unbounded_channel();
        let (cancels, canceled) = mpsc::unbounded_channel();
        let script = Script {
            answering: Mutex::new(answering),
            reading: Mutex::new(reading),
            cancels,
            acks,
            offers,
            events: Mutex::new(Some(feed)),
        };
        let router = Router::new()
            .route("/v1/health", get(|| async { "ok" }))
            .route("/v1/events", get(feed_body))
            .route("/v1/ask", post(ask))
            .route("/v1/output/{job}", get(output))
            // It takes no byte of what is streamed, and never answers.
            .route("/v1/input/{sha256}", post(std::future::pending::<()>))
            // An offer may be larger than what the router takes by itself.
            .layer(DefaultBodyLimit::max(limits::ASK))
            .with_state(Arc::new(script));
        let io = TokioIo::new(WsStream::new(socket));
        let served = h2::server(&tasks).serve_connection(io, TowerToHyperService::new(router));
        tasks.spawn(async move { drop(served.await) });
        let linked = async || world.hub.app().links.get(&self.org, &self.id).is_some();
        until("the link comes up", linked).await;
        Linked {
            events,
            acks: acked,
            offers: offered,
            cancels: canceled,
        }
    }

    /// The signed end of a job that printed `out`, all of which was kept.
    pub fn finished(&self, job: &str, out: &[u8], seq: u64, exit: i32) -> Finished {
        let whole = (!out.is_empty()).then_some(0..out.len());
        self.finished_keeping(job, out, whole.as_slice(), (seq, exit))
    }

    /// The signed end of a job that printed `out`, of which these parts were kept.
    pub fn finished_keeping(
        &self,
        job: &str,
        out: &[u8],
        kept: &[Range<usize>],
        (seq, exit): (u64, i32),
    ) -> Finished {
        let digest = job_digest(job);
        let kept = kept.iter().map(|part| KeptRange {
            from: part.start as u64,
            to: part.end as u64,
            sha256: Digest::of(&out[part.clone()]),
        });
        let summary = StreamSummary {
            bytes: out.len() as u64,
            sha256: Digest::of(out),
            kept: kept.collect(),
        };
        let receipt = Receipt {
            tag: Default::default(),
            org: self.org.clone(),
            node_id: self.id.clone(),
            job_digest: digest,
            fired: fired_of(job),
            outcome: if exit == 0 {
                Outcome::Succeeded
            } else {
                Outcome::Failed
            },
            code: None,
            message: String::new(),
            bundle_version: 1,
            bundle_digest: Digest::of(b"b"),
            policy_ids: vec!["all".to_owned()],
            approvals: Vec::new(),
            break_glass: false,
            facts_digest: None,
            profile: name("host"),
            backend: None,
            plan_digest: None,
            started_at: Some(Timestamp::now()),
            finished_at: Timestamp::now(),
            exit: Some(Exit::Status(exit)),
            limits_hit: Vec::new(),
            usage: None,
            stdout: summary,
            stderr: StreamSummary::empty(),
            egress: None,
            sandbox: None,
            artifacts: Vec::new(),
            node_seq: seq,
            prev: (seq > 1).then(|| Digest::of(b"prev")),
            audit_head: Digest::of(b"head"),
            agent_version: "0.1.0".to_owned(),
        };
        let log_end = frame(out).len() as u64;
        Finished {
            job: digest,
            envelope: job.to_owned(),
            receipt: to_wire(&sign(&receipt, &[&self.secrets.identity])),
            log_end,
            kept: vec![LogRange {
                from: 0,
                to: log_end,
                stdout_at: 0,
                stderr_at: 0,
            }],
        }
    }
}

impl Node {
    /// A signed ask for one approval.
    pub fn ask(&self, job: &str) -> String {
        let ask = Ask {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job_digest(job),
            node_id: self.id.clone(),
            bundle_version: 1,
            facts: "{}".to_owned(),
            facts_digest: Digest::of(b"{}"),
            gates: vec![OpenGate {
                policy_id: "all".to_owned(),
                n: 1,
                group: name("admins"),
                release: false,
            }],
            issued_at: Timestamp::now(),
        };
        to_wire(&sign(&ask, &[&self.secrets.identity]))
    }
}

/// What a job goes by, also a firing of a schedule.
pub fn job_digest(job: &str) -> Digest {
    let signed = |wire: &str| {
        Envelope::parse(wire.as_bytes(), limits::ENVELOPE)
            .unwrap()
            .digest()
    };
    fired_of(job).map_or_else(|| signed(job), |fired| fired.digest())
}

fn fired_of(wire: &str) -> Option<Fired> {
    let read = FiredWire::read(wire)?;
    Some(Fired {
        schedule: job_digest(&read.schedule),
        nominal: read.nominal,
    })
}

pub fn frame(out: &[u8]) -> Vec<u8> {
    frame_at(0, out)
}

/// A frame of standard output that stands there in the stream.
pub fn frame_at(at: u64, out: &[u8]) -> Vec<u8> {
    let frame = Frame {
        kind: FrameKind::Stdout,
        time: Timestamp::now(),
        at,
        payload: Bytes::copy_from_slice(out),
    };
    frame.encode()
}

impl Linked {
    pub fn say(&self, event: Event) {
        self.events.send(Message::Event(event)).unwrap();
    }

    pub fn print(&self, job: Digest, out: &[u8]) {
        let frames = Bytes::from(frame(out));
        self.events.send(Message::Output { job, at: 0, frames }).unwrap();
    }

    pub async fn ack_of_result(&mut self) -> Digest {
        let wait = async {
            loop {
                if let Ack::Result { receipt, .. } = self.acks.recv().await.expect("linked") {
                    return receipt;
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .expect("the result is acknowledged")
    }

    pub async fn offer(&mut self) -> String {
        let offer = tokio::time::timeout(DEADLINE, self.offers.recv()).await;
        offer.expect("an offer comes").expect("linked")
    }
}

async fn feed_body(State(script): State<Arc<Script>>) -> Body {
    let feed = script.events.lock().await.take();
    let messages = futures_util::stream::unfold(feed, |feed| async move {
        let mut feed = feed?;
        let message = feed.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from(message.encode())), Some(feed)))
    });
    Body::from_stream(messages)
}

async fn output(
    State(script): State<Arc<Script>>,
    Path(job): Path<String>,
    Query(from): Query<HashMap<String, u64>>,
) -> Body {
    (script.reading.lock().await)(&job, from["from"])
}

async fn ask(State(script): State<Arc<Script>>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let request: Request = serde_json::from_slice(&body).unwrap();
    if let Some(answer) = (script.answering.lock().await)(&request) {
        return answer.map(|reply| serde_json::to_vec(&reply).unwrap());
    }
    let reply = match request {
        Request::Offer(offer) => {
            let _ = script.offers.send(offer.job);
            Reply::Offer(OfferReply::Accepted)
        }
        Request::Ack(ack) => {
            let _ = script.acks.send(ack);
            Reply::Done
        }
        Request::CancelJob(cancel) => {
            let _ = script.cancels.send(cancel);
            Reply::Done
        }
        Request::Law(_) => Reply::Law(LawHeld {
            root: 1,
            bundle: 1,
            bundle_digest: None,
            freshness: None,
            revocations: 0,
            deny_all: None,
        }),
        _ => Reply::Done,
    };
    Ok(serde_json::to_vec(&reply).unwrap())
}
