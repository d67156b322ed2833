//! The two bodies without an end: the warden's events, and a job's log.
//!
//! Both gather small pieces. HTTP/2 implementations close a connection on which too many DATA frames of a few
//! bytes wait unread (docs/link.md, "Small pieces"), which a program that prints a letter at a time, read by a
//! hub that is busy, would otherwise bring about.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, ReadOutput};
use lictor_proto::code::Refusal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::port::{EventFeed, WardenPort};

/// Most bytes read from the warden at once.
pub(super) const PIECE: u32 = 256 * 1024;
/// Events that wait are put together up to this many bytes.
const BATCH: usize = 64 * 1024;
/// Silence is broken this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A piece smaller than this is followed by the next one only after [`PACE`].
const SMALL: usize = 1024;
const PACE: Duration = Duration::from_millis(50);

/// What the warden says, without what was fired.
pub(super) struct WithoutFirings(pub(super) Box<dyn EventFeed>);

#[async_trait]
impl EventFeed for WithoutFirings {
    async fn next(&mut self) -> Option<Message> {
        let mut message = self.0.next().await?;
        if let Message::Event(Event::Started { firing, .. }) = &mut message {
            *firing = None;
        }
        Some(message)
    }
}

pub(super) fn events(feed: Box<dyn EventFeed>, stop: CancellationToken) -> Body {
    Body::from_stream(stream::unfold((feed, stop), async |(mut feed, stop)| {
        let batch = stop.run_until_cancelled(next_batch(feed.as_mut())).await??;
        Some((Ok::<_, Infallible>(batch), (feed, stop)))
    }))
}

async fn next_batch(feed: &mut dyn EventFeed) -> Option<Bytes> {
    let first = match tokio::time::timeout(KEEP_ALIVE, feed.next()).await {
        Ok(message) => message?,
        Err(_) => Message::KeepAlive,
    };
    let mut batch = first.encode();
    while batch.len() < BATCH {
        let Some(Some(message)) = feed.next().now_or_never() else {
            break;
        };
        batch.extend_from_slice(&message.encode());
    }
    Some(batch.into())
}

/// A log that is being read, piece by piece.
struct Log {
    port: Arc<dyn WardenPort>,
    read: ReadOutput,
    ended: bool,
    not_before: Instant,
}

/// The frames of a job's log from `read.from` on. What is there now decides whether there is a body at all.
pub(super) async fn output(port: Arc<dyn WardenPort>, read: ReadOutput) -> Result<Body, Refusal> {
    let mut log = Log {
        port,
        read,
        ended: false,
        not_before: Instant::now(),
    };
    let first = log.piece().await?;
    log.read.wait = true;
    let state = (Some(first), log);
    Ok(Body::from_stream(stream::unfold(
        state,
        async |(first, mut log)| {
            // An empty DATA frame is an offence of its own, so the first piece is left out when there is none.
            let piece = match first.filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => Ok(bytes),
                None => log.next().await?,
            };
            log.ended |= piece.is_err();
            Some((piece, (None, log)))
        },
    )))
}

impl Log {
    /// The next bytes; `None` at the log's end. A refusal half way breaks the body off, and the hub asks again.
    async fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        while !self.ended {
            tokio::time::sleep_until(self.not_before).await;
            match self.piece().await {
                Ok(bytes) if bytes.is_empty() => {}
                piece => return Some(piece),
            }
        }
        None
    }

    async fn piece(&mut self) -> Result<Bytes, Refusal> {
        let (part, bytes) = self.port.read_output(self.read).await?;
        self.read.from = part.to;
        self.ended = part.end;
        if bytes.len() < SMALL {
            self.not_before = Instant::now() + PACE;
        }
        Ok(bytes)
    }
}
