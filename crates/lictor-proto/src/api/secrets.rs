//! Secrets, as the hub lists them.

use serde::{Deserialize, Serialize};

use crate::agent::Wire;
use crate::ids::{Digest, Name};
use crate::time::Timestamp;

/// One version of a secret, as the hub says it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretView {
    /// What it is called.
    pub name: Name,
    /// Which version.
    pub version: u64,
    /// Digest of the signed document.
    pub digest: Digest,
    /// Who has set it.
    pub operator: Name,
    /// To how many nodes it is sealed.
    pub nodes: u32,
    /// When it was set.
    pub issued_at: Timestamp,
}

/// The newest version of a secret, with what proves it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretDocument {
    /// What the hub says of it.
    pub secret: SecretView,
    /// The signed document; `null` when it was removed.
    pub envelope: Option<Wire>,
}
