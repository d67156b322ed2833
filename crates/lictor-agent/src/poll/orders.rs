//! What the hub wants: heartbeat, long poll, ask the warden, answer.
//!
//! One loop, so that a heartbeat (which begins a new count of orders at the hub) is never sent while an order
//! waits for its answer.

use std::time::Duration;

use lictor_link::http::full;
use lictor_link::hyper;
use lictor_proto::agent::Heartbeat;
use lictor_proto::api::{PollAnswer, PollOrders};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{json, limits};
use tokio::sync::watch;

use super::{PollError, Session, internal};
use crate::routes::ask_for_hub;

const NEXT: &str = "/api/v1/agent/jobs/next?wait=30";
/// The hub waits 30 s; a little longer, and it is gone.
const NEXT_WITHIN: Duration = Duration::from_secs(45);

/// Follows the hub's orders until something fails.
pub(super) async fn follow(
    session: &Session,
    mut beat: watch::Receiver<Option<Box<Heartbeat>>>,
) -> Result<(), PollError> {
    // The first heartbeat begins the session; before it the hub knows of none.
    if beat.wait_for(Option::is_some).await.is_err() {
        return Err(Refusal::new(Code::Internal, "the warden has ended").into());
    }
    beat.mark_changed();
    loop {
        if beat.has_changed().unwrap_or(false) {
            let latest = beat.borrow_and_update().clone();
            if let Some(latest) = latest {
                session.post("/api/v1/agent/heartbeat", &latest).await?;
            }
        }
        for order in next(session).await?.orders {
            let reply = ask_for_hub(session.port.as_ref(), order.request).await;
            let answer = PollAnswer {
                order: order.order,
                reply,
            };
            session.post("/api/v1/agent/answers", &answer).await?;
        }
    }
}

async fn next(session: &Session) -> Result<PollOrders, PollError> {
    let request = hyper::Request::get(NEXT).body(full("")).map_err(internal)?;
    let answer = session.http.call(request, limits::ASK, NEXT_WITHIN).await?;
    if !answer.status.is_success() {
        return Err(answer.refusal().into());
    }
    if answer.body.is_empty() {
        return Ok(PollOrders::default());
    }
    Ok(json::from_slice(&answer.body).map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))?)
}
