//! The agent's network side: enrolment, the link, poll mode.
//!
//! It moves bytes and decides nothing. Whatever comes from the hub goes to the warden, which verifies,
//! authorises and runs; whatever the warden says goes to the hub. HTTP handlers never own work: they ask the
//! warden and die with their stream, the work does not.
//!
//! ```text
//!   token --enroll--> node directory --run--> warden <--WardenPort--> link (dial, WebSocket, HTTP/2 server)
//!                                                                \--> poll (the same messages over HTTPS)
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`mod@enroll`] | a machine becomes a node |
//! | [`config`], [`hub`] | the program's settings; where the hub is and which key it has |
//! | [`port`] | the warden, as the network side sees it |
//! | [`routes`] | the agent's HTTP routes, all of them |
//! | [`link`], [`poll`] | the two ways to a hub; [`reconnect`] keeps either up |
//! | [`run`](mod@run) | the daemon: start, serve, drain |
//!
//! # Invariants
//! - Every route and every request either carries a signed document or is on a closed list ([`routes::Authority`]).
#![forbid(unsafe_code)]

pub mod config;
pub mod enroll;
pub mod hub;
pub mod link;
pub mod poll;
pub mod port;
pub mod reconnect;
pub mod routes;
pub mod run;

pub use config::AgentConfig;
pub use enroll::{EnrollError, Enrolled, Enrolment, enroll};
pub use hub::HubFile;
pub use run::{AgentError, agent};
