//! The stream over which the log of an execution is read while it runs.
//!
//! ```text
//!   Closed --want--> Opening --> Open --log ends--> Closed
//!                       ^         |
//!                       +---------+  broken (after a pause), or its turn is over and others wait for a slot
//! ```
//!
//! # Invariants
//! - A log that may go on is read on, however long its job is silent.
//! - A link has a bounded number of slots for such streams ([`lictor_link::h2::BODY_STREAMS`]). With more jobs than
//!   slots everybody gets a turn, first come, first served.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lictor_link::LinkError;
use lictor_proto::Digest;
use tokio::time::Instant;

use crate::link::PeerError;
use crate::link::peer::{NodePeer, OutputStream};
use crate::relay::splitter::Place;

/// A slot is held so long when others wait for one.
const TURN: Duration = Duration::from_secs(5);
/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<OutputStream, PeerError>> + Send>>;

/// What reading brings.
pub(super) enum Read {
    /// Bytes come from here on: the log's, from a frame border.
    From(Place),
    /// Bytes of the log.
    Piece(Bytes),
    /// It is closed, as others wait for a slot; to be wanted again.
    Yielded,
    /// The stream broke; to be wanted again, in case the link lives.
    Broken,
    /// The log has ended, or the node does not give it.
    Ended,
}

/// One log, read or not.
pub(super) struct Reading {
    peer: Arc<dyn NodePeer>,
    state: State,
}

enum State {
    Closed,
    Opening(Place, Opening),
    Open(OutputStream, Instant),
}

impl Reading {
    /// Not read yet.
    pub(super) fn closed(peer: Arc<dyn NodePeer>) -> Self {
        Self {
            peer,
            state: State::Closed,
        }
    }

    /// Whether it is being read, or about to be.
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// Opens it at this place.
    pub(super) fn want(&mut self, job: Digest, place: Place) {
        self.open_after(Duration::ZERO, job, place);
    }

    /// Opens it again at this place, after a pause: it broke a moment ago.
    pub(super) fn want_again(&mut self, job: Digest, place: Place) {
        self.open_after(PAUSE, job, place);
    }

    fn open_after(&mut self, pause: Duration, job: Digest, place: Place) {
        let peer = self.peer.clone();
        let opening = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            loop {
                match peer.output(&job, place.at).await {
                    // Every slot is taken; the next try queues again.
                    Err(PeerError::Link(LinkError::Timeout(_))) => {}
                    done => return done,
                }
            }
        };
        self.state = State::Opening(place, Box::pin(opening));
    }

    /// Gives the slot back.
    pub(super) fn close(&mut self) {
        self.state = State::Closed;
    }

    /// What comes next; never, while it is closed. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Read {
        match &mut self.state {
            State::Closed => std::future::pending().await,
            State::Opening(place, opening) => {
                let place = *place;
                match opening.await {
                    Ok(stream) => {
                        self.state = State::Open(stream, Instant::now() + TURN);
                        Read::From(place)
                    }
                    Err(e) => {
                        tracing::info!(error = %e, "a log could not be opened");
                        self.state = State::Closed;
                        Read::Ended
                    }
                }
            }
            State::Open(stream, turn) => {
                let read = next_of(stream, turn, self.peer.as_ref()).await;
                if !matches!(read, Read::Piece(_)) {
                    self.state = State::Closed;
                }
                read
            }
        }
    }
}

async fn next_of(stream: &mut OutputStream, turn: &mut Instant, peer: &dyn NodePeer) -> Read {
    loop {
        if Instant::now() >= *turn {
            *turn = Instant::now() + TURN;
            if peer.is_contended() {
                return Read::Yielded;
            }
        }
        let Ok(piece) = tokio::time::timeout_at(*turn, stream.next()).await else {
            continue;
        };
        return match piece {
            Some(Ok(piece)) => Read::Piece(piece),
            Some(Err(e)) => {
                tracing::debug!(error = %e, "a log stream broke");
                Read::Broken
            }
            None => Read::Ended,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use lictor_proto::agent::{Reply, Request};
    use tokio::sync::{Mutex, mpsc};

    use super::*;
    use crate::link::input::InputBody;

    type Pieces = mpsc::Receiver<Result<Bytes, PeerError>>;

    /// A node whose log streams the test feeds, one after the other.
    struct Node {
        streams: Mutex<mpsc::Receiver<Pieces>>,
        contended: AtomicBool,
    }

    #[async_trait]
    impl NodePeer for Node {
        async fn ask(&self, _: Request) -> Result<Reply, PeerError> {
            Err(PeerError::Unsupported)
        }

        async fn input(&self, _: &Digest, _: u64, _: InputBody) -> Result<Reply, PeerError> {
            Err(PeerError::Unsupported)
        }

        async fn output(&self, _: &Digest, _: u64) -> Result<OutputStream, PeerError> {
            let pieces = self.streams.lock().await.recv().await.ok_or(PeerError::Gone)?;
            Ok(Box::pin(futures_util::stream::unfold(
                pieces,
                |mut pieces| async { Some((pieces.recv().await?, pieces)) },
            )))
        }

        fn is_contended(&self) -> bool {
            self.contended.load(Ordering::Relaxed)
        }

        async fn probe(&self) -> Result<(), PeerError> {
            Ok(())
        }
    }

    struct Scene {
        node: Arc<Node>,
        reading: Reading,
        streams: mpsc::Sender<Pieces>,
    }

    impl Scene {
        /// A log that is being read, and the end where its bytes go in.
        async fn start() -> (Self, mpsc::Sender<Result<Bytes, PeerError>>) {
            let (streams, waiting) = mpsc::channel(4);
            let node = Arc::new(Node {
                streams: Mutex::new(waiting),
                contended: AtomicBool::new(false),
            });
            let mut scene = Self {
                reading: Reading::closed(node.clone()),
                node,
                streams,
            };
            scene.reading.want(Digest::of(b"job"), Place::default());
            let pieces = scene.stream().await;
            assert!(matches!(scene.reading.next().await, Read::From(_)));
            (scene, pieces)
        }

        async fn stream(&self) -> mpsc::Sender<Result<Bytes, PeerError>> {
            let (into, pieces) = mpsc::channel(4);
            self.streams.send(pieces).await.expect("the node is there");
            into
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_was_silent_for_an_hour_is_still_read() {
        let (mut scene, pieces) = Scene::start().await;
        let late = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            pieces
                .send(Ok(Bytes::from_static(b"still here")))
                .await
                .expect("read");
        };
        let (read, ()) = tokio::join!(scene.reading.next(), late);
        assert!(matches!(read, Read::Piece(bytes) if bytes == "still here"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_stream_gives_its_slot_back_when_others_wait() {
        let (mut scene, pieces) = Scene::start().await;
        scene.node.contended.store(true, Ordering::Relaxed);
        let busy = async {
            while pieces.send(Ok(Bytes::from_static(b"more"))).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let read = async {
            loop {
                match scene.reading.next().await {
                    Read::Piece(_) => {}
                    other => break other,
                }
            }
        };
        let (read, ()) = tokio::join!(read, busy);
        assert!(matches!(read, Read::Yielded));
        assert!(!scene.reading.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_is_opened_again() {
        let (mut scene, pieces) = Scene::start().await;
        pieces.send(Err(PeerError::Gone)).await.expect("read");
        assert!(matches!(scene.reading.next().await, Read::Broken));
        let place = Place {
            at: 100,
            ..Place::default()
        };
        scene.reading.want_again(Digest::of(b"job"), place);
        let again = scene.stream().await;
        assert!(matches!(scene.reading.next().await, Read::From(at) if at == place));
        drop(again);
        assert!(matches!(scene.reading.next().await, Read::Ended));
    }
}
