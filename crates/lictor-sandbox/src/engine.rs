//! Who makes the containers of the `container` backend.

use serde::{Deserialize, Serialize};

/// What the agent's configuration says about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerEngine {
    /// The first that works on the host.
    #[default]
    Auto,
    /// The OCI runtime `runc`; it takes a root agent.
    Runc,
    /// The OCI runtime `crun`; it takes a root agent.
    Crun,
    /// `podman`, which an agent may use that is not root.
    Podman,
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
        }
    }
}
