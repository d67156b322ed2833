//! How a machine joins: grant, token, node record (TRUST.md section 3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Invalid, check_validity, ensure, tag};
use crate::ids::{Digest, Name, NodeId, OrgId, PublicKey};
use crate::limits;
use crate::time::Timestamp;

tag!(GrantTag, "grant");
tag!(NodeTag, "node");

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[allow(missing_docs)] // the words say it
pub enum NodeKind {
    Server,
    Desktop,
    Mobile,
    Bridge,
}

/// An operator's signed leave to enrol one machine, or a few of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `grant`.
    #[serde(rename = "type")]
    pub tag: GrantTag,
    /// The org.
    pub org: OrgId,
    /// Who grants; the signing key must be this operator's.
    pub operator: Name,
    /// The public half of the token's seed; a node record must also be signed by it.
    pub join_key: PublicKey,
    /// The one name a node may take; exactly one of `name` and `name_prefix` is set.
    pub name: Option<Name>,
    /// Or a prefix of the names that nodes may take.
    pub name_prefix: Option<Name>,
    /// What kind of node.
    pub kind: NodeKind,
    /// Labels that the node gets; the only source of its groups.
    pub labels: BTreeMap<Name, Name>,
    /// How many node records may be made under it.
    pub max_uses: u32,
    /// When.
    pub issued_at: Timestamp,
    /// Until when a node may enrol.
    pub expires_at: Timestamp,
    /// The node whose name the new one takes over, if any.
    pub replaces: Option<NodeId>,
}

impl Document for Grant {
    const KIND: DocKind = DocKind::Grant;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_validity(self.issued_at, self.expires_at)?;
        ensure(self.name.is_some() != self.name_prefix.is_some(), || {
            Invalid::field("name", "exactly one of name and name_prefix")
        })?;
        ensure((1..=10_000).contains(&self.max_uses), || {
            Invalid::limit("max_uses", "1 to 10000")
        })?;
        ensure(self.labels.len() <= 64, || Invalid::limit("labels", "at most 64"))
    }
}

impl Grant {
    /// Whether a node may call itself `name` under this grant.
    #[must_use]
    pub fn allows_name(&self, name: &Name) -> bool {
        match (&self.name, &self.name_prefix) {
            (Some(n), None) => n == name,
            (None, Some(p)) => name.as_str().starts_with(p.as_str()),
            _ => false,
        }
    }
}

/// A node's keys, signed by its identity key and by the join key of its grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// `node`.
    #[serde(rename = "type")]
    pub tag: NodeTag,
    /// The org.
    pub org: OrgId,
    /// The grant it stands on.
    pub grant_digest: Digest,
    /// Derived from org and identity key.
    pub node_id: NodeId,
    /// The name it takes.
    pub name: Name,
    /// Signs asks and receipts.
    pub identity_key: PublicKey,
    /// Pinned end-to-end TLS key.
    pub e2e_key: PublicKey,
    /// X25519 public key that secrets are sealed to, raw 32 bytes.
    #[serde(with = "crate::json::base64_32")]
    pub seal_key: [u8; 32],
    /// Mutual TLS with the hub; worthless alone.
    pub link_key: PublicKey,
    /// Grows when the node re-keys under the same identity.
    pub epoch: u64,
    /// When.
    pub issued_at: Timestamp,
}

impl Document for NodeRecord {
    const KIND: DocKind = DocKind::Node;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(
            self.node_id == NodeId::derive(&self.org, &self.identity_key.key),
            || Invalid::field("node_id", "is not derived from org and identity_key"),
        )?;
        let keys = [
            self.identity_key.key,
            self.e2e_key.key,
            self.link_key.key,
            self.seal_key,
        ];
        let distinct = (0..keys.len()).all(|i| !keys[i + 1..].contains(&keys[i]));
        ensure(distinct, || {
            Invalid::field("identity_key", "the four keys of a node are distinct")
        })
    }
}

/// What the machine is handed out of band. It is a secret: whoever holds it can enrol in the machine's place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Where the hub is, `https://host:port`.
    pub hub_url: String,
    /// SHA-256 of the hub's link public key (SPKI), which the link pins.
    pub hub_spki: Digest,
    /// The org, pinned.
    pub org_id: OrgId,
    /// Oldest root to accept.
    pub min_root: u64,
    /// Oldest bundle to accept.
    pub min_bundle: u64,
    /// The grant that goes with it.
    pub grant_digest: Digest,
    /// Seed of the join key (Ed25519, 32 bytes).
    #[serde(with = "crate::json::base64_32")]
    pub join_seed: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("hub_url", &self.hub_url)
            .field("org_id", &self.org_id)
            .finish_non_exhaustive()
    }
}

/// Text that is not an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token (they start with `lictor_enroll_`)")]
pub struct TokenError;

const TOKEN_PREFIX: &str = "lictor_enroll_";

impl Token {
    /// The token as one word: `lictor_enroll_` and base64url of its JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = crate::json::to_vec(self).unwrap_or_default();
        format!("{TOKEN_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&json))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When it is not one.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError)?;
        if body.len() > limits::REASON * 4 {
            return Err(TokenError);
        }
        let json = data_encoding::BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TokenError)?;
        crate::json::from_slice(&json).map_err(|_| TokenError)
    }
}
