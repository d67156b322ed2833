//! The side of the hub that people's programs see: just enough of the API for `lictor run`, and a place to lie.
//!
//! A submitted job goes to the real agent over the real link, and its honest answer (output, receipt) is collected
//! whole; then the lie is told about it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper::StatusCode;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Finished, LawDocs, Offer, OfferReply, Reply, Request, Wire};
use lictor_proto::api::{FRAMES, JobDocuments, NodeView, Page, StreamEvent, TrustView};
use lictor_proto::doc::NodeKind;
use lictor_proto::frame::{Frame, FrameKind};
use lictor_proto::{Digest, JobId, Name, NodeId, OrgId, Timestamp};
use serde_json::json;

use super::{HostileHub, hold};
use crate::hostile::org::digest;

/// A part of the answer to `lictor run`.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Frames of the log, as the agent gave them.
    Log(Bytes),
    /// Anything else.
    Event(StreamEvent),
}

/// What is done to an honest answer.
pub type Lie = Arc<dyn Fn(Vec<Item>) -> Vec<Item> + Send + Sync>;

/// What people are shown.
#[derive(Default)]
pub struct People {
    trust: Option<TrustView>,
    nodes: Vec<NodeView>,
    lie: Option<Lie>,
    told_to: Audience,
    answers: HashMap<JobId, Stored>,
    remarks: Vec<Wire>,
    asks: Vec<Wire>,
    approvals: Vec<Wire>,
}

/// Who is lied to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Audience {
    /// Everybody: the same story again and again.
    #[default]
    All,
    /// Whoever looks on live.
    Live,
    /// Whoever asks for what is stored.
    Later,
}

/// A job that has run, and what is told about it later.
#[derive(Clone)]
struct Stored {
    job: Wire,
    items: Vec<Item>,
}

impl People {
    /// Shows this law.
    pub fn show_law(&mut self, org: &OrgId, docs: LawDocs) {
        let org = org.clone();
        self.trust = Some(TrustView { org, docs });
    }

    /// Shows this node, or claims that there is one.
    pub fn show_node(&mut self, node_id: &NodeId, name: &Name, (grant, record): (Wire, Wire)) {
        self.nodes.push(NodeView {
            node_id: node_id.clone(),
            name: name.clone(),
            kind: NodeKind::Server,
            connected: true,
            last_seen_at: None,
            enrolled_at: Timestamp::now(),
            grant,
            record,
            heartbeat: None,
        });
    }

    /// Shows no nodes any more.
    pub fn hide_nodes(&mut self) {
        self.nodes.clear();
    }

    /// Shows these remarks with every job.
    pub fn show_remarks(&mut self, remarks: Vec<Wire>) {
        self.remarks = remarks;
    }

    /// Shows this job, which nobody has run, as one that waits.
    pub fn show_job(&mut self, id: &JobId, job: Wire) {
        let items = Vec::new();
        self.answers.insert(id.clone(), Stored { job, items });
    }

    /// Shows these asks with every job.
    pub fn show_asks(&mut self, asks: Vec<Wire>) {
        self.asks = asks;
    }

    /// Shows these approvals with every job.
    pub fn show_approvals(&mut self, approvals: Vec<Wire>) {
        self.approvals = approvals;
    }

    /// Lies from now on.
    pub fn lie(&mut self, lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static) {
        self.lie = Some(Arc::new(lie));
    }

    /// Lies from now on to whoever looks on live; who asks for the stored output later is told the truth.
    pub fn lie_live(&mut self, lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static) {
        self.lie(lie);
        self.told_to = Audience::Live;
    }

    /// Lies from now on to whoever asks for what is stored; live, the truth is told.
    pub fn lie_later(&mut self, lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static) {
        self.lie(lie);
        self.told_to = Audience::Later;
    }

    /// What is told live, and what later.
    fn told(&self, honest: Vec<Item>) -> (Vec<Item>, Vec<Item>) {
        let Some(lie) = &self.lie else {
            return (honest.clone(), honest);
        };
        let told = lie(honest.clone());
        match self.told_to {
            Audience::All => (told.clone(), told),
            Audience::Live => (told, honest),
            Audience::Later => (honest, told),
        }
    }
}

pub(super) fn routes() -> Router<Arc<HostileHub>> {
    Router::new()
        .route("/api/v1/trust", get(trust))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/jobs", post(submit))
        .route("/api/v1/jobs/{id}/output", get(output))
        .route("/api/v1/jobs/{id}/documents", get(documents))
        .route("/api/v1/approvals", get(approvals))
}

async fn trust(State(hub): State<Arc<HostileHub>>) -> Response {
    match &hold(&hub.people).trust {
        Some(view) => Json(view.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn nodes(State(hub): State<Arc<HostileHub>>) -> Response {
    let items = hold(&hub.people).nodes.clone();
    Json(Page {
        items,
        next_cursor: None,
    })
    .into_response()
}

async fn submit(State(hub): State<Arc<HostileHub>>, job: String) -> Response {
    match hub.run(job).await {
        Ok(items) => frames(&items),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}")).into_response(),
    }
}

/// The stored output.
async fn output(State(hub): State<Arc<HostileHub>>, Path(id): Path<String>) -> Response {
    match hub.stored(&id) {
        Some(stored) => frames(&stored.items),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn documents(State(hub): State<Arc<HostileHub>>, Path(id): Path<String>) -> Response {
    let Some(stored) = hub.stored(&id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    Json(hub.documents_of(stored)).into_response()
}

/// Every job that it knows, as if each waited.
async fn approvals(State(hub): State<Arc<HostileHub>>) -> Response {
    let all: Vec<(JobId, Stored)> = hold(&hub.people).answers.clone().into_iter().collect();
    let pending = |(job_id, stored): (JobId, Stored)| {
        let now = Timestamp::now();
        // What the hub says of a job in its own words; nobody believes any of it.
        json!({
            "job": {
                "job_id": job_id, "digest": Digest::of(b"a job"), "issued_at": now, "operator": "nobody", "kind": "exec", "command": [], "profile": "host", "reason": "",
                "created_at": now, "expires_at": now, "executions": [],
            },
            "documents": hub.documents_of(stored),
        })
    };
    let items: Vec<_> = all.into_iter().map(pending).collect();
    Json(json!({ "items": items, "next_cursor": null })).into_response()
}

impl HostileHub {
    /// The signed job of this id.
    ///
    /// # Errors
    /// When none was run.
    pub fn job_of(&self, id: &str) -> Result<Wire> {
        Ok(self.stored(id).context("no such job was run")?.job)
    }

    fn documents_of(&self, stored: Stored) -> JobDocuments {
        let receipts = stored.items.into_iter().filter_map(|item| match item {
            Item::Event(StreamEvent::Receipt { receipt }) => Some(receipt),
            _ => None,
        });
        let (asks, approvals) = {
            let people = hold(&self.people);
            (people.asks.clone(), people.approvals.clone())
        };
        JobDocuments {
            job: stored.job,
            receipts: receipts.collect(),
            asks,
            approvals,
            releases: Vec::new(),
            cancels: Vec::new(),
            remarks: self.remarks(),
        }
    }

    fn remarks(&self) -> Vec<Wire> {
        hold(&self.people).remarks.clone()
    }

    fn stored(&self, id: &str) -> Option<Stored> {
        let id: JobId = id.parse().ok()?;
        hold(&self.people).answers.get(&id).cloned()
    }

    /// Has a job run and gives the answer, with whatever lie is told at the moment.
    ///
    /// # Errors
    /// When the agent doesn't take it, or it doesn't end.
    pub async fn run(&self, job: Wire) -> Result<Vec<Item>> {
        let id = digest(&job)?;
        let offer = Offer {
            job: job.clone(),
            approvals: Vec::new(),
            releases: Vec::new(),
            secrets: Vec::new(),
        };
        match self.ask(&Request::Offer(offer)).await? {
            Reply::Offer(OfferReply::Accepted | OfferReply::Denied(_)) => {}
            other => bail!("the agent answered {other:?}"),
        }
        let finished = self.finished(id).await?;
        // A job that printed nothing has no log.
        let log = self.log(&id).await.unwrap_or_default();
        let job_id = JobId::from_digest(&id);
        let honest = vec![
            Item::Event(StreamEvent::Submitted {
                job_id: job_id.clone(),
            }),
            Item::Log(log),
            Item::Event(StreamEvent::Receipt {
                receipt: finished.receipt,
            }),
        ];
        let mut people = hold(&self.people);
        let (told, items) = people.told(honest);
        people.answers.insert(job_id, Stored { job, items });
        Ok(told)
    }

    /// The end of an execution, as the node says it.
    ///
    /// # Errors
    /// When it doesn't end in time.
    pub async fn finished(&self, job: Digest) -> Result<Finished> {
        self.hears("the end of a job", |m| match m {
            Message::Event(Event::Finished(f)) if f.job == job => Some((**f).clone()),
            _ => None,
        })
        .await
    }
}

fn frames(items: &[Item]) -> Response {
    let mut body = Vec::new();
    for item in items {
        match item {
            Item::Log(bytes) => body.extend_from_slice(bytes),
            Item::Event(event) => {
                let frame = Frame {
                    kind: FrameKind::Event,
                    time: Timestamp::now(),
                    at: 0,
                    payload: serde_json::to_vec(event).unwrap_or_default().into(),
                };
                body.extend_from_slice(&frame.encode());
            }
        }
    }
    ([(CONTENT_TYPE, FRAMES)], body).into_response()
}
