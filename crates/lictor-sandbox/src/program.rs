//! A program that was judged: which file it is, and how that very file is executed.

use std::fs::File;
use std::sync::Arc;

use lictor_proto::Digest;
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

impl FileIdentity {
    /// That of no file: what is compared with nothing.
    pub(crate) const NONE: Self = Self {
        dev: 0,
        ino: 0,
        ctime: 0,
        ctime_nsec: 0,
        size: 0,
    };
}

/// How the program is executed once it has been compared with what was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub(crate) enum ExecBy {
    /// The last file itself, by its descriptor: a binary, or the binary that a script's `#!` lines lead to.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Descriptor,
    /// The path, right after the comparison: scripts that only root can change or put others in the place of, and
    /// their interpreters. An interpreter is told a path, and many scripts look at it.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Path,
    /// The path, compared with nothing: tools of the backend itself.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    Trusted,
}

/// A file of a program.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProgramFile {
    /// As looked up, links not resolved; empty for a text that is held and nowhere else.
    pub(crate) path: String,
    /// What it was.
    pub(crate) identity: FileIdentity,
    /// Where an interpreter finds this very file: `/dev/fd/` and this number.
    pub(crate) held_at: Option<u32>,
    /// Whether others than root could change it, or what its path leads to.
    #[serde(skip)]
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) loose: bool,
    /// What was judged, where others than root could change the file meanwhile.
    #[serde(skip)]
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) copy: Option<Arc<File>>,
}

/// A program and everything that its `#!` lines lead to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OpenProgram {
    /// The program, then the interpreters.
    pub(crate) files: Vec<ProgramFile>,
    pub(crate) exec_by: ExecBy,
    /// What stands in the place of the first argument: the kernel's words for a script whose interpreter is executed
    /// instead of it.
    pub(crate) in_place_of_first: Option<Vec<String>>,
    /// Of what text the first file is, when it is a script of the job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) script: Option<Digest>,
    /// Whether it is the agent's own program, which no path in the sandbox leads to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) is_own: bool,
}

impl ProgramFile {
    /// Whether there is nothing to look up and compare: it is held, and nowhere else.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn is_only_held(&self) -> bool {
        self.path.is_empty()
    }
}

impl OpenProgram {
    /// None: of a place that has no job yet.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn none() -> Self {
        Self {
            files: Vec::new(),
            exec_by: ExecBy::Trusted,
            in_place_of_first: None,
            script: None,
            is_own: false,
        }
    }
}

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}
