//! Row k: one signed job on many nodes, until the last receipt is verified.
//!
//! Hub, links and the operator's side are the real ones. The agents live in this process and sign a receipt for each
//! job at once, without running anything: what is measured is what the fan-out costs, not `true`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use lictor_client::{Expected, Fleet, Happened, Item};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Finished, OfferReply, Reply, Request};
use lictor_proto::api::StreamEvent;
use lictor_proto::doc::{Exit, Job, Outcome, Receipt, StreamSummary};
use lictor_proto::{Digest, Envelope, OrgId, Timestamp, json, limits};
use lictor_test::{Operator, Split};
use lictor_trust::NodeSecrets;
use lictor_trust::sign::{sign, to_wire};
use tokio::sync::mpsc;

use crate::Effort;
use crate::idle::{Herd, law};
use crate::sample::Samples;
use crate::table::Table;

const NODES: usize = 200;

/// Measures it.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let mut split = Split::start()?;
    let hub = split.hub()?.pid();
    let herd = Herd::gather(&split, "fan", NODES).await?;
    let org = herd.org().clone();
    herd.join_all(hub, NODES, |secrets, heartbeat| {
        Worker::router(org.clone(), secrets, heartbeat)
    })
    .await?;
    let operator = Operator::at(split.home()).await?;
    run(&operator).await.context("the first one")?;
    let mut samples = Samples::default();
    for _ in 0..(effort.samples / 10).max(20) {
        samples.push(run(&operator).await?);
    }
    let what = format!("`true` on {NODES} agents of this process, to the last verified receipt");
    let figure = format!("{:?}, p99 {:?}", samples.p50(), samples.p99());
    table.row(
        "k",
        &what,
        figure,
        "best public peer: 255 ms".to_owned(),
        "200 ms",
    );
    Ok(())
}

/// From the signature to the last receipt that holds.
async fn run(operator: &Operator) -> Result<Duration> {
    let nodes = operator.nodes();
    let mut job = operator.job("local", "host", &["true"])?;
    let fan = nodes.iter().filter(|n| n.name().as_str().starts_with("fan"));
    job.nodes = fan.map(|n| n.id().clone()).collect();
    job.nodes.sort();
    ensure!(job.nodes.len() == NODES, "{} nodes", job.nodes.len());
    let started_at = Instant::now();
    let (wire, digest) = operator.sign(&job);
    let mut stream = operator.hub().submit_attached(&wire).await?;
    let mut fleet = Fleet::of(job.nodes.iter().cloned());
    let mut left = NODES;
    while left > 0 {
        match fleet.next(&mut stream).await?.context("the stream ended early")? {
            Happened::Item(id, Item::Event(StreamEvent::Receipt { receipt })) => {
                let expected = Expected {
                    trust: operator.trust(),
                    node: nodes.get(&id)?,
                    job: digest,
                };
                ensure!(expected.verify(&receipt)?.outcome == Outcome::Succeeded);
                fleet.close(&id);
                left -= 1;
            }
            Happened::Item(..) => {}
            other => bail!("{other:?}"),
        }
    }
    Ok(started_at.elapsed())
}

/// An agent that signs what it is asked to.
struct Worker {
    org: OrgId,
    secrets: NodeSecrets,
    said: mpsc::UnboundedSender<Bytes>,
    /// Its receipts so far, and the digest of the last one.
    written: Mutex<(u64, Option<Digest>)>,
}

impl Worker {
    fn router(org: OrgId, secrets: NodeSecrets, heartbeat: Message) -> Router {
        let (said, events) = mpsc::unbounded_channel();
        let worker = Arc::new(Self {
            org,
            secrets,
            said,
            written: Mutex::default(),
        });
        let first = Bytes::from(heartbeat.encode());
        let events = Arc::new(Mutex::new(Some(events)));
        let feed = move || {
            let events = events.lock().unwrap_or_else(PoisonError::into_inner).take();
            let first = stream::iter([Ok::<_, std::convert::Infallible>(first.clone())]);
            let later = stream::unfold(events, |events| async move {
                let mut events = events?;
                Some((Ok(events.recv().await?), Some(events)))
            });
            async move { Body::from_stream(first.chain(later)) }
        };
        Router::new()
            .route(
                "/v1/health",
                get(|| async { "{\"status\":\"ok\",\"version\":\"0.1.0\"}" }),
            )
            .route("/v1/events", get(feed))
            .route(
                "/v1/ask",
                post(move |body: Bytes| async move {
                    let reply = match serde_json::from_slice(&body) {
                        Ok(Request::Law(_)) => Reply::Law(law()),
                        Ok(Request::Offer(offer)) => {
                            worker.take(&offer.job).map_or(Reply::Done, Reply::Offer)
                        }
                        _ => Reply::Done,
                    };
                    serde_json::to_vec(&reply).unwrap_or_default()
                }),
            )
    }

    /// Takes a job and says that it has succeeded.
    fn take(&self, wire: &str) -> Option<OfferReply> {
        let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok()?;
        let job: Job = json::from_slice(&envelope.payload).ok()?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.0 += 1;
        let receipt = sign(
            &self.receipt(&job, envelope.digest(), *written),
            &[&self.secrets.identity],
        );
        written.1 = Some(receipt.digest());
        let finished = Finished {
            job: envelope.digest(),
            envelope: wire.to_owned(),
            receipt: to_wire(&receipt),
            log_end: 0,
            kept: Vec::new(),
        };
        let said = Message::Event(Event::Finished(Box::new(finished)));
        self.said.send(said.encode().into()).ok()?;
        Some(OfferReply::Accepted)
    }

    fn receipt(&self, job: &Job, digest: Digest, (node_seq, prev): (u64, Option<Digest>)) -> Receipt {
        let now = Timestamp::now();
        Receipt {
            tag: Default::default(),
            org: self.org.clone(),
            node_id: self.secrets.node_id(&self.org),
            job_digest: digest,
            fired: None,
            outcome: Outcome::Succeeded,
            code: None,
            message: String::new(),
            bundle_version: 1,
            bundle_digest: Digest::of(b"law"),
            policy_ids: Vec::new(),
            approvals: Vec::new(),
            break_glass: false,
            facts_digest: None,
            profile: job.profile.clone(),
            backend: None,
            plan_digest: None,
            started_at: Some(now),
            finished_at: now,
            exit: Some(Exit::Status(0)),
            limits_hit: Vec::new(),
            usage: None,
            stdout: StreamSummary::empty(),
            stderr: StreamSummary::empty(),
            egress: None,
            sandbox: None,
            artifacts: Default::default(),
            node_seq,
            prev,
            audit_head: Digest::of(b"log"),
            agent_version: "0.1.0".to_owned(),
        }
    }
}
