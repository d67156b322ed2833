//! What the backends that use an OCI runtime share: where its files lie, what a container shows, and its configuration.
//!
//! ```text
//!   RUNTIME_DIR/PID.START.N/     of one agent process, called after it
//!     stage/                     where things are laid out, each time in other mounts: see `stage`
//!     M/                         one sandbox
//!       config.json              what the runtime is told
//!       root/                    mount points, links, a few small files
//!       state/                   the runtime's own
//! ```
//!
//! Not below the node's directory, which is closed to others: whoever is root in a container is nobody outside, and has
//! to walk to its root.
//!
//! # Invariants
//! - What an agent process leaves that ends without taking its sandboxes down, the next one that starts on this machine
//!   takes away; that of a process that lives is left alone.

mod bundle;
mod config;
mod covered;
mod left;
mod mounted;
mod place;
mod root;
mod stage;
mod view;

pub(super) use self::bundle::Bundle;
pub(super) use self::config::{Config, Dialect, Ids};
pub(super) use self::place::Place;
pub(super) use self::root::{NewRoot, PLACE};
pub(super) use self::stage::restrict;
pub(super) use self::view::{Access, Mount, View};

/// The first process of containers; nothing where it is not written for the processor.
#[cfg(has_init)]
pub(super) const INIT: Option<&[u8]> = Some(include_bytes!(concat!(env!("OUT_DIR"), "/lictor-init")));
#[cfg(not(has_init))]
pub(super) const INIT: Option<&[u8]> = None;
