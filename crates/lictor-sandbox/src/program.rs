//! A program that was judged: which file it is, and how that very file is executed.

use serde::Serialize;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[repr(C)]
pub(crate) struct FileIdentity {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) ctime: i64,
    pub(crate) ctime_nsec: i64,
    pub(crate) size: i64,
}

/// How the program is executed once it has been compared with what was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub(crate) enum ExecBy {
    /// The compared descriptor itself: binaries.
    Descriptor,
    /// The path, right after the comparison: scripts that the job's user cannot change. Their interpreter is
    /// told a path, and many look at it.
    Path,
    /// `/proc/self/fd/N`: scripts that the job's user could change meanwhile.
    DescriptorPath,
    /// The path, compared with nothing: tools of the backend itself.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Trusted,
}

/// A program and everything that its `#!` lines lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OpenProgram {
    /// As looked up (links not resolved), with what it was; then the interpreters.
    pub(crate) files: Vec<(String, FileIdentity)>,
    pub(crate) exec_by: ExecBy,
}

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}
