//! The verdict: (law, verified job, facts) to Permit, Ask or Denial, with the rules that decided.
//!
//! | module | what |
//! |---|---|
//! | [`schema`] | the Cedar schema, shipped |
//! | [`law`], [`gate`] | a bundle's policies, loaded: all of them or none |
//! | [`facts`], [`shell`], [`environment`] | what was found; `exec`, `shell` or `shell_opaque`; refused variables |
//! | [`evaluate`](mod@evaluate) | a prediction, for `lictor explain` and tests |
//! | `authorise` (feature) | the only maker of a `Permit` |
//! | [`mod@lint`], [`cases`] | `lictor org check`, `lictor org test` |
//! | [`starter`] | the organisations that are shipped |
//!
//! # Invariants
//! - No IO, no clock, no async. The caller says what time it is.
//! - No match, no parse, any error: deny.
#![forbid(unsafe_code)]

#[cfg(feature = "authorise")]
pub mod authorise;
pub mod cases;
pub mod context;
pub mod entities;
pub mod environment;
pub mod evaluate;
pub mod facts;
pub mod gate;
pub mod law;
pub mod lint;
mod rule;
pub mod schema;
pub mod shell;
pub mod starter;
mod tally;

#[cfg(feature = "authorise")]
pub use authorise::{
    Asked, Authorise, AuthoriseCancel, CancelPermit, Decision, Denial, Permit, authorise, authorise_cancel,
};
pub use cases::{Case, CaseError, Report, run_cases};
pub use entities::NodeContext;
pub use evaluate::{Outcome, Question, Verdict, evaluate, evaluate_cancel};
pub use facts::Facts;
pub use law::{Law, LoadError, Problem};
pub use lint::lint;
pub use shell::{Action, ScriptRead, ShellCode, classify, read_script};
