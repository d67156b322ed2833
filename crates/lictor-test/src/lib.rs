//! Fixtures for system tests: the real `lictor` binary as hub, agents and client, on real networks and real disks.
//!
//! Nothing here fakes a part of Lictor. A [`Lab`] is `lictor up` in a temporary directory, a
//! [`Split`] hub and agent as processes of their own; a [`Cli`] runs commands
//! the way a person does; a [`Program`] is any process that is watched while it runs and ended when it is dropped;
//! a [`Cable`] is a pair of network namespaces whose connection can be cut, lengthened and made to swallow packets;
//! a [`SmallDisk`] has little room; a [`Bucket`] is a server that speaks S3; [`hostile`] is a hub that lies on purpose, and everything that it tries.
//!
//! # Invariants
//! - Every wait has a deadline and says what it waited for.
//! - Whatever a fixture starts or makes is gone when it has been dropped, also after a panic.

// Test code starts processes; what it prints is read by whoever looks at a failed test.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod binary;
mod bucket;
mod cable;
mod cli;
pub mod hostile;
mod lab;
mod missing;
mod operator;
mod program;
mod small_disk;
mod split;
mod wait;

pub use binary::{lictor, sibling, workspace_root};
pub use bucket::Bucket;
pub use cable::{Cable, Netns};
pub use cli::{Cli, Done};
pub use lab::{Lab, LabOptions};
pub use missing::{Missing, can_make_namespaces, needs_root, skip};
pub use operator::{Operator, Ran};
pub use program::Program;
pub use small_disk::SmallDisk;
pub use split::{Split, SplitOptions};
pub use wait::{poll, wait_until};
