//! Poll mode: the same tracker, with orders that the node fetches and answers that it brings.
//!
//! # Invariants
//! - An order is kept until it is answered or nobody waits for its answer any more. Each time the node comes for
//!   orders it gets every one that it has not answered, so none is lost with a connection.
//! - No number of an order is used twice, not even by a hub that was started again: a late answer is nobody else's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lictor_proto::agent::{Reply, Request};
use lictor_proto::api::{PollAnswer, PollOrder, PollOrders};
use lictor_proto::{Digest, NodeId, Timestamp};
use tokio::sync::{Notify, oneshot};

use super::input::InputBody;
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
    unanswered: BTreeMap<u64, Order>,
    polled: Instant,
}

/// Something asked of the node.
struct Order {
    request: Request,
    asker: oneshot::Sender<Reply>,
}

/// What comes first. Work is last: what ends it, and the law that decides about it, must not wait behind it.
fn is_work(request: &Request) -> bool {
    matches!(request, Request::Offer(_) | Request::Stdin(_))
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
        let (asker, reply) = oneshot::channel();
        {
            let mut state = self.0.lock();
            state.forget_unasked();
            if state.unanswered.len() >= WAITING {
                return Err(PeerError::Protocol(
                    "too many orders wait for the node".to_owned(),
                ));
            }
            state.next += 1;
            let order = state.next;
            state.unanswered.insert(order, Order { request, asker });
        }
        self.0.wake.notify_one();
        // The order waits for the next poll, then for the warden.
        tokio::time::timeout(GONE + ASK, reply)
            .await
            .map_err(|_| PeerError::Gone)?
            .map_err(|_| PeerError::Gone)
    }

    async fn input(&self, _: &Digest, _: u64, _: InputBody) -> Result<Reply, PeerError> {
        // It comes with the orders, in pieces.
        Err(PeerError::Unsupported)
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
        state.forget_unasked();
        let mut bytes = 0;
        let mut orders = Vec::new();
        for work in [false, true] {
            let wanted = state.unanswered.iter();
            for (number, order) in wanted.filter(|(_, o)| is_work(&o.request) == work) {
                bytes += weight(&order.request);
                // One alone always fits: less than what a node reads.
                if orders.len() >= ORDERS || (bytes > BYTES && !orders.is_empty()) {
                    return orders;
                }
                orders.push(PollOrder {
                    order: *number,
                    request: order.request.clone(),
                });
            }
        }
        orders
    }

    /// The node's answer; one that nobody waits for any more is dropped.
    pub fn answer(&self, answer: PollAnswer) {
        let order = self.orders.lock().unanswered.remove(&answer.order);
        if let Some(order) = order {
            let _ = order.asker.send(answer.reply);
        }
    }
}

impl State {
    /// An order whose asker gave up is none any more.
    fn forget_unasked(&mut self) {
        self.unanswered.retain(|_, order| !order.asker.is_closed());
    }
}

fn weight(request: &Request) -> usize {
    match request {
        Request::Stdin(piece) => piece.bytes.len() * 4 / 3,
        Request::Law(law) => law.bundle.as_ref().map_or(0, String::len),
        Request::Offer(offer) => {
            let signed = offer.approvals.iter().chain(&offer.releases);
            let along = signed.chain(&offer.secrets).map(String::len);
            offer.job.len() + along.sum::<usize>()
        }
        _ => 1024,
    }
}

/// Beyond every number that an earlier session can have used: there are no thousand orders a second.
fn first_order() -> u64 {
    Timestamp::now().as_millis()
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
                next: first_order(),
                unanswered: BTreeMap::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::agent::Offer;

    #[test]
    fn an_offer_weighs_what_it_has_of_every_kind() {
        let some = |bytes: usize| vec!["x".repeat(bytes)];
        let offer = Offer {
            job: "x".to_owned(),
            approvals: some(10),
            releases: some(100),
            secrets: some(1000),
        };
        assert_eq!(weight(&Request::Offer(offer)), 1111);
    }
}
