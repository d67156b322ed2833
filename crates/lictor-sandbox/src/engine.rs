//! Who makes the containers of the `container` backend, and what a daemon is asked for that makes them.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// What the agent's configuration says about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerEngine {
    /// The first that works on the host, but no daemon: that one is asked only where it is named.
    #[default]
    Auto,
    /// The OCI runtime `runc`; it takes a root agent.
    Runc,
    /// The OCI runtime `crun`; it takes a root agent.
    Crun,
    /// `podman`, which an agent may use that is not root.
    Podman,
    /// A Docker daemon, through its socket; it takes a root agent.
    Docker,
}

impl ContainerEngine {
    /// Which are tried, in this order.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn candidates(self, is_root: bool) -> Vec<Self> {
        match self {
            Self::Auto if is_root => vec![Self::Runc, Self::Crun, Self::Podman],
            Self::Auto => vec![Self::Podman],
            one => vec![one],
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// A daemon that makes containers. Implemented outside, since asking one takes an HTTP client. Whoever calls it sets
/// bounds in time, and may drop what has not answered.
#[async_trait]
pub trait ContainerDaemon: Debug + Send + Sync {
    /// Where it listens.
    fn socket(&self) -> &Path;

    /// Makes a container of an image that is handed over, never pulled, and starts it; returns its first process, as the
    /// daemon's host counts. The daemon removes it when that ends.
    ///
    /// # Errors
    /// The daemon's; there may be something left of it, by its name.
    async fn start(&self, wanted: &Wanted) -> io::Result<u32>;

    /// Ends and removes one, by its name; one that is gone is no error.
    ///
    /// # Errors
    /// The daemon's.
    async fn remove(&self, name: &str) -> io::Result<()>;

    /// Those of a node that there are, whatever state they are in.
    ///
    /// # Errors
    /// The daemon's.
    async fn left(&self, node: &str) -> io::Result<Vec<LeftContainer>>;
}

/// What is asked of a daemon: a container without network, capabilities and new privileges, with a read-only root, that
/// shows one directory of the agent's. What a job is to see in it the daemon is never told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it is called.
    pub name: String,
    /// The node that asks, in no other words than these.
    pub node: String,
    /// The process of its agent.
    pub agent: String,
    /// Where its files lie on the host.
    pub bundle: String,
    /// The directory of the host that it shows, read-only.
    pub own: String,
    /// Where in the container that is.
    pub at: String,
    /// Its first process and the arguments of that.
    pub first: Vec<String>,
    /// Who that is, user and group.
    pub user: (u32, u32),
}

/// A container that the daemon still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftContainer {
    /// What it can be removed by.
    pub name: String,
    /// Where its files lay.
    pub bundle: PathBuf,
}
