//! The verdict: (law, verified job, facts) to Permit, Ask or Denial, with the rules that decided.
#![forbid(unsafe_code)]

pub mod environment;
pub mod facts;
pub mod schema;
pub mod shell;

pub use shell::{Action, ShellCode, classify};
