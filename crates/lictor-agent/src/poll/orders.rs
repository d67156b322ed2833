//! What the hub wants: heartbeat, long poll, ask the warden, answer.
//!
//! One loop, so that every order is answered before the hub is asked for more: it hands out again what was not.

use std::time::Duration;

use lictor_link::http::full;
use lictor_link::hyper;
use lictor_proto::agent::Heartbeat;
use lictor_proto::api::{PollAnswer, PollOrder, PollOrders};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{json, limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PollError, Session, internal};
use crate::reconnect::{Backoff, chance};
use crate::routes::ask_for_hub;

const NEXT: &str = "/api/v1/agent/jobs/next?wait=30";
/// The hub waits 30 s; a little longer, and it is gone.
const NEXT_WITHIN: Duration = Duration::from_secs(45);

/// Follows the hub's orders until something fails, or until `no_more` between two batches.
pub(super) async fn follow(
    session: &Session,
    mut beat: watch::Receiver<Option<Box<Heartbeat>>>,
    no_more: &CancellationToken,
) -> Result<(), PollError> {
    // The first heartbeat begins the session; before it the hub knows of none.
    match no_more.run_until_cancelled(beat.wait_for(Option::is_some)).await {
        None => return Ok(()),
        Some(Err(_)) => return Err(Refusal::new(Code::Internal, "the warden has ended").into()),
        Some(Ok(_)) => {}
    }
    beat.mark_changed();
    let mut backoff = Backoff::default();
    loop {
        if beat.has_changed().unwrap_or(false) {
            let latest = beat.borrow_and_update().clone();
            if let Some(latest) = latest {
                session.post("/api/v1/agent/heartbeat", &latest).await?;
            }
        }
        let Some(orders) = no_more.run_until_cancelled(next(session)).await else {
            return Ok(());
        };
        if !follow_all(session, orders?.orders).await? {
            // They come again, and at once: not before the hub had time to come to itself.
            tokio::time::sleep(backoff.next(Duration::ZERO, chance())).await;
        } else {
            backoff = Backoff::default();
        }
    }
}

/// Follows a batch of orders; says whether the hub took every answer.
async fn follow_all(session: &Session, orders: Vec<PollOrder>) -> Result<bool, PollError> {
    let mut all = true;
    for PollOrder { order, request } in orders {
        let reply = ask_for_hub(session.port.as_ref(), request).await;
        match session
            .post("/api/v1/agent/answers", &PollAnswer { order, reply })
            .await
        {
            Ok(_) => {}
            Err(PollError::Refused(refusal)) => {
                tracing::warn!(order, error = %refusal, "the hub did not take an answer");
                all = false;
            }
            Err(lost) => return Err(lost),
        }
    }
    Ok(all)
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
