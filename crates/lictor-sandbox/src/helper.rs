//! Tools that an agent has run for itself, to their end: not jobs, and nothing that a job decides about.

use std::path::PathBuf;
use std::time::Duration;

/// A tool and what it may take.
#[derive(Debug, Clone)]
pub struct Helper {
    /// An absolute path, then its arguments.
    pub argv: Vec<String>,
    /// All of its environment.
    pub env: Vec<(String, String)>,
    /// How little it gets; `None` for the agent's own program, which stays who the agent is.
    pub confined: Option<Confined>,
    /// How long it may take.
    pub within: Duration,
    /// How many bytes of its output are kept; more are read and forgotten.
    pub output: usize,
}

/// A tool that reads what strangers send: an unprivileged user where the agent is root, no privileges, the sandboxes'
/// system call filter, and by Landlock, without which it is not run, one directory to write to and little more to read
/// than programs.
#[derive(Debug, Clone)]
pub struct Confined {
    /// That directory; see [`crate::Host::helper_place`] for what the tool finds it as.
    pub place: PathBuf,
    /// Largest file that it may write.
    pub file_size: u64,
    /// How much memory of its own each of its processes may have, in bytes: what is mapped to be written to and shared with
    /// nobody, whether it is used or not.
    pub memory: u64,
    /// TCP ports that it may connect to besides that of name servers (Linux 6.7).
    pub ports: Vec<u16>,
}

/// What a tool that has ended has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helped {
    /// Whether it ended with status 0.
    pub succeeded: bool,
    /// The beginning of its output.
    pub output: Vec<u8>,
    /// The first 4 KiB of its errors.
    pub errors: Vec<u8>,
}

/// Why a tool did not come to its end; whatever there was of it has been ended.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It was not started, or could not be watched.
    #[error("it cannot be run")]
    Io(#[from] std::io::Error),
    /// Its time was over.
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
    /// Whoever watched it had enough.
    #[error("{0}")]
    Stopped(String),
}
