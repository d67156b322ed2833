//! The owner of one node's link: reads what the node says, and hands each execution's part to its own task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use lictor_audit::{Event, EventType};
use lictor_link::LinkError;
use lictor_link::peer::{Peer, SlottedBody};
use lictor_proto::agent::stream::{Decoder, Message};
use lictor_proto::agent::{Event as Said, Finished, Heartbeat};
use lictor_proto::api::{ExecutionState, LogStored, StartedReport};
use lictor_proto::{Digest, JobId, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::cancels::Ended;
use super::execution::{self, Part, Told};
use super::offer::{AGAIN_FIRST, AGAIN_LAST, Offered};
use super::peer::{LinkPeer, NodePeer, PeerError, pieces};
use super::{ASK, NodeLink};
use crate::app::enrol::KnownNode;
use crate::app::{App, Error};
use crate::relay::splitter::Place;
use crate::store::Pending;

/// How often the node is probed.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Executions of one node that may be under way; more is no honest agent.
const EXECUTIONS: usize = 16 * 1024;

/// What reaches the tracker besides the link's own stream.
pub(crate) enum Mail {
    /// What a polling node says about itself.
    Heartbeat(Box<Heartbeat>),
    /// An execution started.
    Started { job: JobId, report: StartedReport },
    /// A piece of a log; answered with how far the log is stored.
    Log {
        job: JobId,
        at: u64,
        frames: Bytes,
        stored: oneshot::Sender<LogStored>,
    },
    /// A piece of a kept part of a log that has ended, which nobody follows any more.
    Kept {
        job: JobId,
        at: Place,
        frames: Bytes,
        stored: oneshot::Sender<LogStored>,
    },
    /// A result; answered when it is stored.
    Result {
        finished: Box<Finished>,
        told: oneshot::Sender<Told>,
    },
}

/// Serves a link over a byte stream whose other end proved to be `node`, from when it is there until it ends.
///
/// # Errors
/// When there is no stream, the other side speaks no HTTP/2, or gives no events.
pub async fn serve_link<IO>(
    app: &Arc<App>,
    node: KnownNode,
    io: impl Future<Output = Result<IO, LinkError>> + Send,
) -> Result<(), PeerError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // In a box of its own, so that what only the start needs is not held for as long as the link lives.
    let (link, feed, letters) = Box::pin(start_link(app, node, io)).await?;
    run(link, feed, letters).await;
    Ok(())
}

async fn start_link<IO>(
    app: &Arc<App>,
    node: KnownNode,
    io: impl Future<Output = Result<IO, LinkError>> + Send,
) -> Result<(Arc<NodeLink>, Feed, Letters), PeerError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (peer, driver) = Peer::start(io.await?, &app.tasks).await?;
    let (mail, letters) = mpsc::channel(16);
    let link = NodeLink::new(app, node, Arc::new(LinkPeer(peer.clone())), mail);
    let ended = link.stop.clone();
    app.tasks.spawn(async move {
        if let Err(e) = driver.await {
            tracing::debug!(error = %e.chain(), "link ended");
        }
        ended.cancel();
    });
    let events = peer.events(ASK).await?;
    Ok((link, Box::pin(messages(events)), letters))
}

/// Starts a tracker for a node without a link (poll mode).
pub(crate) fn serve_poll(app: &Arc<App>, node: KnownNode, peer: Arc<dyn NodePeer>) -> Arc<NodeLink> {
    let (mail, letters) = mpsc::channel(64);
    let link = NodeLink::new(app, node, peer, mail);
    let running = link.clone();
    app.tasks
        .spawn(async move { run(running, Box::pin(futures_util::stream::pending()), letters).await });
    link
}

/// Boxed, because a channel has room for some dozen messages from the start on, and of a node with a link none comes.
type Letters = mpsc::Receiver<Box<Mail>>;
type Feed = std::pin::Pin<Box<dyn Stream<Item = Result<Message, PeerError>> + Send>>;

fn messages(body: SlottedBody) -> impl Stream<Item = Result<Message, PeerError>> + Send {
    let start = (Box::pin(pieces(body)), Decoder::default());
    futures_util::stream::unfold(start, |(mut body, mut decoder)| async move {
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => return Some((Ok(message), (body, decoder))),
                Ok(None) => {}
                Err(e) => return Some((Err(PeerError::Protocol(e.to_string())), (body, decoder))),
            }
            match body.next().await? {
                Ok(piece) => decoder.push(&piece),
                Err(e) => return Some((Err(e), (body, decoder))),
            }
        }
    })
}

async fn run(link: Arc<NodeLink>, feed: Feed, letters: Letters) {
    let app = link.app.clone();
    app.links.enter(&link);
    metrics::gauge!("lictor_hub_nodes_connected").set(app.links.len() as f64);
    let named = |kind| Event::new(kind).with_id("node_id", &link.node.node_id);
    app.note(Some(&link.node.org), named(EventType::NodeConnected))
        .await;
    let mut tracker = Tracker {
        link: link.clone(),
        executions: HashMap::new(),
        begun: false,
    };
    if let Err(e) = tracker.serve(feed, letters).await {
        tracing::info!(node = %link.node.node_id, error = %e, "the link ended");
    }
    link.stop.cancel();
    app.links.leave(&link);
    metrics::gauge!("lictor_hub_nodes_connected").set(app.links.len() as f64);
    app.note(Some(&link.node.org), named(EventType::NodeDisconnected))
        .await;
}

struct Tracker {
    link: Arc<NodeLink>,
    executions: HashMap<JobId, mpsc::Sender<Part>>,
    begun: bool,
}

impl Tracker {
    async fn serve(&mut self, mut feed: Feed, mut letters: Letters) -> Result<(), PeerError> {
        let org = self
            .link
            .app
            .orgs
            .get(&self.link.node.org)
            .ok_or(PeerError::Gone)?;
        let mut law = org.watch_docs();
        let mut probe = tokio::time::interval(PROBE_EVERY);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.link.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                said = feed.next() => match said {
                    Some(message) => self.take(message?).await?,
                    None => return Ok(()),
                },
                Some(letter) = letters.recv() => self.open(*letter).await?,
                Ok(()) = law.changed() => self.law_changed(),
                _ = probe.tick() => self.probe(),
            }
        }
    }

    async fn open(&mut self, letter: Mail) -> Result<(), PeerError> {
        match letter {
            Mail::Heartbeat(beat) => {
                self.heartbeat(*beat);
                Ok(())
            }
            Mail::Started { job, report } => self.give(job, Part::Started(report)).await,
            Mail::Log {
                job,
                at,
                frames,
                stored,
            } => {
                let part = Part::Output {
                    job: None,
                    at,
                    frames,
                    stored: Some(stored),
                };
                self.give(job, part).await
            }
            Mail::Kept {
                job,
                at,
                frames,
                stored,
            } => self.give(job, Part::Kept { at, frames, stored }).await,
            Mail::Result { finished, told } => {
                let job = JobId::from_digest(&finished.job);
                self.give(job, Part::Finished(finished, Some(told))).await
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), PeerError> {
        match message {
            Message::KeepAlive => Ok(()),
            Message::Output { job, at, frames } => {
                let key = id(&job);
                let part = Part::Output {
                    job: Some(job),
                    at,
                    frames,
                    stored: None,
                };
                self.give(key, part).await
            }
            Message::Event(Said::Started { job, at, firing }) => {
                let report = StartedReport { at, firing };
                self.give(id(&job), Part::Started(report)).await
            }
            Message::Event(Said::OutputWaiting { job, from }) => {
                self.give(id(&job), Part::Waiting(job, from)).await
            }
            Message::Event(Said::Finished(f)) => self.give(id(&f.job), Part::Finished(f, None)).await,
            Message::Event(Said::Heartbeat(beat)) => {
                if beat.node_id != self.link.node.node_id || beat.org != self.link.node.org {
                    return Err(PeerError::Protocol("a heartbeat of another node".to_owned()));
                }
                self.heartbeat(*beat);
                Ok(())
            }
        }
    }

    fn heartbeat(&mut self, beat: Heartbeat) {
        *self.link.held() = Some(beat.law.clone());
        let first = !std::mem::replace(&mut self.begun, true);
        let link = self.link.clone();
        self.link.spawn(async move {
            link.seen(Some(beat)).await;
            if let Err(e) = link.push_law().await {
                tracing::debug!(node = %link.node.node_id, error = %e, "law not pushed");
            }
            if first {
                begin(&link).await;
            }
        });
    }

    /// A node that the law no longer knows loses its link; the others get the law.
    fn law_changed(&self) {
        let link = self.link.clone();
        self.link.spawn(async move {
            if let Err(Error::Refused(why)) = link.app.still_stands(&link.node).await {
                tracing::info!(node = %link.node.node_id, %why, "the node does not stand any more; its link is ended");
                link.stop.cancel();
                return;
            }
            if let Err(e) = link.push_law().await {
                tracing::debug!(node = %link.node.node_id, error = %e, "law not pushed");
            }
        });
    }

    fn probe(&mut self) {
        self.executions.retain(|_, parts| !parts.is_closed());
        let link = self.link.clone();
        self.link.spawn(async move {
            match link.peer.probe().await {
                Ok(()) => {}
                Err(e) => {
                    tracing::info!(node = %link.node.node_id, error = %e, "the node does not answer; its link is ended");
                    link.stop.cancel();
                }
            }
        });
    }

    /// Gives a part to its execution's task; a task that ended had its result stored, so a new one starts.
    async fn give(&mut self, job: JobId, mut part: Part) -> Result<(), PeerError> {
        if let Some(parts) = self.executions.get(&job) {
            match parts.send(part).await {
                Ok(()) => return Ok(()),
                Err(back) => part = back.0,
            }
        }
        if self.executions.len() >= EXECUTIONS {
            return Err(PeerError::Protocol("too many executions at once".to_owned()));
        }
        let parts = execution::start(&self.link, &job);
        parts.send(part).await.map_err(|_| PeerError::Gone)?;
        self.executions.insert(job, parts);
        Ok(())
    }
}

fn id(job: &Digest) -> JobId {
    JobId::from_digest(job)
}

/// What waits for a node that has come: of each job its cancels first, then the offer. What fails is tried again
/// while the link lives, and holds up nothing else. In memory are rows, and the documents of one job when its turn comes.
async fn begin(link: &Arc<NodeLink>) {
    let mut again = AGAIN_FIRST;
    let mut waiting = loop {
        match link.app.store.pending(&link.node.org, &link.node.node_id).await {
            Ok(waiting) => break waiting,
            Err(e) => {
                tracing::error!(node = %link.node.node_id, error = %Error::from(e).chain(), "what waits for the node was not read")
            }
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_LAST);
    };
    loop {
        let mut untold = Vec::new();
        for job in waiting {
            match begin_one(link, &job).await {
                Ok(true) => link.offer(Offered::waiting(
                    &job,
                    link.app.live.enter(&link.key(&job.job_id)),
                )),
                Ok(false) => {}
                Err(e) => {
                    tracing::debug!(job = %job.job_id, error = %e, "a cancel was not told");
                    untold.push(job);
                }
            }
        }
        if untold.is_empty() {
            return;
        }
        waiting = untold;
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_LAST);
    }
}

/// Tells the node what was cancelled; whether the job is to be offered then.
async fn begin_one(link: &Arc<NodeLink>, job: &Pending) -> Result<bool, PeerError> {
    let awaits = matches!(
        job.state,
        ExecutionState::AwaitingApproval | ExecutionState::AwaitingRelease
    );
    let mut is_signed = false;
    if job.has_cancels || (awaits && job.is_signed) {
        let papers = link.app.store.papers(&link.key(&job.job_id)).await;
        let Some(papers) = papers.map_err(|e| PeerError::Store(Error::from(e).chain()))? else {
            return Ok(false);
        };
        is_signed = !papers.approvals.is_empty() || !papers.releases.is_empty();
        if let Ended::Yes = link.cancel_pending(papers).await? {
            // Its receipt follows as an event.
            return Ok(false);
        }
    }
    let is_due = match job.state {
        ExecutionState::Queued | ExecutionState::Leased => true,
        _ => awaits && is_signed,
    };
    Ok(is_due && job.origin.is_some() && job.expires_at > Timestamp::now())
}

/// Sends to the tracker, for poll mode.
impl NodeLink {
    pub(crate) async fn post(&self, mail: Mail) -> Result<(), PeerError> {
        self.mail.send(Box::new(mail)).await.map_err(|_| PeerError::Gone)
    }
}
