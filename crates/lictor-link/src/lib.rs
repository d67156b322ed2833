//! The byte path between agent, hub and client: TLS by pinned key, WebSocket as a stream, HTTP/2 settings.
//!
//! Knows nothing of documents: what passes here was signed elsewhere and is checked elsewhere. What this crate
//! does promise is *which key* is at the other end, bounded messages, deadlines, and one set of HTTP/2 settings
//! under which a stalled stream cannot stall its neighbours.
//!
//! | module | what |
//! |---|---|
//! | [`cert`] | self-signed certificates: Ed25519 from a link seed, ECDSA P-256 for browsers; SPKI digests |
//! | [`tls`] | client and server configurations, TLS 1.3 only, the choice by ALPN |
//! | [`ws`] | WebSocket handshakes of both sides, and [`ws::WsStream`], which makes bytes of messages |
//! | [`h2`] | the HTTP/2 settings of the link, for the side that serves and the side that asks |
//! | [`peer`] | the asking side of a link: bounded calls, and streams behind a semaphore |
//! | [`dial`] | TCP and TLS connections with deadlines |
//! | [`http`] | a small HTTP client for the hub's API |
#![forbid(unsafe_code)]

pub mod cert;
pub mod dial;
mod error;
pub mod h2;
pub mod http;
pub mod peer;
pub mod tls;
pub mod ws;

pub use error::LinkError;
pub use hyper;
pub use tls::install_crypto_provider;
