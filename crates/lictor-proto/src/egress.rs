//! What the warden and the egress proxy say to each other, and the records of what was let out.
//!
//! The proxy reads hostile bytes, so it is a process of its own that holds no key; the warden knows no network. Between
//! them is one Unix socket of kind `SOCK_SEQPACKET`: one message is one packet of JSON, 128 KiB at most.
//! [`Command`] goes to the proxy, [`Event`] comes back; the protocol itself is written down in `lictor-egress`.
//!
//! # Invariants
//! - Both sets are closed. What cannot be read ends the channel, and with it every way out.
//! - A record holds nothing that a job chose but a host name in its one spelling, and addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::ids::JobId;
use crate::time::Timestamp;

/// The most decisions and ends of one job that have been handed over and not taken ([`Command::Taken`]): a job whose
/// records are many waits for its own, and no other job does.
pub const IN_HAND: u32 = 64;

/// What the warden asks of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Serve this job. Exactly one descriptor travels with it: a listening stream socket, TCP or Unix.
    Open(Box<Open>),
    /// So many of a job's decisions and ends are written down.
    Taken {
        /// Which job.
        job: JobId,
        /// How many, since this was said last.
        records: u32,
    },
    /// The job has ended: end its connections, forget it.
    Close {
        /// Which job.
        job: JobId,
    },
}

/// A job and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Which job.
    pub job: JobId,
    /// Its rules, presets written out.
    pub rules: Rules,
}

/// What the proxy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The job's listener is being served.
    Opened {
        /// Which job.
        job: JobId,
    },
    /// Somebody wanted out.
    Decision(Box<Decision>),
    /// Something that was allowed has ended.
    Ended(Ended),
    /// The job is forgotten; the last that is heard of it.
    Closed {
        /// Which job.
        job: JobId,
        /// What it did altogether.
        totals: Totals,
    },
    /// A command was not obeyed.
    Refused {
        /// Which job.
        job: JobId,
        /// Why.
        why: Refused,
        /// A sentence for people.
        text: String,
    },
}

/// Why a command was not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The rules cannot be read.
    BadRules,
    /// No descriptor came with the message, or several, or one that is no listening stream socket.
    BadListener,
    /// A job of this id is open already.
    AlreadyOpen,
    /// No job of this id is open.
    NotOpen,
    /// More jobs than the proxy serves at once.
    TooManyJobs,
}

/// What one job may reach, with everything written out: no presets, no defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What applies to destinations that are not listed.
    pub mode: Mode,
    /// Listed destinations, in the form of `lictor_trust::egress::Destination`.
    pub allow: Vec<String>,
    /// Ranges that are not public and may be reached all the same, in the form of `lictor_trust::egress::Range`.
    pub private: Vec<String>,
    /// What happens to TLS that cannot be held against the name asked for.
    pub tls: TlsPolicy,
    /// Limits.
    pub limits: Limits,
}

/// What a job may reach at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing.
    #[default]
    None,
    /// What is listed.
    Allowlist,
    /// Every public address.
    Open,
}

impl Mode {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allowlist => "allowlist",
            Self::Open => "open",
        }
    }
}

/// What happens to a tunnel whose first bytes do not show the name that was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsPolicy {
    /// A TLS handshake without a server name.
    pub no_sni: Unverified,
    /// A TLS handshake with Encrypted ClientHello; the name outside must still be the one asked for.
    pub ech: Unverified,
    /// Bytes that are no TLS handshake.
    pub not_tls: Unverified,
}

/// What happens to what cannot be verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unverified {
    /// The connection is ended.
    #[default]
    Deny,
    /// It goes on.
    Allow,
}

/// Limits of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// Attempts altogether: tunnels and plain requests, allowed or not.
    pub attempts: u64,
    /// Bytes out of the sandbox.
    pub bytes_up: u64,
    /// Bytes into it.
    pub bytes_down: u64,
    /// The longest head of a plain request or answer, in bytes.
    pub head_bytes: u32,
    /// How long a connection may be silent, in milliseconds.
    pub idle_ms: u64,
    /// How long asking may take: request head, proxy handshake, TLS ClientHello, each name lookup, each dial.
    pub handshake_ms: u64,
}

/// One attempt to get out, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whose.
    pub job: JobId,
    /// The job's how many-th attempt, from 1.
    pub attempt: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// How it was asked.
    pub protocol: Protocol,
    /// The host asked for, in its one spelling; nothing when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What the name server answered, 32 addresses at most; empty for an address that was asked for as such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<IpAddr>,
    /// Where the connection went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<SocketAddr>,
    /// The server name in the TLS handshake, in its one spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verdict {
    /// It went out; an [`Ended`] follows.
    Allowed {
        /// By this entry of the rules, or `open`.
        rule: String,
    },
    /// It did not.
    Denied {
        /// Why, as a stable word.
        reason: Reason,
        /// The entry of the rules that names it all the same, or `open`; nothing when none does, or nothing was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// Why, as a sentence of the proxy's own.
        detail: String,
    },
}

impl Verdict {
    /// The entry that names what was asked for.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Allowed { rule } => Some(rule),
            Self::Denied { rule, .. } => rule.as_deref(),
        }
    }
}

/// How a connection was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP CONNECT.
    Connect,
    /// A plain HTTP request in absolute form.
    Http,
    /// SOCKS5 CONNECT.
    Socks5,
    /// It was not said in a way that could be read.
    Unknown,
}

impl Protocol {
    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Http => "http",
            Self::Socks5 => "socks5",
            Self::Unknown => "unknown",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $word:literal,)*) => {
        /// Why an attempt was denied. The words are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word in records, headers and documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// The rules have mode `none`.
    NoEgress => "no_egress",
    /// No entry names this host and port.
    NotListed => "not_listed",
    /// The address, or one of those that the name has, is not a public one and no entry names its range.
    PrivateAddress => "private_address",
    /// The address, or one of those that the name has, is where a cloud keeps a machine's credentials.
    MetadataAddress => "metadata_address",
    /// The address, or one of those that the name has, is this machine's own.
    OwnAddress => "own_address",
    /// The request cannot be read in exactly one way.
    BadRequest => "bad_request",
    /// A part of the protocol that is not served: SOCKS BIND or UDP, `https` in absolute form.
    Unsupported => "unsupported",
    /// The request did not come in time.
    Timeout => "timeout",
    /// The name in the TLS handshake is not the one asked for.
    SniMismatch => "sni_mismatch",
    /// The TLS handshake has no name.
    NoSni => "no_sni",
    /// The TLS handshake hides its name.
    Ech => "ech",
    /// It is not TLS.
    NotTls => "not_tls",
    /// It is TLS, and broken or beyond limits.
    BadTls => "bad_tls",
    /// The job has moved all the bytes it may.
    BytesLimit => "bytes_limit",
    /// The job has as many connections as it may, or has made as many attempts as it may.
    ConnectionsLimit => "connections_limit",
    /// The name has no address.
    DnsFailed => "dns_failed",
    /// Nobody answers at the address.
    DialFailed => "dial_failed",
    /// The job ended meanwhile.
    JobEnded => "job_ended",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of an attempt that was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Whose.
    pub job: JobId,
    /// Which attempt.
    pub attempt: u64,
    /// When.
    pub at: Timestamp,
    /// Bytes out of the sandbox.
    pub up: u64,
    /// Bytes into it.
    pub down: u64,
    /// How.
    pub how: End,
}

/// How something that was allowed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Both sides were done.
    Done,
    /// The job's side broke off.
    ClientGone,
    /// The other side broke off.
    ServerGone,
    /// Nothing moved for too long.
    Idle,
    /// The job has moved all the bytes it may.
    BytesLimit,
    /// The job's side sent what cannot be read in exactly one way.
    BadRequest,
    /// The other side did.
    BadResponse,
    /// A second TLS handshake in the same connection named somebody else.
    SniMismatch,
    /// The job ended.
    JobEnded,
}

impl End {
    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientGone => "client_gone",
            Self::ServerGone => "server_gone",
            Self::Idle => "idle",
            Self::BytesLimit => "bytes_limit",
            Self::BadRequest => "bad_request",
            Self::BadResponse => "bad_response",
            Self::SniMismatch => "sni_mismatch",
            Self::JobEnded => "job_ended",
        }
    }
}

/// What whoever may read a job's output hears of its way out: the payload of a frame of kind
/// [`Egress`](crate::frame::FrameKind::Egress).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// Somebody wanted out.
    Decision(Box<Decision>),
    /// Something that was allowed has ended.
    Ended(Ended),
    /// There were more than a log of output takes; the node's audit log has all of them. With nothing counted: from here
    /// on they are only counted. With the job's end, the counts.
    LeftOut(LeftOut),
}

/// Records that are in the node's audit log only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Attempts that were allowed.
    pub allowed: u64,
    /// Attempts that were denied.
    pub denied: u64,
    /// Ends of those that were allowed.
    pub ended: u64,
}

/// What a job did altogether.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Attempts that were allowed.
    pub allowed: u64,
    /// Attempts that were denied.
    pub denied: u64,
    /// Bytes out of the sandbox.
    pub up: u64,
    /// Bytes into it.
    pub down: u64,
}
