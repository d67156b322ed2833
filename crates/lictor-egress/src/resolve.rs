//! Names to addresses.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Lookups at once that jobs have besides the one that each has to itself, all jobs together and one job: each holds a
/// thread for as long as a name server likes.
pub(crate) const SHARED: usize = 128;
const OF_ONE: usize = 7;

/// Leave to look up one name. Whoever looks it up keeps it until that is over, also when nobody waits for the answer
/// any more: what a lookup holds (a thread, say) it holds until then.
#[derive(Debug)]
pub struct Turn {
    _held: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

/// Turns that all jobs of a proxy share.
#[derive(Debug, Clone)]
pub struct Lookups(Arc<Semaphore>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SHARED)))
    }
}

/// One job's: one that nobody else can take, so that other jobs' silent name servers hold up no lookup of this one's, and
/// some of those that are shared.
#[derive(Debug)]
pub(crate) struct Turns {
    own: Arc<Semaphore>,
    more: Arc<Semaphore>,
    shared: Lookups,
}

impl Turns {
    pub(crate) fn new(shared: Lookups) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            more: Arc::new(Semaphore::new(OF_ONE)),
            shared,
        }
    }

    /// The next that is free. None of these is ever closed, so it can only be had or waited for.
    pub(crate) async fn next(&self) -> Result<Turn, AcquireError> {
        let own = async {
            let held = Arc::clone(&self.own).acquire_owned().await?;
            Ok(Turn {
                _held: held,
                _shared: None,
            })
        };
        let another = async {
            let held = Arc::clone(&self.more).acquire_owned().await?;
            let shared = Arc::clone(&self.shared.0).acquire_owned().await?;
            Ok(Turn {
                _held: held,
                _shared: Some(shared),
            })
        };
        tokio::select! {
            biased;
            turn = own => turn,
            turn = another => turn,
        }
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
