//! What happens by the clock: leases lapse, jobs that nobody took expire, what is old is forgotten.

use std::sync::Arc;
use std::time::Duration;

use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::{Code, Timestamp};

use crate::app::{App, Error};
use crate::store::{Begun, ExecutionKey};

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

/// Between two looks for what is older than it is kept.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// Forgets what is older than it is kept, until the hub stops.
pub(crate) async fn sweep(app: Arc<App>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = app.stop.clone();
    let sweeping = async {
        loop {
            tick.tick().await;
            match app.sweep(Timestamp::now()).await {
                Ok(0) => {}
                Ok(n) => tracing::info!(n, "forgotten"),
                Err(e) => tracing::error!(error = %e.chain(), "forgetting"),
            }
        }
    };
    stop.run_until_cancelled(sweeping).await;
}

/// Aborts what an earlier hub had begun to store, unless the hub stops before.
pub(crate) async fn abort_uploads(app: Arc<App>, left: Vec<Begun>) {
    let stop = app.stop.clone();
    stop.run_until_cancelled(app.abort_uploads(left)).await;
}

/// The counts that bound the queues and show in the metrics.
async fn count(app: &App) -> Result<(), Error> {
    app.queue.reading();
    let depths = app.store.open().await?;
    app.queue.read(&depths, app.store.jobs_stored().await?);
    for state in [
        ExecutionState::Queued,
        ExecutionState::Held,
        ExecutionState::AwaitingApproval,
        ExecutionState::AwaitingRelease,
        ExecutionState::Leased,
        ExecutionState::Running,
    ] {
        let n: u64 = depths
            .iter()
            .filter(|d| d.state == state)
            .map(|d| d.executions)
            .sum();
        metrics::gauge!("lictor_hub_executions_open", "state" => state.as_str()).set(n as f64);
    }
    Ok(())
}

async fn once(app: &App) -> Result<(), Error> {
    let now = Timestamp::now();
    count(app).await?;
    for key in app.store.lapse(now).await? {
        app.running.end(&key);
        say(app, &key, ExecutionState::Lost, None).await;
    }
    for key in app.store.expire(now).await? {
        // Its node may have taken it before the hub had stored it.
        app.running.end(&key);
        say(app, &key, ExecutionState::Expired, Some(Code::Expired)).await;
    }
    Ok(())
}

async fn say(app: &App, key: &ExecutionKey, state: ExecutionState, code: Option<Code>) {
    tracing::info!(job = %key.job_id, node = %key.node_id, state = state.as_str(), "by the clock");
    app.rollouts.poke(&key.org, &key.job_id);
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
