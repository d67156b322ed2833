//! The egress proxy: the only way out of a sandbox.
//!
//! A job's processes reach nothing but a listener that is bound into their sandbox; behind it is this proxy, which
//! judges each attempt by the job's own [`Reach`](lictor_trust::egress::Reach), resolves the name once, judges every
//! address, dials exactly a judged one, and holds the TLS handshake against the name that was asked for.
//!
//! ```text
//! listener ─ first byte ─┬─ 0x05 ── SOCKS5 ───────┐
//!                        ├─ letter ─ HTTP CONNECT ─┼─▶ gate: listed? resolve, judge all, dial ─▶ TLS name ─▶ pump
//!                        └─ letter ─ HTTP GET ... ─┴─▶ gate ─▶ one request, one answer ─▶ next request
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`serve`](mod@serve) | the process: commands in, records out |
//! | [`job`] | one job: its listener, limits, records |
//! | `connection`, `socks`, `http` | what can be spoken to the proxy |
//! | `gate` | from a name to a connection |
//! | [`hello`], `tls` | the name in a TLS handshake |
//! | `pump`, `room` | bytes, counted, and memory for them |
//!
//! # The control protocol
//! The proxy reads hostile bytes, so it is a process of its own, without keys and with nothing open but what it is
//! given: one end of a Unix socket pair of kind `SOCK_SEQPACKET`, by which it is told of jobs. [`run`] is its `main`.
//!
//! - One packet is one message: JSON, at most [`MAX_MESSAGE`](lictor_control::MAX_MESSAGE) bytes, a
//!   [`Command`](lictor_proto::egress::Command) in, an [`Event`](lictor_proto::egress::Event) out.
//! - `{"open":{"job":..,"rules":..}}` carries exactly one descriptor (`SCM_RIGHTS`): a *bound* stream socket,
//!   TCP or Unix, in whatever network namespace. From then on it belongs to the proxy; the sender closes its copy. The
//!   answer is `{"opened":{"job":..}}`, or `{"refused":{..}}` with a word and a sentence, and then nobody listens.
//! - `{"close":{"job":..}}` ends every connection of the job. What is still to be recorded about it follows, then
//!   `{"closed":{"job":..,"totals":..}}`, the last that is heard of it. Then the id may be opened again.
//! - `{"decision":{..}}` is written *before* a byte goes out, one per attempt, numbered from 1 per job;
//!   `{"ended":{..}}` follows for each that was allowed, with the same number.
//! - `{"taken":{"job":..,"records":N}}` says that N of a job's decisions and ends are written down. A job has at most
//!   [`IN_HAND`](lictor_proto::egress::IN_HAND) of them that are not; then it waits, and only it. Once it is being
//!   closed, what is left to say about it comes without waiting.
//! - Whoever does not read the events stops the traffic: no connection goes on whose record cannot be handed over.
//! - A message that cannot be read, or is too long, ends the process; so does the other end of the
//!   socket going away. Either way every job's connections end with it: there is no proxy without its warden.
//!
//! # Invariants
//! - No byte leaves before its decision has been handed over.
//! - A name is resolved once per attempt; what is dialled is one of the addresses that were judged then.
//! - What cannot be read in exactly one way is refused; nothing is repaired and passed on.
//! - One job's rules, limits and records know nothing of another's; what a job cannot have its records taken for
//!   holds up itself alone.
#![forbid(unsafe_code)]

mod connection;
mod denial;
mod gate;
pub mod hello;
pub mod http;
pub mod job;
mod listener;
mod meter;
mod pump;
mod resolve;
mod room;
pub mod serve;
mod socket;
mod socks;
mod stream;
mod tls;

pub use job::{Job, Shared};
pub use listener::{Listener, NotListening};
pub use resolve::{Lookups, Resolve, SystemResolver, Turn};
pub use room::Room;
pub use serve::{ServeError, run, serve};
