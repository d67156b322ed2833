//! What a command of a person works with: the home, who they are, the hub, and the pinned law.

use std::future::Future;
use std::path::PathBuf;

use lictor_client::trust::{Refreshed, TrustStore};
use lictor_client::{Config, Error, Home, HomeError, Hub};
use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_trust::SecretKey;
use lictor_trust::directory::Node;

use crate::args::Global;
use crate::commands::keys;
use crate::escape::escape;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;

/// At most so many node records are spoken of one by one; a hub could make up any number.
const WARNINGS: usize = 20;

/// An opened home, and how to speak.
pub(crate) struct Session {
    pub(crate) home: Home,
    pub(crate) config: Config,
    pub(crate) out: Out,
}

/// The home that the command line or the environment names, set up or not.
pub(crate) fn home(global: &Global) -> Result<Home> {
    match &global.home {
        Some(dir) => Ok(Home::at(dir)),
        None => match std::env::var_os("HOME") {
            Some(user) if !user.is_empty() => Ok(Home::at(PathBuf::from(user).join(".lictor"))),
            _ => Err(Failure::new("there is no home directory").hint("Set LICTOR_HOME.")),
        },
    }
}

/// Runs a command of a person to its end, on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .doing("start")?
        .block_on(work)
}

impl Session {
    /// Opens the home.
    pub(crate) fn open(global: &Global, out: Out) -> Result<Self> {
        let home = home(global)?;
        let config = home.config().map_err(|e| {
            let failure = Failure::new("this home is not set up").because(&e);
            match e {
                HomeError::Missing(_) => failure.hint(
                    "`lictor up --dir DIR` makes one with a hub and a node; `lictor org init` makes one for a new \
                     org; `lictor connect` joins an org; LICTOR_HOME names one that exists.",
                ),
                _ => failure,
            }
        })?;
        Ok(Self { home, config, out })
    }

    /// The hub, as the configured token sees it.
    pub(crate) fn hub(&self) -> Result<Hub> {
        let address = self.config.hub.as_ref().ok_or_else(|| {
            Failure::new("this home knows no hub").hint("`lictor connect URL ...` names one.")
        })?;
        let token = self.home.token().doing("read the API token")?;
        Hub::new(address, token.as_deref()).map_err(|e| failed("use the hub's address", &e))
    }

    /// The pinned law and nodes, as this home holds them.
    pub(crate) fn trust(&self) -> Result<TrustStore> {
        TrustStore::open(&self.home, &self.config.org)
            .map_err(|e| failed("read the pinned trust of this home", &e))
    }

    /// The pinned law and nodes, with news from the hub when they are old.
    pub(crate) async fn fresh_trust(&self, hub: &Hub) -> Result<TrustStore> {
        let mut store = self.trust()?;
        if store.is_old() {
            self.refresh(&mut store, hub).await?;
        }
        Ok(store)
    }

    /// Asks the hub for news, and says loudly what of it does not hold.
    pub(crate) async fn refresh(&self, store: &mut TrustStore, hub: &Hub) -> Result<()> {
        let news = store
            .refresh(hub)
            .await
            .map_err(|e| failed("ask the hub for law and nodes", &e))?;
        warn(self.out, &news);
        Ok(())
    }

    /// The one node that `text` means; asks the hub when this home does not know it, or no longer accepts it.
    pub(crate) async fn node(&self, store: &mut TrustStore, hub: &Hub, text: &str) -> Result<Node> {
        match store.resolve(text) {
            Err(Error::Untrusted(_)) => {
                self.refresh(store, hub).await?;
                store
                    .resolve(text)
                    .map_err(|e| failed(&format!("find the node {}", escape(text)), &e))
            }
            other => other.map_err(|e| failed(&format!("find the node {}", escape(text)), &e)),
        }
    }

    /// The key that signs: the one named, else the configured one.
    /// A file of this process alone, which is gone with it.
    pub(crate) fn scratch(&self) -> std::io::Result<std::fs::File> {
        let path = self
            .home
            .trust_dir()
            .join(format!(".answer-{}", std::process::id()));
        let mut options = std::fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    pub(crate) fn key(&self, named: Option<&lictor_proto::Name>) -> Result<SecretKey> {
        keys::load(&self.home, named.unwrap_or(&self.config.key))
    }
}

/// Says loudly what of the hub's news does not hold, and what it did not take from us.
pub(crate) fn warn(out: Out, news: &Refreshed) {
    for (kind, refusal) in &news.law.refused {
        out.note(format!(
            "warning: the hub offers a {} that does not hold: {}",
            kind.as_str(),
            escape(&refusal.to_string())
        ));
    }
    if let Some(refusal) = &news.law.unloadable {
        out.note(format!(
            "warning: the newest law cannot be loaded: {}",
            escape(&refusal.to_string())
        ));
    }
    // A node that was revoked or replaced is no news to anybody.
    let is_news = |r: &Refusal| !matches!(r.code, Code::NodeRevoked | Code::GrantRevoked);
    let bad: Vec<_> = news.nodes.iter().filter(|(_, r)| is_news(r)).collect();
    for (record, refusal) in bad.iter().take(WARNINGS) {
        out.note(format!(
            "warning: the node record {record} does not hold: {}",
            escape(&refusal.to_string())
        ));
    }
    if bad.len() > WARNINGS {
        out.note(format!(
            "warning: {} more node records do not hold",
            bad.len() - WARNINGS
        ));
    }
    let untaken = match &news.pushed {
        None => None,
        Some(Ok(pushed)) if pushed.changed => {
            out.progress("the hub had older law than this home; it has the newer now");
            None
        }
        Some(Ok(pushed)) => pushed.refused.first().map(ToString::to_string),
        Some(Err(e)) => Some(failed("push", e).to_string()),
    };
    if let Some(why) = untaken {
        let why = escape(&why.replace('\n', ";"));
        out.note(format!(
            "warning: the hub has older law than this home, and did not take the newer: {why}"
        ));
    }
}

/// A failed call as people meet it.
pub(crate) fn failed(what: &str, error: &Error) -> Failure {
    Failure::new(format!("could not {what}"))
        .because(error)
        .code(error.code())
}
