//! Poll mode: the same tracker, with orders that the node fetches and answers that it brings.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lictor_proto::agent::{Reply, Request};
use lictor_proto::api::{PollAnswer, PollOrder, PollOrders};
use lictor_proto::{Digest, NodeId};
use tokio::sync::{Notify, oneshot};

use super::peer::{NodePeer, OutputStream, PeerError};
use super::tracker::serve_poll;
use super::{ASK, NodeLink};
use crate::app::App;
use crate::app::enrol::KnownNode;

/// A node that has not polled for so long is gone.
const GONE: Duration = Duration::from_secs(90);
/// Orders in one answer.
const ORDERS: usize = 64;
/// Orders that may wait for one node.
const WAITING: usize = 4096;
/// Bytes of standard input and law in one answer, roughly.
const BYTES: usize = 8 * 1024 * 1024;

/// A node that polls.
pub struct PollSession {
    /// Its tracker's handle.
    pub link: Arc<NodeLink>,
    orders: Arc<Orders>,
}

/// What waits for a polling node.
struct Orders {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    next: u64,
    waiting: VecDeque<PollOrder>,
    answers: HashMap<u64, oneshot::Sender<Reply>>,
    polled: Instant,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct PollPeer(Arc<Orders>);

#[async_trait]
impl NodePeer for PollPeer {
    async fn ask(&self, request: Request) -> Result<Reply, PeerError> {
        let (answer, reply) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.waiting.len() >= WAITING {
                return Err(PeerError::Protocol(
                    "too many orders wait for the node".to_owned(),
                ));
            }
            // Those whose askers gave up are not waited for.
            state.answers.retain(|_, asker| !asker.is_closed());
            state.next += 1;
            let order = state.next;
            state.waiting.push_back(PollOrder { order, request });
            state.answers.insert(order, answer);
        }
        self.0.wake.notify_one();
        // The order waits for the next poll, then for the warden.
        tokio::time::timeout(GONE + ASK, reply)
            .await
            .map_err(|_| PeerError::Gone)?
            .map_err(|_| PeerError::Gone)
    }

    async fn output(&self, _: &Digest, _: u64) -> Result<OutputStream, PeerError> {
        // A polling node brings its log by itself.
        Err(PeerError::Unsupported)
    }

    fn is_contended(&self) -> bool {
        false
    }

    async fn probe(&self) -> Result<(), PeerError> {
        let polled = self.0.lock().polled;
        if polled.elapsed() < GONE {
            Ok(())
        } else {
            Err(PeerError::Gone)
        }
    }
}

impl PollSession {
    /// Orders for the node, at once if there are some, else when there are or `wait` is over.
    pub async fn orders(&self, wait: Duration) -> PollOrders {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let orders = self.take();
            if !orders.is_empty() || tokio::time::Instant::now() >= deadline {
                return PollOrders { orders };
            }
            // Either way the orders are looked at once more.
            let _ = tokio::time::timeout_at(deadline, self.orders.wake.notified()).await;
        }
    }

    fn take(&self) -> Vec<PollOrder> {
        let mut state = self.orders.lock();
        state.polled = Instant::now();
        let mut bytes = 0;
        let mut orders = Vec::new();
        while orders.len() < ORDERS
            && bytes < BYTES
            && let Some(order) = state.waiting.pop_front()
        {
            bytes += weight(&order.request);
            orders.push(order);
        }
        orders
    }

    /// The node's answer; one that nobody waits for any more is dropped.
    pub fn answer(&self, answer: PollAnswer) {
        let waiting = self.orders.lock().answers.remove(&answer.order);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer.reply);
        }
    }
}

fn weight(request: &Request) -> usize {
    match request {
        Request::Stdin(piece) => piece.bytes.len() * 4 / 3,
        Request::Law(law) => law.bundle.as_ref().map_or(0, String::len),
        Request::Offer(offer) => offer.job.len(),
        _ => 1024,
    }
}

/// Nodes that poll.
#[derive(Default)]
pub struct PollBook(Mutex<HashMap<NodeId, Arc<PollSession>>>);

impl PollBook {
    /// The node's session, begun if there is none.
    pub fn session(&self, app: &Arc<App>, node: KnownNode) -> Arc<PollSession> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.retain(|_, s| !s.link.stop.is_cancelled());
        if let Some(session) = book.get(&node.node_id) {
            session.orders.lock().polled = Instant::now();
            return session.clone();
        }
        let orders = Arc::new(Orders {
            state: Mutex::new(State {
                next: 0,
                waiting: VecDeque::new(),
                answers: HashMap::new(),
                polled: Instant::now(),
            }),
            wake: Notify::new(),
        });
        let node_id = node.node_id.clone();
        let link = serve_poll(app, node, Arc::new(PollPeer(orders.clone())));
        let session = Arc::new(PollSession { link, orders });
        book.insert(node_id, session.clone());
        session
    }
}
