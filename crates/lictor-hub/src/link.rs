//! Connected nodes: one owner task each, whatever transport it came by.
//!
//! ```text
//!   tracker  reads events, keeps one task per execution, probes, watches the law   (link/tracker.rs)
//!   input    a job's input on its way to a node                                    (link/input.rs)
//!   offers   one task per offer: stdin, offer, again later if the node says so     (link/offer.rs)
//!   cancels  told until the node has answered                                      (link/cancels.rs)
//!   papers   the documents that go along, while they are in memory                 (link/papers.rs)
//!   execution  relays output, stores it, records the result, acknowledges          (link/execution.rs)
//! ```
//!
//! # Invariants
//! - A newer link of a node replaces the older; of one node, one link is in the book.
//! - The end of a link ends no job: what it worked on stays with the node, which says it all again.

mod cancels;
pub mod execution;
pub mod input;
pub mod offer;
pub mod papers;
pub mod peer;
pub mod poll;
pub mod tracker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lictor_link::h2::{SMALL_UPLOADS, UPLOADS};
use lictor_proto::agent::{Heartbeat, LawDocs, LawHeld, Reply, Request};
use lictor_proto::{JobId, NodeId, OrgId, Timestamp};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::app::enrol::KnownNode;
use crate::app::{App, Error};
use crate::store::ExecutionKey;

pub use offer::Offered;
pub use papers::Signed;
pub use peer::{NodePeer, PeerError};

/// Offers under way to one node.
const OFFERS: usize = 48;
/// And of jobs with an input that may take long to go: they keep none of the others waiting.
const LARGE_OFFERS: usize = UPLOADS;

/// A connected node.
pub struct NodeLink {
    app: Arc<App>,
    /// Who it is.
    pub node: KnownNode,
    peer: Arc<dyn NodePeer>,
    offers: Semaphore,
    large_offers: Semaphore,
    reading: papers::Reading,
    /// Inputs of jobs under way.
    uploads: Semaphore,
    /// And those that go in one piece.
    small_uploads: Semaphore,
    held: Mutex<Option<LawHeld>>,
    mail: mpsc::Sender<Box<tracker::Mail>>,
    /// Ends the link.
    pub stop: CancellationToken,
}

impl NodeLink {
    fn new(
        app: &Arc<App>,
        node: KnownNode,
        peer: Arc<dyn NodePeer>,
        mail: mpsc::Sender<Box<tracker::Mail>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            app: app.clone(),
            node,
            peer,
            offers: Semaphore::new(OFFERS),
            large_offers: Semaphore::new(LARGE_OFFERS),
            reading: papers::Reading::default(),
            uploads: Semaphore::new(UPLOADS),
            small_uploads: Semaphore::new(SMALL_UPLOADS),
            held: Mutex::default(),
            mail,
            stop: app.stop.child_token(),
        })
    }

    /// Asks the node something, without waiting for the answer.
    pub fn tell(self: &Arc<Self>, request: Request) {
        let link = self.clone();
        self.spawn(async move {
            match link.peer.ask(request).await {
                Ok(Reply::Refused(why)) => {
                    tracing::info!(node = %link.node.node_id, %why, "the node refused")
                }
                Ok(_) => {}
                Err(e) => tracing::debug!(node = %link.node.node_id, error = %e, "not told"),
            }
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.app.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    fn key(&self, job: &JobId) -> ExecutionKey {
        ExecutionKey {
            org: self.node.org.clone(),
            job_id: job.clone(),
            node_id: self.node.node_id.clone(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<LawHeld>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node was heard of.
    pub(crate) async fn seen(&self, beat: Option<Heartbeat>) {
        if let Some(beat) = &beat {
            *self.held() = Some(beat.law.clone());
        }
        let lease = Timestamp::now().plus(self.app.times.lease);
        let (org, node) = (&self.node.org, &self.node.node_id);
        if let Err(e) = self.app.store.seen(org, node, beat, lease).await {
            tracing::error!(error = %Error::from(e).chain(), %node, "a heartbeat was not stored");
        }
    }

    /// Pushes what the node lacks of the law.
    pub(crate) async fn push_law(&self) -> Result<(), PeerError> {
        let Some(org) = self.app.orgs.get(&self.node.org) else {
            return Ok(());
        };
        let docs = org.watch_docs().borrow().clone();
        let ours = org.with(|t| t.law_held(Timestamp::now()));
        let theirs = self.held().clone();
        let Some(newer) = newer(&docs, &ours, theirs.as_ref()) else {
            return Ok(());
        };
        if let Reply::Law(held) = self.peer.ask(Request::Law(newer)).await? {
            *self.held() = Some(held);
        }
        Ok(())
    }
}

/// What of `docs` a node lacks that holds `theirs`.
fn newer(docs: &LawDocs, ours: &LawHeld, theirs: Option<&LawHeld>) -> Option<LawDocs> {
    let Some(theirs) = theirs else {
        return Some(docs.clone());
    };
    let known_roots = usize::try_from(theirs.root)
        .unwrap_or(usize::MAX)
        .min(docs.roots.len());
    let newer = LawDocs {
        roots: docs.roots[known_roots..].to_vec(),
        bundle: docs.bundle.clone().filter(|_| ours.bundle > theirs.bundle),
        freshness: docs
            .freshness
            .clone()
            .filter(|_| ours.freshness > theirs.freshness),
        revocations: if ours.revocations > theirs.revocations {
            docs.revocations.clone()
        } else {
            Vec::new()
        },
    };
    (newer != LawDocs::default()).then_some(newer)
}

/// All connected nodes.
#[derive(Default)]
pub struct Registry {
    links: Mutex<HashMap<NodeId, Arc<NodeLink>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<NodeLink>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link of a node of this org.
    pub fn get(&self, org: &OrgId, node: &NodeId) -> Option<Arc<NodeLink>> {
        self.lock().get(node).filter(|l| l.node.org == *org).cloned()
    }

    /// How many nodes are connected.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Puts a link in; the node's former one ends.
    fn enter(&self, link: &Arc<NodeLink>) {
        let before = self.lock().insert(link.node.node_id.clone(), link.clone());
        if let Some(old) = before {
            tracing::info!(node = %old.node.node_id, "a newer link replaces the older");
            old.stop.cancel();
        }
    }

    /// Takes a link out, unless a newer one stands in its place; says whether the node is gone.
    fn leave(&self, link: &Arc<NodeLink>) -> bool {
        let mut links = self.lock();
        let mine = links
            .get(&link.node.node_id)
            .is_some_and(|l| Arc::ptr_eq(l, link));
        if mine {
            links.remove(&link.node.node_id);
        }
        mine
    }
}

/// How long a small question to a node may take.
pub(crate) const ASK: Duration = Duration::from_secs(30);
