//! Why a root filesystem could not be taken, used or removed.

use std::io;
use std::path::{Path, PathBuf};

use lictor_proto::{Code, Digest};

/// Why a root filesystem could not be taken, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is none of this digest.
    #[error("this node has no root filesystem {0}")]
    Missing(Digest),
    /// A job uses it.
    #[error("a job uses {0}")]
    InUse(Digest),
    /// It is not what it was called.
    #[error("{what} is {found}, not {expected}")]
    Mismatch {
        /// What was looked at.
        what: String,
        /// What it was called.
        expected: String,
        /// What it is.
        found: String,
    },
    /// It is no archive or image, or one that must not be unpacked.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than it may be.
    #[error("{0}")]
    TooLarge(String),
}

impl RootfsError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::RootfsUnusable,
            Self::Missing(_) => Code::RootfsMissing,
            Self::InUse(_) => Code::RootfsInUse,
            Self::Mismatch { .. } => Code::RootfsMismatch,
            Self::Invalid(_) => Code::RootfsInvalid,
            Self::TooLarge(_) => Code::LimitExceeded,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
