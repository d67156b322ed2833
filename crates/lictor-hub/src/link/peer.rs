//! The way to ask a node: over its link, or through the orders of poll mode.

use std::pin::Pin;
use std::time::Duration;

use super::input::InputBody;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use lictor_link::LinkError;
use lictor_link::peer::{Peer, SlottedBody};
use lictor_proto::agent::{Reply, Request};
use lictor_proto::{Digest, limits};

use super::ASK;

/// An application probe must be answered within this (pings do not find a stalled connection).
const PROBE: Duration = Duration::from_secs(10);

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The link failed.
    #[error("link")]
    Link(#[from] LinkError),
    /// The node does not speak what it should.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The job expired while its input was sent.
    #[error("the job expired on its way")]
    Expired,
    /// What the node is to be told was not read.
    #[error("store: {0}")]
    Store(String),
    /// Not over this transport.
    #[error("not available over this transport")]
    Unsupported,
    /// The node did not answer in time, or is gone.
    #[error("no answer")]
    Gone,
}

/// Raw frames of a log.
pub type OutputStream = Pin<Box<dyn Stream<Item = Result<Bytes, PeerError>> + Send>>;

/// A node that can be asked.
#[async_trait]
pub trait NodePeer: Send + Sync {
    /// One question, one answer, within a deadline.
    async fn ask(&self, request: Request) -> Result<Reply, PeerError>;
    /// An input from a position to its end, as a body. Whoever fills it sees to it that it moves.
    async fn input(&self, sha256: &Digest, from: u64, body: InputBody) -> Result<Reply, PeerError>;
    /// The frames of a log from a position to its end.
    async fn output(&self, job: &Digest, from: u64) -> Result<OutputStream, PeerError>;
    /// Whether somebody waits for a slot to read a log.
    fn is_contended(&self) -> bool;
    /// Whether the node answers at all.
    async fn probe(&self) -> Result<(), PeerError>;
}

/// A node at the other end of a link.
pub(super) struct LinkPeer(pub(super) Peer);

#[async_trait]
impl NodePeer for LinkPeer {
    async fn ask(&self, request: Request) -> Result<Reply, PeerError> {
        let body = lictor_proto::json::to_vec(&request).map_err(|e| PeerError::Protocol(e.to_string()))?;
        let answer = self
            .0
            .call(Method::POST, "/v1/ask", body.into(), limits::ASK, ASK)
            .await?;
        if !answer.status.is_success() {
            return Err(PeerError::Protocol(format!("/v1/ask answered {}", answer.status)));
        }
        lictor_proto::json::from_slice(&answer.body).map_err(|e| PeerError::Protocol(e.to_string()))
    }

    async fn input(&self, sha256: &Digest, from: u64, body: InputBody) -> Result<Reply, PeerError> {
        let path = format!("/v1/input/{sha256}?from={from}");
        let answer = self.0.upload(&path, body, limits::ASK).await?;
        match answer.status {
            status if status.is_success() => {
                lictor_proto::json::from_slice(&answer.body).map_err(|e| PeerError::Protocol(e.to_string()))
            }
            // An older agent, which takes pieces only.
            StatusCode::NOT_FOUND => Err(PeerError::Unsupported),
            status => Err(PeerError::Protocol(format!("/v1/input answered {status}"))),
        }
    }

    async fn output(&self, job: &Digest, from: u64) -> Result<OutputStream, PeerError> {
        let body = self
            .0
            .stream(&format!("/v1/output/{job}?from={from}"), ASK)
            .await?;
        Ok(Box::pin(pieces(body)))
    }

    fn is_contended(&self) -> bool {
        self.0.is_contended()
    }

    async fn probe(&self) -> Result<(), PeerError> {
        Ok(self.0.probe(PROBE).await?)
    }
}

/// The data of a body, piece by piece.
pub(super) fn pieces(body: SlottedBody) -> impl Stream<Item = Result<Bytes, PeerError>> + Send {
    futures_util::stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        loop {
            match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some((Ok(data), Some(body))),
                    Err(_trailers) => {}
                },
                Err(e) => return Some((Err(LinkError::Lost(Box::new(e)).into()), None)),
            }
        }
    })
}
