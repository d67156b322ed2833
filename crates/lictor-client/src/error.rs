//! What a call to the hub can fail with.

use lictor_link::LinkError;
use lictor_proto::Code;
use lictor_proto::code::Refusal;

use crate::home::HomeError;

/// Why a call failed: one case per thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub could not be reached, or the connection broke.
    #[error("the hub cannot be reached")]
    Link(#[source] LinkError),
    /// The hub answered with a problem.
    #[error("the hub refused")]
    Refused(#[source] Refusal),
    /// A document, from the hub or from this home, does not hold; the refusal says how.
    #[error("a document does not hold")]
    Untrusted(#[source] Refusal),
    /// The hub's answer is not what the API says.
    #[error("the hub's answer makes no sense: {0}")]
    Malformed(String),
    /// A file of the home.
    #[error("the home cannot be used")]
    Home(#[from] HomeError),
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Link(e) => e.code(),
            Self::Refused(r) | Self::Untrusted(r) => r.code,
            Self::Malformed(_) => Code::BadRequest,
            Self::Home(_) => Code::Internal,
        }
    }
}

impl From<LinkError> for Error {
    fn from(e: LinkError) -> Self {
        Self::Link(e)
    }
}
