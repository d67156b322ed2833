//! What every backend has to pass: execution is exact, terminals are what programs take them for, and nobody gets out.
//!
//! ```text
//!   Bench::of(backend) -> pass_all          the cases of `execution` and `terminal`, by one list
//! ```
//!
//! The attempts to get out are made on a site:
//!
//! ```text
//!   Site::prepare -> bait: files, sockets, shared memory and a process of the sandbox's own user, outside
//!   Site::without(attempt)          -> Verdict of a plain process: shows that the attempt is sound
//!   Site::within(attempt, backend)  -> Verdict of a sandbox
//!   expected::judge                 -> what differs from the list of leaks, in either direction
//! ```
//!
//! An attempt is a Python program that says whether it got out. It counts as held only when it says so, or when a
//! signal that the sandbox sends for it ended it; a program that fails in any other way fails the suite.
//!
//! # Invariants
//! - No attempt changes the machine when it succeeds: what it writes is bait, what it asks the kernel for is refused
//!   behind the check that counts, and what it mounts is in a mount namespace of its own.
//! - Nothing is sent to an address that is not this machine's own.

pub mod bench;
mod case;
mod elsewhere;
pub mod execution;
mod expected;
mod filesystem;
mod held;
mod kernel;
pub mod looks;
mod network;
mod processes;
mod program;
mod resources;
mod site;
mod table;
pub mod terminal;
pub mod terms;

use lictor_trust::profiles::Limits;

pub use case::{Case, Passing, all_for, pass_all};
pub use elsewhere::{ELSEWHERE, Elsewhere};
pub use expected::{Leak, judge, judge_where_limits_are_held, leaks};
pub use held::{Column, PROVEN, table_of_capabilities};
pub use site::{Shape, Site};
pub use table::{begin, end, table};

use crate::capability::Capability;

/// What an attempt goes against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Files of the host.
    Filesystem,
    /// Processes of the host, terminals, privileges.
    Processes,
    /// Parts of the kernel that no job needs.
    Kernel,
    /// Sockets and networks of the host.
    Network,
    /// What others need as well.
    Resources,
}

impl Class {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "filesystem",
            Self::Processes => "processes",
            Self::Kernel => "kernel",
            Self::Network => "network",
            Self::Resources => "resources",
        }
    }
}

/// Who has to hold an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Whatever calls itself a sandbox.
    Must,
    /// A hardened one: the attempt gets no further by itself, but has been a step on the way.
    Should,
}

/// The limit that a profile sets for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// 20 processes.
    Pids,
    /// 96 MiB of memory.
    Memory,
    /// Files of 1 MiB.
    FileSize,
    /// 64 open files.
    OpenFiles,
    /// 4 MiB and 500 files.
    Disk,
}

impl Limit {
    fn set(self, limits: &mut Limits) {
        match self {
            Self::Pids => limits.pids = Some(20),
            Self::Memory => limits.memory = Some(96 << 20),
            Self::FileSize => limits.file_size = Some(1 << 20),
            Self::OpenFiles => limits.open_files = Some(64),
            Self::Disk => {
                limits.memory = Some(96 << 20);
                (limits.disk, limits.files) = (Some(4 << 20), Some(500));
            }
        }
    }
}

/// One way out that was tried on somebody before.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its name; stable, since lists of leaks name it.
    pub name: &'static str,
    /// What it goes against.
    pub class: Class,
    /// The kind of vulnerability, or the feature of the kernel.
    pub stands_for: &'static str,
    /// Who has to hold it.
    pub rule: Rule,
    /// The limit that is to hold it.
    pub limit: Option<Limit>,
    /// What a backend needs besides, so that there is something to hold it with.
    pub needs: Option<Capability>,
    /// Errors by which a kernel says that it has no such thing, and why it may have none.
    pub absent: Option<(&'static [&'static str], &'static str)>,
    /// How it is tried, in Python.
    pub program: &'static str,
}

impl Attempt {
    const fn new(class: Class, rule: Rule, texts: [&'static str; 3]) -> Self {
        let [name, stands_for, program] = texts;
        Self {
            name,
            class,
            stands_for,
            rule,
            limit: None,
            needs: None,
            absent: None,
            program,
        }
    }

    const fn limited(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    const fn needing(mut self, capability: Capability) -> Self {
        self.needs = Some(capability);
        self
    }

    const fn absent(mut self, errors: &'static [&'static str], why: &'static str) -> Self {
        self.absent = Some((errors, why));
        self
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It got out; with what.
    Out(String),
    /// It did not; the first word is the error that it got.
    Held(String),
    /// The backend cannot hold the limit here, and says so: nothing ran.
    Refused(String),
    /// What could hold it is missing on this machine.
    Lacks(Capability),
    /// The program did neither: the attempt itself is broken.
    Broken(String),
}

/// All attempts.
pub fn attempts() -> impl Iterator<Item = &'static Attempt> {
    let classes = [
        filesystem::ATTEMPTS,
        processes::ATTEMPTS,
        kernel::ATTEMPTS,
        network::ATTEMPTS,
        resources::ATTEMPTS,
    ];
    classes.into_iter().flatten()
}
