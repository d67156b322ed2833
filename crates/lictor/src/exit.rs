//! What `lictor` exits with.
//!
//! | status | meaning |
//! |---|---|
//! | 0 to 123, 127 | `run`: the remote command's own exit status; other commands: 0 when it worked |
//! | 124 | the job's wall time was up |
//! | 125 | Lictor's own error, or a result that no valid receipt confirms |
//! | 126 | denied: by policy, or by a rule of the trust documents |
//! | 128 + n | `run`: signal n ended the remote command |
//!
//! A remote command may itself exit with 124 to 126; `--json` tells them apart.

use std::process::ExitCode;

use lictor_proto::doc::{Exit, Outcome, Receipt};

/// The job's wall time was up.
pub(crate) const TIMED_OUT: u8 = 124;
/// Lictor's own error, or unconfirmed.
pub(crate) const OWN_ERROR: u8 = 125;
/// Denied.
pub(crate) const DENIED: u8 = 126;

/// An exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u8);

impl Status {
    /// All went well.
    pub(crate) const OK: Self = Self(0);

    /// What a confirmed receipt means for whoever called `lictor run`.
    pub(crate) fn of(receipt: &Receipt) -> Self {
        let of_exit = || match receipt.exit {
            Some(Exit::Status(n)) => Self(u8::try_from(n & 0xff).unwrap_or(OWN_ERROR)),
            Some(Exit::Signal(n)) => Self(u8::try_from(128 + n).unwrap_or(OWN_ERROR)),
            None => Self(OWN_ERROR),
        };
        match receipt.outcome {
            Outcome::Succeeded => of_exit(),
            Outcome::Failed | Outcome::Canceled => match receipt.exit {
                // A command that caught the signal and exited 0 was still canceled, and what the node did after the end of
                // its own program can fail as well.
                Some(Exit::Status(0)) => Self(OWN_ERROR),
                _ => of_exit(),
            },
            Outcome::TimedOut => Self(TIMED_OUT),
            Outcome::Denied => Self(DENIED),
            Outcome::Interrupted | Outcome::Expired => Self(OWN_ERROR),
        }
    }
}

impl From<Status> for ExitCode {
    fn from(s: Status) -> Self {
        Self::from(s.0)
    }
}
