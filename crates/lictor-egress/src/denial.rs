//! Why an attempt goes no further.

use std::borrow::Cow;
use std::io;

use lictor_proto::egress::Reason;

/// Why an attempt goes no further.
#[derive(Debug, Clone)]
pub(crate) struct Denial {
    /// The stable word.
    pub(crate) reason: Reason,
    /// A sentence of our own; never bytes that somebody sent.
    pub(crate) detail: Cow<'static, str>,
    /// What the kernel said, where it was the kernel.
    pub(crate) kind: Option<io::ErrorKind>,
}

impl Denial {
    /// With a word and a sentence.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            kind: None,
        }
    }

    /// What was sent can't be read in exactly one way.
    pub(crate) fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::BadRequest, detail)
    }

    /// The job has ended, or nobody takes its records any more.
    pub(crate) fn job_ended() -> Self {
        Self::new(Reason::JobEnded, "the job has ended")
    }

    /// The client went away before it had said what it wanted.
    pub(crate) fn gone() -> Self {
        Self::bad("the connection ended within the request")
    }
}
