//! Notifications: whom the hub tells of what, without being asked. Everything in one is the hub's word.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What a notification is about.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A job waits for approvals.
    Approval,
    /// A job failed, was denied, or came to no end.
    Failure,
    /// A node has not been heard of for a while.
    Node,
    /// The law is about to expire or to go stale, or has.
    Law,
}

/// How a notification goes out.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeWay {
    /// `POST` of JSON, signed as Standard Webhooks says.
    Webhook,
    /// Plain text to an address, over the hub's SMTP server.
    Email,
}

/// Somewhere that is to be told.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewNotifyTarget {
    /// How.
    pub way: NoticeWay,
    /// A URL or an e-mail address, at most 1024 bytes.
    pub address: String,
    /// Of what; at least one.
    pub on: Vec<NoticeKind>,
}

/// Somewhere that is told, without its secret.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTargetView {
    /// Its id.
    pub target_id: String,
    /// How.
    pub way: NoticeWay,
    /// A URL or an e-mail address.
    pub address: String,
    /// Of what.
    pub on: Vec<NoticeKind>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When something last reached it.
    pub delivered_at: Option<Timestamp>,
    /// Notifications that wait for it.
    pub waiting: u64,
    /// Why the last one did not reach it, if it did not.
    pub last_error: Option<String>,
}

/// A target that was just made; the secret of a webhook is shown once.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedNotifyTarget {
    /// The target.
    #[serde(flatten)]
    pub target: NotifyTargetView,
    /// `whsec_` and base64: the key that its notifications are signed with; `null` for e-mail.
    pub secret: Option<String>,
}
