//! What the hub does, without HTTP: every use case as a function that takes a [`Caller`] or a node.
//!
//! # Invariants
//! - No HTTP type occurs in here.
//! - What a caller may not see does not exist: [`Error::NotFound`].
//! - Every refusal and every change is in the audit log of its org.

pub mod access;
pub mod enrol;
mod error;
pub mod jobs;
pub mod law;
pub mod limits;
pub mod notify;
pub mod objects;
pub mod orgs;
mod papers;
pub mod queue;
pub mod retention;
pub mod rollouts;
pub mod running;
pub mod secrets;
pub mod stdin;
pub mod submit;
pub mod views;

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::OrgId;
use lictor_proto::code::Refusal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use access::{Caller, TokenBook};
pub use error::Error;
pub use objects::Objects;
pub use orgs::{Org, OrgBook};

use crate::link::Registry;
use crate::relay::LiveBook;
use crate::store::Store;

/// Everything that the hub's parts share.
pub struct App {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Log segments and standard input.
    pub objects: Objects,
    /// Turns of uploads.
    pub stdin: stdin::StdinGate,
    /// How long things are kept.
    pub retention: retention::Retention,
    /// How much may wait.
    pub queue: queue::QueueBook,
    /// How much may be at work.
    pub running: running::RunningBook,
    /// How often tokens may ask.
    pub rates: limits::RateBook,
    /// How people are told.
    pub notifier: notify::Notifier,
    /// Rollouts that go on.
    pub rollouts: rollouts::RolloutBook,
    /// What the hub believes about each org.
    pub orgs: OrgBook,
    /// Tokens that were checked lately.
    pub tokens: TokenBook,
    /// Nodes that are connected.
    pub links: Registry,
    /// Executions that are worked on or watched.
    pub live: LiveBook,
    /// Every task of the hub.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
    /// Times.
    pub times: Times,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// A lease that nobody renews ends after this.
    pub lease: std::time::Duration,
    /// How often leases and validities are looked at.
    pub reap_every: std::time::Duration,
}

impl App {
    /// The org, if there is one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn org(&self, org: &OrgId) -> Result<Arc<Org>, Error> {
        self.orgs.get(org).ok_or(Error::NotFound)
    }

    /// Records a refusal in the org's log and gives it back as an error.
    pub async fn refuse(&self, org: Option<&OrgId>, kind: EventType, refusal: Refusal) -> Error {
        self.note(org, Event::new(kind).refused(&refusal)).await;
        Error::Recorded(refusal)
    }

    /// Records an event that changes nothing in the database.
    pub async fn note(&self, org: Option<&OrgId>, event: Event) {
        if let Err(e) = self.store.note(org, event).await {
            tracing::error!(error = %Error::from(e).chain(), "the audit log could not be written");
        }
    }
}
