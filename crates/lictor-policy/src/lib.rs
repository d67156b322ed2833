//! The verdict: (law, verified job, facts) to Permit, Ask or Denial, with the rules that decided.
#![forbid(unsafe_code)]

pub mod facts;
