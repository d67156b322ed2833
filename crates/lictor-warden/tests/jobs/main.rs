//! Real jobs through a real warden on the real host backend: from signed bytes to a verified receipt.
#![allow(clippy::unwrap_used, unreachable_pub)] // a failure here is a failed test

mod audited;
mod broken;
mod changed;
mod kept;
mod lives;
mod ordered;
mod revoked;
mod schedules;
mod schedules_more;
mod secrets;
mod sleeper;
mod support;
mod telling;
mod verdicts;
mod warm;
