//! A running hub: started from its configuration, stopped in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::{Digest, OrgId, Timestamp};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::limits::RateBook;
use crate::app::notify::{self, Notifier};
use crate::app::queue::QueueBook;
use crate::app::rollouts::RolloutBook;
use crate::app::running::RunningBook;
use crate::app::stdin::StdinGate;
use crate::app::{App, Error, Objects, OrgBook, Times, TokenBook};
use crate::config::{ConfigError, HubConfig};
use crate::link::Registry;
use crate::listener::{Listener, Patience, Plain};
use crate::relay::LiveBook;
use crate::store::sqlite::SqliteStore;
use crate::store::{Begun, StoreError};
use crate::{api, tasks, tls};

/// Its database, in its directory.
const DATABASE: &str = "hub.db";
/// How often leases and validities are looked at.
const REAP_EVERY: Duration = Duration::from_secs(2);

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error("cannot use {0}")]
    Dir(String, #[source] std::io::Error),
    /// The keys cannot be read or made.
    #[error("TLS keys: {0}")]
    Keys(String),
    /// The bucket of the configuration cannot be used.
    #[error("the bucket of the configuration cannot be used")]
    Bucket(#[source] Error),
    /// The configuration names something that cannot be used.
    #[error("configuration")]
    Config(#[from] ConfigError),
    /// The settings of notifications cannot be used.
    #[error("notifications: {0}")]
    Notify(String),
    /// The database cannot be opened.
    #[error("database")]
    Store(#[from] StoreError),
    /// What is stored cannot be used.
    #[error("stored state")]
    State(#[from] Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// A running hub. Dropping it stops nothing; call [`Hub::shutdown`].
pub struct Hub {
    /// Where it listens.
    pub addr: SocketAddr,
    /// SPKI digest of the link key: what enrolment tokens carry and nodes pin.
    pub link_spki: Digest,
    /// SPKI digest of the key that people's programs see and pin.
    pub web_spki: Digest,
    app: Arc<App>,
    connections: TaskTracker,
    /// Ends connections; the rest of the hub goes on until they have ended.
    closing: CancellationToken,
    /// Holds the writer, which ends last.
    writer: TaskTracker,
    grace: Duration,
}

impl Hub {
    /// Opens or makes everything under the configured directory and listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: HubConfig) -> Result<Self, StartError> {
        lictor_link::install_crypto_provider();
        make_private(&config.dir)?;
        let mut names = config.names.clone();
        names.push(config.listen.ip().to_string());
        names.push("localhost".to_owned());
        let keys = tls::open(&config.dir.join("tls"), &names)?;
        let writer = TaskTracker::new();
        let app = Arc::new(open(&config, &writer).await?);
        let left = restore(&app).await?;
        let listen = |e| StartError::Listen(config.listen, e);
        let tcp = TcpListener::bind(config.listen).await.map_err(listen)?;
        let addr = tcp.local_addr().map_err(listen)?;
        let connections = TaskTracker::new();
        let closing = CancellationToken::new();
        let listener = Listener {
            tls: keys.tls,
            plain: Plain::on(addr),
            router: api::router(app.clone(), recorder()),
            tasks: connections.clone(),
            stop: closing.clone(),
            patience: Patience::default(),
        };
        connections.spawn(listener.serve(tcp, config.max_connections));
        app.resume_rollouts().await?;
        app.tasks.spawn(tasks::reap(app.clone()));
        app.tasks.spawn(tasks::sweep(app.clone()));
        app.tasks.spawn(tasks::abort_uploads(app.clone(), left));
        app.tasks.spawn(notify::deliver(app.clone()));
        app.tasks.spawn(notify::watch(app.clone()));
        tracing::info!(%addr, "the hub listens");
        Ok(Self {
            addr,
            link_spki: keys.link_spki,
            web_spki: keys.web_spki,
            app,
            connections,
            closing,
            writer,
            grace: config.grace(),
        })
    }

    /// Registers an org by its first root (the signed envelope) and makes an admin token for it, whose secret is
    /// returned once. For an org that is there already, only the token is new.
    ///
    /// # Errors
    /// [`Error::Refused`] when the root does not verify.
    pub async fn create_org(&self, root: &str, token_label: &str) -> Result<(OrgId, String), Error> {
        self.app.create_org(root, token_label).await
    }

    /// The hub's insides, for programs that carry a hub in themselves, and for tests.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Ends in order: no new connections, links closed, followers' streams ended, everything taken committed.
    pub async fn shutdown(self) {
        self.closing.cancel();
        self.app.stop.cancel();
        self.connections.close();
        self.app.tasks.close();
        let ended = async {
            self.app.tasks.wait().await;
            self.connections.wait().await;
        };
        if tokio::time::timeout(self.grace, ended).await.is_err() {
            tracing::warn!("connections were still open at the end of the grace");
        }
        self.app.note(None, Event::new(EventType::HubStopped)).await;
        self.app.store.close().await;
        self.writer.close();
        self.writer.wait().await;
    }
}

/// The directory, and the database in it, which nobody but the hub's user reads: outputs, tokens' hashes and webhooks'
/// secrets are in there. A directory that was there keeps its mode.
fn make_private(dir: &Path) -> Result<(), StartError> {
    let failed = |e| StartError::Dir(dir.display().to_string(), e);
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above).map_err(failed)?;
    }
    let mut builder = std::fs::DirBuilder::new();
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    match builder.create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // SQLite gives the files beside it the same mode when it makes them. An empty file is an empty database.
    let file = options.open(dir.join(DATABASE)).map_err(failed)?;
    #[cfg(unix)]
    {
        let only_its_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(only_its_owner).map_err(failed)?;
        // A hub that was killed has left its own.
        for beside in ["hub.db-wal", "hub.db-shm"] {
            let only_its_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            match std::fs::set_permissions(dir.join(beside), only_its_owner) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
    }
    drop(file);
    Ok(())
}

/// Everything that the hub's parts share, as the configuration wants it.
async fn open(config: &HubConfig, writer: &TaskTracker) -> Result<App, StartError> {
    let objects = match &config.s3 {
        None => Objects::local(&config.dir.join("objects"))?,
        Some(s3) => {
            let bucket = Objects::s3(s3, s3.keys()?).map_err(StartError::Bucket)?;
            bucket.try_out().await.map_err(StartError::Bucket)?;
            bucket
        }
    };
    let store = SqliteStore::open(&config.dir.join(DATABASE), writer).await?;
    let tasks = TaskTracker::new();
    let notifier = Notifier::new(config.notify.clone(), &tasks).map_err(StartError::Notify)?;
    Ok(App {
        notifier,
        store: Arc::new(store),
        objects,
        stdin: StdinGate::new(config.max_stored_mib_per_org << 20),
        retention: config.retention(),
        queue: QueueBook::new(config.limits(), config.retention().jobs),
        running: RunningBook::new(config.limits()),
        rates: RateBook::new(config.rate()),
        rollouts: RolloutBook::default(),
        orgs: OrgBook::default(),
        tokens: TokenBook::default(),
        links: Registry::default(),
        live: LiveBook::default(),
        tasks,
        stop: CancellationToken::new(),
        times: Times {
            lease: config.lease(),
            reap_every: REAP_EVERY,
        },
    })
}

/// What an earlier hub has left; gives the uploads that it had begun.
async fn restore(app: &App) -> Result<Vec<Begun>, StartError> {
    app.load_orgs().await?;
    // Nobody could renew a lease while the hub was away.
    app.store
        .renew_all(Timestamp::now().plus(app.times.lease))
        .await?;
    for key in app.store.under_way().await? {
        app.running.enter(&key);
    }
    let started = Event::new(EventType::HubStarted).with("version", env!("CARGO_PKG_VERSION"));
    app.note(None, started).await;
    Ok(app.store.uploads().await?)
}

/// The process's metrics; one recorder, however many hubs run in it (tests).
fn recorder() -> Option<metrics_exporter_prometheus::PrometheusHandle> {
    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
    static HANDLE: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();
    HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .clone()
}
