//! Where the hub is and which key it has: `hub.json` in the node directory.
//!
//! The warden needs neither, so it stands apart from `node.json`. The pins come from the enrolment token, which
//! came out of band; nothing that the hub says changes them.

use lictor_link::LinkError;
use lictor_link::cert::Identity;
use lictor_link::dial::HubUrl;
use lictor_link::tls::ClientTls;
use lictor_proto::Digest;
use lictor_trust::SecretKey;
use serde::{Deserialize, Serialize};

/// The file's name in the node directory.
pub const FILE: &str = "hub.json";

/// The hub, as the node remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// `https://host:port`.
    pub url: String,
    /// SPKI digests of the hub's link key: the current one, and the next where there is one.
    pub pins: Vec<Digest>,
}

/// The hub, ready to be dialled as this node.
#[derive(Clone)]
pub struct Hub {
    /// Where.
    pub url: HubUrl,
    /// With which key, and to which.
    pub tls: ClientTls,
}

impl HubFile {
    /// The hub of this file, dialled with this link key.
    ///
    /// # Errors
    /// [`LinkError::Address`] when the URL is no `https` URL, [`LinkError::Certificate`] when the key is unusable.
    pub fn open(&self, link_key: &SecretKey) -> Result<Hub, LinkError> {
        let url: HubUrl = self.url.parse()?;
        if !url.tls {
            return Err(LinkError::Address(self.url.clone()));
        }
        let identity = Identity::link(&link_key.seed())?;
        let tls = ClientTls::node(identity, self.pins.clone())?;
        Ok(Hub { url, tls })
    }
}
