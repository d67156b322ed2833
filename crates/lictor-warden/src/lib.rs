//! The privileged half of the agent: verify, authorise, plan, journal, spawn; knows no network.
//!
//! ```text
//!  Request --> warden --> offer: verify -> law -> facts -> authorise -> plan -> journal --> execution --> receipt
//!                |   \\-> control: law, approval, cancel, ack, stdin                             |
//!                '<---------------------------- journal (the truth) <---------------------------'
//!  EventFeed <-- feed: what is due about each job        read_output <-- spool
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`warden`], [`config`], [`clock`] | the handle, and what it is started with |
//! | `offer`, `execution`, `control` | what is asked of it, each in a task of its own |
//! | [`journal`] | the truth for start and result; audit records ride along |
//! | [`spool`] | output: counted, hashed, kept in part, readable while it is written; standard input |
//! | [`archive`] | results that the hub did not take in time |
//! | [`law`] | the law held, replaced as one whole |
//! | [`feed`] | what the node says on its own |
//! | `redact` | takes the values of secrets out of output |
//! | `recovery`, `housekeeping` | what a crash and what time leave to do |
//! | `schedules` | fires what stands in the journal, at its times |
//! | [`node_dir`] | where a node's files lie |
//!
//! # Invariants
//! - No dependency on any network, HTTP or TLS crate; a test over the dependency graph holds it.
//! - Two syncs are on the way of a job, no more: before its start, and before its result is told.
#![forbid(unsafe_code)]

pub mod archive;
pub mod clock;
pub mod config;
mod control;
mod core;
mod downloads;
mod egress;
mod execution;
pub mod feed;
mod housekeeping;
pub mod journal;
pub mod law;
mod live;
pub mod node_dir;
mod offer;
mod presence;
mod pulls;
pub mod receipt;
mod recovery;
mod redact;
mod retry;
mod sandboxes;
mod schedules;
pub mod spool;
mod steps;
mod suppress;
pub mod warden;
mod work_place;

pub use clock::Clock;
pub use config::Config;
pub use downloads::Downloader;
pub use feed::EventFeed;
pub use journal::JournalError;
pub use journal::export::audit_lines;
pub use lictor_rootfs::Bounds as RootfsBounds;
pub use lictor_sandbox::{ContainerEngine, Host};
pub use presence::Presence;
pub use pulls::Puller;
pub use warden::{StartError, Warden};
pub use work_place::of_node as work_place;
