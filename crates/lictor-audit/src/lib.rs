//! Append-only, hash-chained event log: event types, records, chain, file, verifier.
//!
//! The agent and the hub each keep one log. A record's canonical bytes are fixed here ([`Record::leaf`]) and are
//! the leaf of a later Merkle log: a record's hash is the RFC 6962 leaf hash, SHA-256(00 || leaf). Each record
//! names the hash of the one before, the first one the hash of the log's own name, so that changing, removing or
//! reordering any record breaks the chain, and cutting the end shows against any head that somebody kept (every
//! receipt carries one).
//!
//! | module | what |
//! |---|---|
//! | [`event`] | the closed list of event types (documented in `docs/audit.md`), and their fields |
//! | [`record`] | one record, its canonical bytes and its line |
//! | [`chain`] | makes records; holds the head |
//! | [`log_file`] | a log in a file of its own: open, append with sync, torn end |
//! | [`verify`](mod@verify) | reads lines and finds what was changed, removed or reordered |
#![forbid(unsafe_code)]

pub mod chain;
pub mod event;
pub mod log_file;
pub mod record;
pub mod verify;

pub use chain::Chain;
pub use event::{Event, EventType, Source, Value};
pub use log_file::LogFile;
pub use record::Record;
pub use verify::{Checked, Expect, verify};
