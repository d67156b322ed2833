//! A job's input on its way to a node: one body where the link carries such, else piece by piece.
//!
//! # Invariants
//! - What goes in one piece waits for no large one: it has places of its own.
//! - In memory are two pieces of it at most, whatever its size, besides what the link holds for its window.
//! - A body that ends before its time is broken off, never ended: the node takes no part for the whole.
//! - A node that takes nothing for [`ASK`] is given up.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use lictor_link::peer::Broken;
use lictor_proto::agent::{Reply, Request, StdinPiece};
use lictor_proto::{Digest, Timestamp};
use tokio::sync::mpsc;

use super::offer::Offered;
use super::{ASK, NodeLink, PeerError};

/// Bytes read from the store at once. An input of no more goes as one piece.
pub(crate) const PIECE: u64 = 1024 * 1024;

/// The rest of an input, piece by piece as it is read.
#[derive(Debug)]
pub struct InputBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for InputBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(cx).map(|piece| {
            let piece = piece.filter(|p| p.len() as u64 <= self.left);
            let piece = piece.ok_or_else(|| Broken::from("the rest of the input does not come"));
            let frame = piece.inspect(|p| self.left -= p.len() as u64).map(Frame::data);
            Some(frame)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl NodeLink {
    /// Sends an input from this byte on, for as long as the job may still begin.
    pub(super) async fn send_stdin(
        &self,
        offered: &Offered,
        (sha256, size): (&Digest, u64),
        from: u64,
    ) -> Result<(), PeerError> {
        if size - from > PIECE {
            match self.stream_input(offered, (sha256, size), from).await {
                Err(PeerError::Unsupported) => {}
                sent => return sent,
            }
        }
        let places = match size <= PIECE {
            true => &self.small_uploads,
            false => &self.uploads,
        };
        let mut at = from;
        loop {
            let bytes = self.piece(offered, (sha256, size), at).await?;
            let end = at + bytes.len() as u64;
            let piece = StdinPiece {
                sha256: *sha256,
                at,
                last: end == size,
                bytes: bytes.to_vec(),
            };
            // Few at once: pieces that the node does not read must not fill the connection's window.
            let _upload = places.acquire().await.map_err(|_| PeerError::Gone)?;
            taken(self.peer.ask(Request::Stdin(piece)).await?)?;
            at = end;
            if at == size {
                return Ok(());
            }
        }
    }

    /// The same as one body, which the node reads as it writes it down.
    async fn stream_input(
        &self,
        offered: &Offered,
        (sha256, size): (&Digest, u64),
        from: u64,
    ) -> Result<(), PeerError> {
        let _upload = self.uploads.acquire().await.map_err(|_| PeerError::Gone)?;
        let (to, pieces) = mpsc::channel(1);
        let body = InputBody {
            pieces,
            left: size - from,
        };
        let answer = self.peer.input(sha256, from, body);
        let filling = self.fill(offered, (sha256, size), from, to);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            // Also before all of it has gone: with why it takes no more.
            reply = &mut answer => return taken(reply?),
            filled = filling => filled?,
        }
        let reply = tokio::time::timeout(ASK, answer).await;
        taken(reply.map_err(|_| PeerError::Gone)??)
    }

    async fn fill(
        &self,
        offered: &Offered,
        (sha256, size): (&Digest, u64),
        from: u64,
        to: mpsc::Sender<Bytes>,
    ) -> Result<(), PeerError> {
        let mut at = from;
        while at < size {
            let piece = self.piece(offered, (sha256, size), at).await?;
            at += piece.len() as u64;
            let sent = tokio::time::timeout(ASK, to.send(piece)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Err(PeerError::Gone);
            }
        }
        Ok(())
    }

    /// The next piece of it; none once the job can no longer begin.
    async fn piece(
        &self,
        offered: &Offered,
        (sha256, size): (&Digest, u64),
        at: u64,
    ) -> Result<Bytes, PeerError> {
        if offered.expires_at <= Timestamp::now() {
            return Err(PeerError::Expired);
        }
        let end = (at + PIECE).min(size);
        if end == at {
            return Ok(Bytes::new());
        }
        let piece = self.app.objects.stdin(&self.node.org, sha256, at..end).await;
        let piece = piece.map_err(|e| PeerError::Protocol(e.chain()))?;
        match piece.len() as u64 == end - at {
            true => Ok(piece),
            false => Err(PeerError::Protocol(
                "the store has less of the input than it said".to_owned(),
            )),
        }
    }
}

fn taken(reply: Reply) -> Result<(), PeerError> {
    match reply {
        Reply::Refused(why) => Err(PeerError::Protocol(format!("standard input: {why}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_not_filled_is_broken_off_and_not_ended() {
        let (to, pieces) = mpsc::channel(1);
        let mut body = InputBody { pieces, left: 5 };
        assert_eq!(body.size_hint().exact(), Some(5));
        to.send(Bytes::from_static(b"abc")).await.expect("room");
        drop(to);
        assert!(body.frame().await.is_some_and(|f| f.is_ok()));
        assert!(!body.is_end_stream());
        assert!(
            body.frame().await.is_some_and(|f| f.is_err()),
            "it ended as if whole"
        );
        let (to, pieces) = mpsc::channel(1);
        let mut body = InputBody { pieces, left: 2 };
        to.send(Bytes::from_static(b"abc")).await.expect("room");
        assert!(
            body.frame().await.is_some_and(|f| f.is_err()),
            "more than it said"
        );
        let (to, pieces) = mpsc::channel(1);
        let mut body = InputBody { pieces, left: 3 };
        to.send(Bytes::from_static(b"abc")).await.expect("room");
        assert!(body.frame().await.is_some_and(|f| f.is_ok()));
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}
