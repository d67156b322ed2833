//! Why the hub did not do what it was asked.

use std::error::Error as _;

use lictor_proto::api::TokenScope;
use lictor_proto::code::Refusal;

use crate::store::StoreError;

/// A decision of the hub that a caller can act on, or a failure inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid token, or no valid client certificate.
    #[error("not authenticated")]
    Unauthenticated,
    /// The token is valid and may not do this.
    #[error("the token's scope must be {0:?} or more")]
    Scope(TokenScope),
    /// There is no such thing, or it is another org's.
    #[error("not found")]
    NotFound,
    /// What was sent is refused.
    #[error("{0}")]
    Refused(#[source] Refusal),
    /// What was sent is refused, and the audit log of its org says so already.
    #[error("{0}")]
    Recorded(#[source] Refusal),
    /// It is over a limit now; the same may be asked again after this long.
    #[error("{0}")]
    Later(#[source] Refusal, std::time::Duration),
    /// Something else was there before.
    #[error("conflict: {0}")]
    Conflict(#[source] Refusal),
    /// The database failed.
    #[error("store")]
    Store(#[from] StoreError),
    /// Object storage failed.
    #[error("object storage")]
    Objects(#[from] object_store::Error),
    /// Stored bytes are damaged, or the system failed.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Whether the same may succeed in a while: storage failed, and was not closed or damaged.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Objects(_) | Self::Store(StoreError::Database(_) | StoreError::Aborted(_))
        )
    }

    /// The error with all its causes in one line, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(e) = cause {
            let next = e.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = e.source();
        }
        text
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<lictor_proto::Code> for Error {
    fn from(code: lictor_proto::Code) -> Self {
        Self::Refused(code.into())
    }
}
