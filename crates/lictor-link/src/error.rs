//! What can go wrong between two machines, as few cases as a caller can act on.

use std::error::Error as _;
use std::io;

use lictor_proto::code::{Code, Refusal};

/// Why a connection could not be made or was lost.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is none.
    #[error("{0:?} is not an address of the form http(s)://host:port")]
    Address(String),
    /// No connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// `host:port`.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server's key is not the pinned one.
    #[error("the server's key is {seen}, which is not pinned")]
    Pin {
        /// SPKI digest of the key that was seen.
        seen: lictor_proto::Digest,
    },
    /// TLS failed otherwise.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// A certificate or key could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The other side doesn't speak what it should.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("connection lost")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer within the deadline.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// More bytes than the caller takes.
    #[error("answer is over the limit of {0} bytes")]
    TooLarge(usize),
}

impl LinkError {
    /// The stable code that people and programs see.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Address(_) | Self::Protocol(_) => Code::BadRequest,
            Self::Connect { .. } | Self::Tls(_) | Self::Lost(_) => Code::Unavailable,
            Self::Pin { .. } => Code::HubPin,
            Self::Certificate(_) => Code::Internal,
            Self::Timeout(_) => Code::Timeout,
            Self::TooLarge(_) => Code::TooLarge,
        }
    }

    /// The error with all its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        text
    }
}

impl From<LinkError> for Refusal {
    fn from(e: LinkError) -> Self {
        Self::new(e.code(), e.chain())
    }
}
