//! What a job of the kind `collect` writes to standard output: files and directories, as records.
//!
//! ```text
//!   MAGIC  { length (u32, big-endian)  record (JSON)  [ bytes of a chunk ] } ...  { ... End }
//!
//!   Directory | Link | Skipped | File  Chunk bytes  Chunk bytes ...  FileEnd
//! ```
//!
//! The manifest and the files are one stream: what is said about an entry stands before its content. Paths are relative
//! to what was asked for; that itself is the empty path. A directory stands before what is in it. Digests of chunks and
//! files are of the reader's convenience: what counts is the digest of the whole stream, which the receipt signs.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// How the stream begins.
pub const MAGIC: &[u8; 8] = b"LICTORF1";
/// The longest record: a path in which every byte is escaped, a link's target likewise, and then some.
pub const RECORD: usize = 64 * 1024;

/// One thing that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A directory.
    Directory {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file; its chunks follow, then [`Record::FileEnd`].
    File {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// So many bytes of the file follow this record.
    Chunk {
        /// At most [`crate::limits::CHUNK`].
        size: u32,
        /// SHA-256 of them.
        sha256: Digest,
    },
    /// The file is whole.
    FileEnd {
        /// Its bytes.
        size: u64,
        /// SHA-256 of them.
        sha256: Digest,
    },
    /// A symbolic link, which was not followed.
    Link {
        /// Where.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Something that is not brought.
    Skipped {
        /// Where; what is no text is replaced.
        path: String,
        /// Why.
        why: Skip,
    },
    /// All is said.
    End {
        /// How many files.
        files: u64,
        /// Bytes of all of them.
        bytes: u64,
    },
}

/// Why something is not brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// No file, directory or link: a device, a socket, a pipe.
    Special,
    /// The profile's jobs may not read it.
    Unreadable,
    /// It went away, or became something else, while it was looked at.
    Changed,
    /// Another file system is mounted there.
    OtherFileSystem,
    /// The agent's own.
    AgentsOwn,
    /// Its name is no UTF-8.
    Name,
    /// It lies too deep.
    Depth,
}

impl Record {
    /// The record as it is written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &text].concat()
    }
}
