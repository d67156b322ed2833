//! API tokens of the hub: what one may do, and how one is made.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What an API token may do on the hub. It never grants execution.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// See everything of the org.
    Read,
    /// Also submit signed documents.
    Submit,
    /// Also make and revoke tokens.
    Admin,
}

/// A token, without its secret.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its public id.
    pub token_id: String,
    /// For people.
    pub label: String,
    /// What it may do.
    pub scope: TokenScope,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is good; `null` for good.
    pub expires_at: Option<Timestamp>,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// Requests that it may make in a second; `null` for as many as the hub lets any token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
}

/// Make a token.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For people, at most 128 bytes.
    pub label: String,
    /// What it may do.
    pub scope: TokenScope,
    /// Until when; `null` for good.
    pub expires_at: Option<Timestamp>,
    /// Requests that it may make in a second, at least 1 and at most what the hub lets any token; `null` for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
}

/// A token that was just made; its secret is shown once.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The token.
    #[serde(flatten)]
    pub token: TokenView,
    /// `lictor_pat_...`; only its hash is kept.
    pub secret: String,
}
