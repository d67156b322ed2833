//! Carrying files into and out of sandboxes: the agent's own program is started in the job's sandbox, as the job's user,
//! with one order in its arguments, and ends with a status that says what went wrong.
//!
//! It goes the way of every job: permit, plan, start, receipt. It holds no key and knows no network: a file comes on its
//! standard input, files go to its standard output.

use lictor_proto::Code;

use crate::imp;

/// The word that makes this program carry files. The order is the next argument.
pub const CARRY_FILES: &str = "carry-files";

/// What it ends with, and what that means.
const STATUSES: [(i32, Code); 11] = [
    (71, Code::TransferFailed),
    (72, Code::DestinationRefused),
    (73, Code::DestinationExists),
    (74, Code::DestinationFull),
    (75, Code::ContentMismatch),
    (76, Code::OwnerRefused),
    (77, Code::SourceRefused),
    (78, Code::SourceMissing),
    (79, Code::SourceTooLarge),
    (80, Code::SandboxUnknown),
    (81, Code::GitFailed),
];

/// Why a file was not carried.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CarryError {
    code: Code,
    message: String,
}

impl CarryError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the process ends with.
    #[must_use]
    pub fn status(&self) -> i32 {
        let known = STATUSES.iter().find(|(_, code)| *code == self.code);
        known.map_or(71, |(status, _)| *status)
    }

    /// What a status of that process means.
    #[must_use]
    pub fn code_of(status: i32) -> Option<Code> {
        STATUSES
            .iter()
            .find(|(known, _)| *known == status)
            .map(|(_, code)| *code)
    }
}

/// Does what the order says, in this process.
///
/// # Errors
/// [`CarryError`]; nothing is at the destination then that was not before.
pub fn carry_files(order: &str) -> Result<(), CarryError> {
    imp::carry_files(order)
}

#[cfg(test)]
mod tests {
    use super::{CarryError, STATUSES};

    #[test]
    fn a_status_means_one_code() {
        for (status, code) in STATUSES {
            assert_eq!(CarryError::code_of(status), Some(code));
            assert_eq!(CarryError::new(code, "").status(), status);
        }
        assert_eq!(CarryError::code_of(1), None);
    }
}
