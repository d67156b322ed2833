//! Ids, documents, wire types and error codes: data only, no IO, no async.
//!
//! Everything that crosses a process border is described here once, so that hub, agent and client cannot
//! disagree. The crate holds no key and checks no signature (that is `lictor-trust`); it does check *shape*:
//! limits, names, the one time form, and strict JSON, since a document that can be read in two ways can be
//! signed in one and obeyed in the other.
//!
//! | module | what |
//! |---|---|
//! | [`ids`] | `OrgId`, `NodeId`, `JobId`, `KeyId`, `Digest`, `Name` |
//! | [`time`] | the one time form, `YYYY-MM-DDTHH:MM:SS.mmmZ` |
//! | [`json`] | strict JSON: no duplicate keys, floats, big integers or deep nesting |
//! | [`envelope`] | DSSE envelope and its PAE |
//! | [`webauthn`] | what a passkey signs, as types; refused so far |
//! | [`doc`] | one type per signed document |
//! | [`timetable`] | cron expressions with time zones |
//! | [`code`] | every stable refusal and error code, with a sentence and a hint |
//! | [`frame`] | the output frame: spool, link, segment and follower share it |
//! | [`download`] | what a warden and its downloading process say to each other |
//! | [`egress`] | rules, commands and records of the egress proxy |
//! | [`agent`] | messages between the warden and whatever brings them: link, poll, direct |
//! | [`api`] | the hub's HTTP API |
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod code;
pub mod doc;
pub mod download;
pub mod egress;
pub mod envelope;
pub mod files;
pub mod frame;
pub mod ids;
pub mod json;
pub mod limits;
#[cfg(feature = "openapi")]
mod openapi;
pub mod time;
pub mod timetable;
pub mod webauthn;

pub use code::Code;
pub use envelope::Envelope;
pub use ids::{Digest, JobId, KeyId, Name, NodeId, OrgId};
pub use time::Timestamp;
