//! The daemon: opens the node directory, starts the warden, keeps one way to the hub up, drains at the end.
//!
//! ```text
//!   start --> serving --stop--> draining (no new work, running jobs end) --> delivering (results go out) --> ended
//!                 '--the journal broke--> running jobs are stopped --> ended with an error, to be started again
//! ```

use std::sync::Arc;
use std::time::Duration;

use lictor_link::LinkError;
use lictor_link::http::HttpClient;
use lictor_proto::agent::{Reply, Request};
use lictor_trust::keyfile::{self, KeyFileError};
use lictor_warden::node_dir::{NodeDir, NodeDirError};
use lictor_warden::{Host, JournalError, StartError, Warden};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{AgentConfig, Transport};
use crate::hub::{self, Hub, HubFile};
use crate::port::WardenPort;
use crate::reconnect::keep_up;
use crate::{link, poll, routes};

/// How long results may take to reach the hub after the last job has ended; what doesn't is in the journal.
const DELIVER_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node directory cannot be read.
    #[error("the node directory cannot be used")]
    Dir(#[from] NodeDirError),
    /// There is no node in it.
    #[error("{} holds no node; enrol this machine with `lictor agent enroll`", .0.display())]
    NotEnrolled(std::path::PathBuf),
    /// The link key cannot be read.
    #[error("the link key cannot be used")]
    Key(#[from] KeyFileError),
    /// The warden cannot start.
    #[error("the warden cannot start")]
    Warden(#[from] StartError),
    /// The journal failed while the agent ran. Started again, it recovers.
    #[error("the agent must be started again")]
    Journal(#[source] JournalError),
    /// The hub's address or this node's certificate is unusable.
    #[error("the hub cannot be addressed")]
    Hub(#[from] LinkError),
}

/// The whole daemon: starts the warden of the node directory, serves it to the hub until `stop` resolves, drains it
/// and closes it. `host` should have been started before any thread was.
///
/// # Errors
/// [`AgentError`] before anything is served, and [`AgentError::Journal`] at any time: an agent that can take nothing
/// ends, so that whoever looks after it starts it again.
pub async fn agent(
    config: &AgentConfig,
    host: Host,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    lictor_link::install_crypto_provider();
    let hub = open_hub(config)?;
    let warden = Warden::start(config.warden(), host).await?;
    carry(warden, hub, config, stop).await
}

/// As [`agent`], with a warden that has been started.
///
/// # Errors
/// [`AgentError::Journal`].
pub async fn carry(
    warden: Warden,
    hub: Hub,
    config: &AgentConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let port = Arc::new(warden.clone());
    let mut broken = None;
    let end = async {
        tokio::select! {
            () = stop => {}
            why = warden.broken() => broken = Some(why),
        }
    };
    serve(port, hub, config.transport, config.drain_grace(), end).await;
    warden.close().await;
    // The writer's thread ends once nobody can write; it is waited for, so that the journal is closed in order.
    let joined = tokio::task::spawn_blocking(|| warden.join());
    if tokio::time::timeout(DELIVER_WITHIN, joined).await.is_err() {
        tracing::warn!("the journal's writer did not end in time");
    }
    match broken {
        Some(why) => Err(AgentError::Journal(why)),
        None => Ok(()),
    }
}

/// Serves a warden to its hub until `stop` resolves; then drains it and returns.
pub async fn serve(
    port: Arc<dyn WardenPort>,
    hub: Hub,
    transport: Transport,
    grace: Duration,
    stop: impl Future<Output = ()>,
) {
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let connection = tasks.spawn(stay_connected(
        port.clone(),
        hub,
        transport,
        tasks.clone(),
        cut.clone(),
    ));
    stop.await;
    tracing::info!(grace_s = grace.as_secs(), "stopping: no new work");
    drain(port.as_ref(), grace).await;
    cut.cancel();
    tasks.close();
    if tokio::time::timeout(DELIVER_WITHIN * 2, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("connection tasks did not end in time");
        connection.abort();
    }
}

/// Opens what `config` names: the hub, to be dialled as this node.
///
/// # Errors
/// [`AgentError`].
pub fn open_hub(config: &AgentConfig) -> Result<Hub, AgentError> {
    let dir = NodeDir::at(&config.dir);
    let not_enrolled = || AgentError::NotEnrolled(config.dir.clone());
    dir.node()?.ok_or_else(not_enrolled)?;
    let mut file: HubFile = dir.read(hub::FILE)?.ok_or_else(not_enrolled)?;
    if let Some(url) = &config.hub_url {
        file.url.clone_from(url);
    }
    let key = keyfile::load(&dir.join("link.key"), None)?;
    Ok(file.open(&key)?)
}

async fn stay_connected(
    port: Arc<dyn WardenPort>,
    hub: Hub,
    transport: Transport,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    match transport {
        Transport::Link => {
            let router = routes::router(port, stop.clone());
            let attempt = || {
                let (hub, router, tasks, stop) = (hub.clone(), router.clone(), tasks.clone(), stop.clone());
                async move { link::hold(&hub, router, &tasks, &stop).await.map_err(explained) }
            };
            keep_up(&stop, attempt).await;
        }
        Transport::Poll => {
            let http = HttpClient::new(hub.url, Some(hub.tls), tasks);
            let attempt = || {
                let (port, http, stop) = (port.clone(), http.clone(), stop.clone());
                async move { poll::session(port, &http, &stop).await }
            };
            keep_up(&stop, attempt).await;
        }
    }
}

/// The whole chain of causes in one line, and a hint where one is likely to help.
fn explained(e: LinkError) -> String {
    let hint = match &e {
        LinkError::Protocol(_) => " (where a proxy lets no WebSocket pass, `lictor agent run --poll` does)",
        _ => "",
    };
    format!("{}: {}{hint}", e.code(), e.chain())
}

async fn drain(port: &dyn WardenPort, grace: Duration) {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    if let Reply::Refused(why) = port.ask(Request::Drain { grace_ms }).await {
        // Nothing more will be journaled, so there is nothing to wait for.
        tracing::warn!(error = %why, "the warden did not drain");
        return;
    }
    let deadline = Instant::now() + DELIVER_WITHIN;
    while Instant::now() < deadline {
        match port.ask(Request::Status).await {
            Reply::Status(status) if !status.executions.is_empty() => tokio::time::sleep(LOOK_EVERY).await,
            _ => return,
        }
    }
    tracing::info!("some results have not reached the hub; they are kept");
}
