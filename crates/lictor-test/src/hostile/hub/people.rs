//! The side of the hub that people's programs see: just enough of the API for `lictor run`, and a place to lie.
//!
//! A submitted job goes to the real agent over the real link, and its honest answer (output, receipt) is collected
//! whole; then the lie is told about it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, bail};
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
use lictor_proto::api::{FRAMES, NodeView, Page, StreamEvent, TrustView};
use lictor_proto::doc::NodeKind;
use lictor_proto::frame::{Frame, FrameKind};
use lictor_proto::{Digest, JobId, Name, NodeId, OrgId, Timestamp};

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
    /// The stored output is told as it is, whatever was told live.
    true_store: bool,
    answers: HashMap<JobId, Vec<Item>>,
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

    /// Lies from now on.
    pub fn lie(&mut self, lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static) {
        self.lie = Some(Arc::new(lie));
    }

    /// Lies from now on to whoever looks on live; who asks for the stored output later is told the truth.
    pub fn lie_live(&mut self, lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static) {
        self.lie(lie);
        self.true_store = true;
    }

    fn told(&self, honest: Vec<Item>) -> Vec<Item> {
        match &self.lie {
            Some(lie) => lie(honest),
            None => honest,
        }
    }
}

pub(super) fn routes() -> Router<Arc<HostileHub>> {
    Router::new()
        .route("/api/v1/trust", get(trust))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/jobs", post(submit))
        .route("/api/v1/jobs/{id}/output", get(output))
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

/// The stored output, for a client that missed some of it: the same story again, unless only the live one is a lie.
async fn output(State(hub): State<Arc<HostileHub>>, Path(id): Path<String>) -> Response {
    let items = id
        .parse()
        .ok()
        .and_then(|id: JobId| hold(&hub.people).answers.get(&id).cloned());
    match items {
        Some(items) => frames(&items),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl HostileHub {
    /// Has a job run and gives the answer, with whatever lie is told at the moment.
    async fn run(&self, job: Wire) -> Result<Vec<Item>> {
        let id = digest(&job)?;
        let approvals = Vec::new();
        match self.ask(&Request::Offer(Offer { job, approvals })).await? {
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
        let told = people.told(honest.clone());
        let stored = if people.true_store { honest } else { told.clone() };
        people.answers.insert(job_id, stored);
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
