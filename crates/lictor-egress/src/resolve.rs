//! Names to addresses.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

/// Leave to look up one name. Whoever looks it up keeps it until that is over, also when nobody waits for the answer
/// any more: what a lookup holds (a thread, say) it holds until then.
#[derive(Debug)]
pub struct Turn {
    _held: OwnedSemaphorePermit,
}

impl Turn {
    pub(crate) fn new(held: OwnedSemaphorePermit) -> Self {
        Self { _held: held }
    }
}

/// Who knows the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a name, asked for once.
    ///
    /// # Errors
    /// When there is none, or nobody answers.
    async fn resolve(&self, name: &str, turn: Turn) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver: its hosts file, its name servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str, turn: Turn) -> io::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        let looked_up = tokio::task::spawn_blocking(move || {
            // Given back by the thread itself: a job has no more threads than turns, however soon it gives up waiting.
            let _turn = turn;
            let found = (name.as_str(), 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        });
        looked_up.await.map_err(io::Error::other)?
    }
}
