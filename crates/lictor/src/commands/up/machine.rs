//! The node of `lictor up`: this machine, enrolled by an ordinary grant and token, served by the ordinary agent.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lictor_agent::{AgentConfig, Enrolment, enroll};
use lictor_client::{Hub, TrustStore};
use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::Token;
use lictor_sandbox::Host;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::{Grant, Kind};
use crate::commands::{agent, nodes};
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// What the node is called.
pub(super) const NAME: &str = "local";

/// How long the node may take to connect and to hold the law.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The running agent, on a thread of its own as `lictor agent run` is.
pub(super) struct Machine {
    stop: CancellationToken,
    /// Its end.
    end: oneshot::Receiver<Result<()>>,
    thread: JoinHandle<()>,
}

/// Enrols this machine, once.
pub(super) async fn enrol(session: &Session, store: &TrustStore, hub: &Hub) -> Result<()> {
    let dir = session.home.dir().join("agent");
    if dir.join("node.json").exists() {
        return Ok(());
    }
    // The same token until it has worked: a second grant for the name would make the name ambiguous.
    let kept = session.home.dir().join("agent.token");
    let token = match std::fs::read_to_string(&kept) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => {
            let token = first_token(session, store, hub).await?.encode();
            lictor_client::home::replace(&kept, token.as_bytes()).doing("keep the token")?;
            token
        }
    };
    let enrolment = Enrolment {
        token: &token,
        dir: &dir,
        name: None,
    };
    if let Err(e) = enroll(enrolment).await {
        // Too old, or made for another address: the next start makes a new one.
        let _ = std::fs::remove_file(&kept);
        return Err(Failure::new("this machine could not enrol")
            .because(&e)
            .code(e.code())
            .hint("Start it again."));
    }
    std::fs::remove_file(&kept).doing("remove the used token")
}

async fn first_token(session: &Session, store: &TrustStore, hub: &Hub) -> Result<Token> {
    let grant = Grant {
        labels: Vec::new(),
        kind: Kind::Server,
        ttl: Duration::from_secs(3600),
        uses: 1,
        replaces: None,
        hub_url: None,
        name: NAME.parse().doing("name the node")?,
    };
    nodes::token(session, hub, store, &grant).await
}

impl Machine {
    /// Starts the agent.
    pub(super) fn start(session: &Session, host: Host) -> Result<Self> {
        let mut config = AgentConfig::new(&session.home.dir().join("agent"));
        #[cfg(unix)]
        {
            config.puller = Some(crate::commands::rootfs::puller(&config.dir, None, &config.rootfs));
            config.downloader = Some(crate::commands::download::downloader(&config.downloads)?);
        }
        // The port may be another one than at the last start.
        config.hub_url = session.config.hub.as_ref().and_then(|h| h.link_url.clone());
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let (told, end) = oneshot::channel();
        let run = move || {
            let ended = agent::runtime().and_then(|runtime| {
                runtime.block_on(agent::serve_node(&config, host, asked.cancelled_owned()))
            });
            // Nobody listens any more when all of it is being ended.
            let _ = told.send(ended);
        };
        let thread = std::thread::Builder::new().name("agent".into()).spawn(run);
        Ok(Self {
            stop,
            end,
            thread: thread.doing("start the agent's thread")?,
        })
    }

    /// Waits until the node is connected, holds the law and denies nothing wholesale.
    pub(super) async fn ready(&mut self, session: &Session, store: &mut TrustStore, hub: &Hub) -> Result<()> {
        let started_at = Instant::now();
        let law = store.trust().bundle().map_or(0, |b| b.version);
        let mut why = Refusal::plain(Code::NodeOffline);
        while started_at.elapsed() < READY_WITHIN {
            let views = hub.nodes().await.map_err(|e| failed("look for the node", &e))?;
            let node = views.iter().find(|n| n.name.as_str() == NAME && n.connected);
            match node.and_then(|n| n.heartbeat.as_ref()) {
                Some(beat) if beat.law.bundle >= law => match &beat.law.deny_all {
                    None => return session.refresh(store, hub).await,
                    Some(refusal) => why = refusal.clone(),
                },
                _ => {}
            }
            tokio::select! {
                ended = self.ended() => return ended,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Err(Failure::refused("the node did not become ready", &why))
    }

    /// Resolves, once, when the agent ends although nobody asked it to. May be dropped and called again before.
    pub(super) async fn ended(&mut self) -> Result<()> {
        match (&mut self.end).await {
            Ok(Ok(())) => Err(Failure::new("the agent ended by itself")),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new("the agent broke down")),
        }
    }

    /// Drains the agent and waits for its end.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let thread = self.thread;
        if !matches!(tokio::task::spawn_blocking(|| thread.join()).await, Ok(Ok(()))) {
            tracing::error!("the agent's thread broke down");
        }
    }
}
