//! Typed client of the hub's API: submits signed work, verifies what comes back.
//!
//! The hub is believed in nothing that matters: law, node keys and receipts are checked here against what this
//! home has pinned, and output counts as a result only once the node's signature over it holds.
//!
//! | module | what |
//! |---|---|
//! | [`home`] | the directory with configuration, keys and pinned trust |
//! | [`hub`] | the API as typed calls |
//! | [`follow`] | frames of one execution, held against its receipt |
//! | [`files`] | what a job has brought from a node, as files |
//! | [`fleet`] | frames of several executions of one job, taken apart |
//! | [`target`] | which nodes are meant: names, globs, labels, groups |
//! | [`rollout`] | how a job is spread over its nodes |
//! | [`confirm`] | from a receipt to a result that may be believed |
//! | [`sign`] | the documents that people sign |
//! | [`trust`] | pinned law and nodes of this home |
//! | [`receipts`] | receipts seen before: conflicts, regress and gaps show |
//! | [`error`] | what a call can fail with |
#![forbid(unsafe_code)]

pub mod confirm;
pub mod error;
pub mod files;
pub mod fleet;
pub mod follow;
pub mod home;
pub mod hub;
mod lock;
mod probe;
pub mod receipts;
pub mod rollout;
pub mod secrets;
pub mod sign;
pub mod target;
pub mod trust;
mod witness;

pub use confirm::{Confirmed, Expected, Outcome, Unconfirmed};
pub use error::Error;
pub use fleet::{Fleet, Happened};
pub use follow::{Compared, Doubt, Follower, Item, Stream};
pub use home::{Config, Home, HomeError, HubAddress};
pub use hub::{FrameStream, Hub};
pub use receipts::{Noted, ReceiptTracker};
pub use sign::{GrantOptions, JobOptions, Recurrence, SignedDoc, Signer};
pub use target::Target;
pub use trust::TrustStore;
