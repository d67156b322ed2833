//! Notifications: who is told of what, and what waits to be told.

use async_trait::async_trait;
use lictor_proto::api::{NoticeKind, NoticeWay};
use lictor_proto::{Name, NodeId, OrgId, Timestamp};

use super::Result;

/// Somewhere that is told.
#[derive(Debug, Clone)]
pub struct NotifyTarget {
    /// Its id.
    pub target_id: String,
    /// Its org.
    pub org: OrgId,
    /// How.
    pub way: NoticeWay,
    /// A URL or an e-mail address.
    pub address: String,
    /// What its notifications are signed with; empty for e-mail.
    pub secret: Vec<u8>,
    /// Of what.
    pub on: Vec<NoticeKind>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When something last reached it.
    pub delivered_at: Option<Timestamp>,
    /// Why the last one did not.
    pub last_error: Option<String>,
    /// What waits for it.
    pub waiting: u64,
}

/// Something to be told to whoever of an org wants to know.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// The word for programs, such as `approval.wanted`.
    pub event: &'static str,
    /// The same is told once.
    pub key: String,
    /// What it says; nothing that a job printed.
    pub says: Vec<(&'static str, String)>,
}

/// Something whose time to go out has come.
#[derive(Debug, Clone)]
pub struct DueNotice {
    /// Stays the same however often it is tried.
    pub id: String,
    /// The word for programs.
    pub event: String,
    /// JSON.
    pub body: String,
    /// How often its target has failed since something last reached it.
    pub tries: u32,
    /// Where to.
    pub target: NotifyTarget,
}

/// Whom not to look for: what is under way to them goes on.
#[derive(Debug, Clone, Default)]
pub struct Busy {
    /// Targets to which something is under way.
    pub targets: Vec<String>,
    /// Orgs of which as much is under way as may be.
    pub orgs: Vec<OrgId>,
}

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tested {
    /// It goes out, after what waits before it.
    Sent,
    /// One was sent at this time, and the next may be sent a while later.
    TooSoon(Timestamp),
    /// There is no such target.
    Unknown,
}

/// A node that has not been heard of.
#[derive(Debug, Clone)]
pub struct QuietNode {
    /// Its org.
    pub org: OrgId,
    /// It.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
}

/// Who is told of what, and what waits to be told.
#[async_trait]
pub trait Notices: Send + Sync {
    /// A new target; `false` when the org has as many as it may.
    async fn put_notify_target(&self, target: NotifyTarget) -> Result<bool>;
    /// The org's targets.
    async fn notify_targets(&self, org: &OrgId) -> Result<Vec<NotifyTarget>>;
    /// Deletes one with all that waits for it; `false` when there is none.
    async fn delete_notify_target(&self, org: &OrgId, target_id: &str) -> Result<bool>;
    /// Has something told to whoever of the org wants to know, unless that was done before. `false` when nobody wants to
    /// know, and it is not told once somebody does.
    async fn notify(&self, org: &OrgId, notice: Notice) -> Result<bool>;
    /// Has a test go to one target, unless one waits there already; either way it is tried at once. None sooner than
    /// `pause` after the last.
    async fn test_notify_target(
        &self,
        org: &OrgId,
        target_id: &str,
        notice: Notice,
        pause: std::time::Duration,
    ) -> Result<Tested>;
    /// Of each target whose time has come the oldest notification: first those that did not fail, then those that have
    /// waited longest, and so many of each org that no other one waits for it.
    async fn due_notices(&self, now: Timestamp, busy: Busy) -> Result<Vec<DueNotice>>;
    /// Whether it is still to go out.
    async fn is_waiting(&self, id: &str) -> Result<bool>;
    /// It was told.
    async fn notice_delivered(&self, target_id: &str, id: &str) -> Result<()>;
    /// It was not: its target is tried again no sooner than `next`, and what came before `oldest` never goes out.
    async fn notice_failed(
        &self,
        due: &DueNotice,
        why: String,
        next: Timestamp,
        oldest: Timestamp,
    ) -> Result<()>;
    /// Nodes that were last heard of in this time.
    async fn quiet_nodes(&self, from: Timestamp, to: Timestamp) -> Result<Vec<QuietNode>>;
}
