//! Followers' streams: frames as they are (HTTP body), or as JSON over WebSocket and SSE.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, SelectAll, StreamExt as _};
use futures_util::{SinkExt as _, Stream};
use lictor_link::ws::{Message, upgrade};
use lictor_proto::api::{FRAMES, FollowJob, Problem, StreamEvent, StreamFrame};
use lictor_proto::frame::{Frame, FrameDecoder, FrameKind};
use lictor_proto::{Code, JobId, NodeId, limits};
use serde::Deserialize;

use super::Api;
use super::auth::{Auth, ReadAuth};
use super::page::{known, parsed, read_json};
use super::problem::Trouble;
use crate::relay::{Follower, Out};

/// Where a stream starts, and whose it is.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StreamQuery {
    from: u64,
    node: Option<String>,
    follow: bool,
}

impl Default for StreamQuery {
    fn default() -> Self {
        Self {
            from: 0,
            node: None,
            follow: true,
        }
    }
}

/// A job's events and output, everything kept from `from` (a log position) on, then live. As WebSocket or SSE the
/// frames are JSON (`StreamFrame`); with `Accept: application/vnd.lictor.frames` they are the log's own.
///
/// Log positions count per node, so `from` of a job on several nodes goes with `node`. Without `node` the stream has
/// all of them, side by side: each JSON frame names its node, and before the log's own frames of another node than
/// the last comes an event `from` that says whose they are.
#[utoipa::path(get, path = "/api/v1/stream/{id}", tag = "jobs",
    params(("id" = String, Path), ("from" = Option<u64>, Query), ("node" = Option<String>, Query),
           ("follow" = Option<bool>, Query)),
    responses((status = 200, description = "the stream; each event's data is a StreamFrame", body = StreamFrame, content_type = "text/event-stream"),
              (status = 101, description = "WebSocket"), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    Query(query): Query<StreamQuery>,
    mut request: Request,
) -> Result<Response, Trouble> {
    let id: JobId = known(&id)?;
    let followers = follow(&api, &caller, &id, &query).await?;
    if request.headers().contains_key(header::UPGRADE) {
        let (response, socket) =
            upgrade(&mut request).map_err(|e| Trouble::new(Code::BadRequest, e.to_string()))?;
        let stop = api.app.stop.clone();
        api.app.tasks.spawn(async move {
            let served = async {
                let mut socket = socket.socket().await.map_err(|e| e.to_string())?;
                let mut frames = Box::pin(json_frames(id, followers));
                while let Some(frame) = frames.next().await {
                    let sent = socket.send(Message::Text(frame.into())).await;
                    sent.map_err(|e| e.to_string())?;
                }
                socket.close(None).await.map_err(|e| e.to_string())
            };
            if let Some(Err(e)) = stop.run_until_cancelled(served).await {
                tracing::debug!(error = e, "a follower's WebSocket ended");
            }
        });
        return Ok(response.map(|_empty| Body::empty()));
    }
    if wants_frames(request.headers()) {
        return Ok(frames_body(followers));
    }
    let lines =
        json_frames(id, followers).map(|json| Ok::<_, Infallible>(Bytes::from(format!("data: {json}\n\n"))));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// A job's log as frames: what is kept, and unless `follow=false` what is to come. Of a job on several nodes, of all
/// of them (see `/api/v1/stream/{id}`), or of `node`.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/output", tag = "jobs",
    params(("id" = String, Path), ("from" = Option<u64>, Query), ("node" = Option<String>, Query),
           ("follow" = Option<bool>, Query)),
    responses((status = 200, description = "frames", content_type = "application/vnd.lictor.frames"),
              (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn output(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Trouble> {
    let followers = follow(&api, &caller, &known(&id)?, &query).await?;
    Ok(frames_body(followers))
}

async fn follow(
    api: &Arc<Api>,
    caller: &crate::app::Caller,
    id: &JobId,
    query: &StreamQuery,
) -> Result<Vec<Follower>, Trouble> {
    let node = parsed("node", query.node.as_deref())?;
    let place = (query.from, query.follow);
    Ok(api.app.follow(caller, id, node.as_ref(), place).await?)
}

/// Go on following some of a job's nodes, each from its own log position, as frames: after a lost connection, say.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/follow", tag = "jobs", params(("id" = String, Path)),
    request_body(content = FollowJob, description = "whom, from where"),
    responses((status = 200, description = "frames", content_type = "application/vnd.lictor.frames"),
              (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn follow_each(
    State(api): State<Arc<Api>>,
    ReadAuth(caller): ReadAuth,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Trouble> {
    let wanted: FollowJob = read_json(body, limits::ENVELOPE).await?;
    let id = known(&id)?;
    let followers = api
        .app
        .follow_each(&caller, &id, wanted.nodes, wanted.follow)
        .await?;
    Ok(frames_body(followers))
}

fn wants_frames(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|a| a == FRAMES)
}

/// Whatever the followers of a job see, as it comes, each with whose it is, until the hub stops.
///
/// They are asked in turns: one that always has something does not keep the others waiting, and one that has nothing
/// is not asked.
fn merged(followers: Vec<Follower>) -> impl Stream<Item = (NodeId, Out)> + Send {
    let one = |follower: Follower| {
        stream::unfold(follower, |mut f| async move {
            let out = f.next().await?;
            Some(((f.node_id().clone(), out), f))
        })
        .boxed()
    };
    let stop = followers.first().map(Follower::stop).unwrap_or_default();
    let all = followers.into_iter().map(one).collect::<SelectAll<_>>();
    all.take_until(async move { stop.cancelled().await })
}

/// An answer whose body is the followers' frames.
pub(super) fn frames_body(followers: Vec<Follower>) -> Response {
    let several = followers.len() > 1;
    let mut last = None;
    let parts = merged(followers).flat_map(move |(node_id, out)| {
        let mut parts: Vec<_> = Vec::new();
        if several && !matches!(out, Out::KeepAlive) && last.as_ref() != Some(&node_id) {
            last = Some(node_id.clone());
            let from = Out::Event(Arc::new(StreamEvent::From { node_id }));
            parts.extend(from.into_parts().iter().cloned());
        }
        parts.extend(out.into_parts().iter().cloned());
        stream::iter(parts.into_iter().map(Ok::<_, Infallible>))
    });
    let mut response = Body::from_stream(parts).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAMES));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The followers' frames as JSON.
fn json_frames(job_id: JobId, followers: Vec<Follower>) -> impl Stream<Item = String> + Send {
    let open = followers.len();
    let start = (Box::pin(merged(followers)), Writer::new(job_id, open), Vec::new());
    stream::unfold(start, |(mut outs, mut writer, mut ready)| async move {
        loop {
            if let Some(line) = ready.pop() {
                return Some((line, (outs, writer, ready)));
            }
            let (node_id, out) = outs.next().await?;
            ready = writer.write(&node_id, out);
            ready.reverse();
        }
    })
}

struct Writer {
    job_id: JobId,
    seq: u64,
    /// Executions whose last event has not been written.
    open: usize,
}

impl Writer {
    fn new(job_id: JobId, open: usize) -> Self {
        Self { job_id, seq: 0, open }
    }

    fn write(&mut self, node_id: &NodeId, out: Out) -> Vec<String> {
        if let Out::Event(event) = &out
            && is_last(event)
        {
            self.open = self.open.saturating_sub(1);
        }
        let is_final = self.open == 0;
        // The relay lets only whole, well-formed frames through.
        let mut decoder = FrameDecoder::default();
        for part in out.into_parts().iter() {
            decoder.push(part);
        }
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = decoder.next_frame() {
            lines.push(self.line(node_id, &frame, is_final));
        }
        lines
    }

    fn line(&mut self, node_id: &NodeId, frame: &Frame, is_final: bool) -> String {
        let (stream, data, base64) = match frame.kind {
            FrameKind::Stdout => text("stdout", &frame.payload),
            FrameKind::Stderr => text("stderr", &frame.payload),
            FrameKind::Gap => json("gap", &frame.payload),
            FrameKind::Event => json("event", &frame.payload),
            FrameKind::Egress => json("egress", &frame.payload),
            FrameKind::KeepAlive => ("event", serde_json::json!({ "event": "keep_alive" }), None),
        };
        let line = StreamFrame {
            job_id: self.job_id.clone(),
            node_id: node_id.clone(),
            seq: self.seq,
            timestamp: frame.time,
            stream: stream.to_owned(),
            data,
            base64,
            is_final,
        };
        self.seq += 1;
        serde_json::to_string(&line).unwrap_or_default()
    }
}

fn is_last(event: &StreamEvent) -> bool {
    match event {
        StreamEvent::Receipt { .. } => true,
        StreamEvent::State { state, .. } => state.is_final(),
        _ => false,
    }
}

type Said = (&'static str, serde_json::Value, Option<String>);

fn text(stream: &'static str, payload: &[u8]) -> Said {
    match std::str::from_utf8(payload) {
        Ok(s) => (stream, s.into(), None),
        Err(_) => {
            let lossy = String::from_utf8_lossy(payload).into_owned();
            (
                stream,
                lossy.into(),
                Some(lictor_proto::json::encode_base64(payload)),
            )
        }
    }
}

fn json(stream: &'static str, payload: &[u8]) -> Said {
    (stream, serde_json::from_slice(payload).unwrap_or_default(), None)
}
