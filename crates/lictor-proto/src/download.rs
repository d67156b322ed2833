//! What a warden and the process that downloads a file for it say to each other.
//!
//! The process reads what strangers send, so it holds no key, writes no file and reaches nobody but the egress proxy, by one connection
//! that it finds as its standard input. It makes one request over that. What it has to say is the first line of its
//! standard output, an [`Answer`]; after [`Answer::Content`] follow the bytes, to the end. Why it failed is one line of
//! its standard error, a [`Failed`].
//!
//! # Invariants
//! - Nothing that it says is believed: bytes are counted and hashed where they are written, and where a request goes is decided by
//!   the proxy.

use serde::{Deserialize, Serialize};

use crate::doc::FileUrl;

/// Longest line of either kind, its end not counted.
pub const LINE: usize = 8 * 1024;
/// Largest text of certificates that go with an order.
pub const CERTIFICATES: usize = 64 * 1024;
/// How often one request may be answered with "elsewhere".
pub const REDIRECTS: usize = 5;

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What to ask for.
    pub url: FileUrl,
    /// From which byte on.
    pub from: u64,
    /// How many bytes there are.
    pub size: u64,
    /// Whom to trust besides those whom the machine does: certificates as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The bytes follow.
    Content {
        /// From which one on: the one that was asked for, or the first.
        at: u64,
    },
    /// The server says that it is somewhere else.
    Elsewhere {
        /// Where.
        url: FileUrl,
    },
}

/// Why it did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// In a word.
    pub why: Why,
    /// In a sentence.
    pub text: String,
}

/// What a failure means for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It may go better.
    Again,
    /// It will go the same.
    Final,
    /// What the server has is longer or shorter than what was ordered.
    Size,
    /// The server does not go on from there: what is here may be of another file.
    Anew,
}

impl Failed {
    /// With a sentence.
    #[must_use]
    pub fn new(why: Why, text: impl Into<String>) -> Self {
        Self {
            why,
            text: text.into(),
        }
    }
}
