//! The privileged half of the agent: verify, authorise, plan, journal, spawn; knows no network.
#![forbid(unsafe_code)]

pub mod journal;
pub mod node_dir;
pub mod spool;
