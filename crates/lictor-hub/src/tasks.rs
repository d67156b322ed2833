//! What happens by the clock: leases lapse, jobs that nobody took expire.

use std::sync::Arc;

use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::{Code, Timestamp};

use crate::app::{App, Error};
use crate::store::ExecutionKey;

/// Looks at leases and validities until the hub stops.
pub(crate) async fn reap(app: Arc<App>) {
    let mut tick = tokio::time::interval(app.times.reap_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = app.stop.clone();
    let reaping = async {
        loop {
            tick.tick().await;
            if let Err(e) = once(&app).await {
                tracing::error!(error = %e.chain(), "reaping");
            }
        }
    };
    stop.run_until_cancelled(reaping).await;
}

async fn once(app: &App) -> Result<(), Error> {
    let now = Timestamp::now();
    for key in app.store.lapse(now).await? {
        say(app, &key, ExecutionState::Lost, None).await;
    }
    for key in app.store.expire(now).await? {
        say(app, &key, ExecutionState::Expired, Some(Code::Expired)).await;
    }
    Ok(())
}

async fn say(app: &App, key: &ExecutionKey, state: ExecutionState, code: Option<Code>) {
    tracing::info!(job = %key.job_id, node = %key.node_id, state = state.as_str(), "by the clock");
    if let Some(live) = app.live.get(key) {
        live.event(StreamEvent::State {
            node_id: key.node_id.clone(),
            state,
            code,
            message: String::new(),
            at: Timestamp::now(),
        })
        .await;
    }
}
