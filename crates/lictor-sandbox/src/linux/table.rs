//! The table that a child carries out: plain data in memory shared with the zygote, filled before anything forks.
//!
//! A slot is one mapping, made before the zygote is, so that it lies at the same address on both sides and the
//! pointers in it hold on both. The agent writes a slot while it alone owns it, hands it over by a message, and
//! gets it back when the keeper has said `STARTED` or `FAILED`.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64};

pub(super) use crate::program::{ExecBy, FileIdentity};

/// Bytes of one slot: 128 KiB of argv and environment (the signed limit), their pointers, and everything else.
pub(super) const SLOT: usize = 512 * 1024;
/// How many spawns can be under way at once.
pub(super) const AT_ONCE: usize = 16;
/// Slots. A start that hangs for good keeps its slot, and there are spare ones in its place; pages that nobody has
/// written to cost no memory.
pub(super) const SLOTS: usize = 256;
/// Most descriptors handed to a child.
pub(super) const MAX_FDS: usize = 56;
/// Most supplementary groups of a run-as user.
pub(super) const MAX_GROUPS: usize = 64;
/// Most files that are compared or held before the start: a script and its interpreters, and as many secrets as a job may
/// have.
pub(super) const MAX_FILES: usize = 5 + lictor_proto::limits::SECRETS;

/// A file that must still be what was judged.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct FileCheck {
    pub(super) path: *const c_char,
    pub(super) identity: FileIdentity,
    /// Which of the message's copies is used in its place; negative for none.
    pub(super) copy: i32,
    /// Where its descriptor stays open for the program; negative for nowhere.
    pub(super) held_at: i32,
}

impl FileCheck {
    /// What stands where there is no file.
    pub(super) const NONE: Self = Self {
        path: ptr::null(),
        identity: FileIdentity::NONE,
        copy: -1,
        held_at: -1,
    };
}

/// A mount, and what must not be done with it and all that is mounted below (`MOUNT_ATTR_*`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Tightened {
    pub(super) path: *const c_char,
    pub(super) attributes: u64,
}

/// What takes the place of something that a sandbox shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Over {
    /// An empty directory.
    Empty,
    /// Something that cannot be opened.
    Nothing,
    /// Itself, read-only.
    ReadOnly,
    /// Itself, so that it cannot be renamed.
    Itself,
}

/// A place in a sandbox, and what takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Covering {
    pub(super) path: *const c_char,
    pub(super) over: Over,
    /// Device and inode of what must be there, where it is to stay.
    pub(super) dev: u64,
    pub(super) ino: u64,
}

/// How a helper sees the host's cgroups; anything but the first takes mounts of its own, and root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum HostCgroups {
    AsTheyAre,
    ReadOnly,
    /// An empty directory in their place.
    Hidden,
}

/// What a child does; see `child/program.rs` for the order.
#[repr(C)]
pub(super) struct Table {
    /// Descriptors to become 0, 1, 2, ... of the program; the message carries them after the special ones, and copies
    /// of files after them.
    pub(super) inherit: u32,
    /// Whether the message carries a cgroup directory.
    pub(super) has_cgroup: bool,
    /// Whether it carries a pidfd whose namespaces are entered.
    pub(super) has_namespaces: bool,
    /// Whether it carries mounts that are entered.
    pub(super) has_mounts: bool,
    /// Whether it carries a user namespace that is entered, and no others.
    pub(super) has_users: bool,
    /// Mounts of those namespaces that are held to what may be done with them, in place of starting a program.
    pub(super) tightened: *const Tightened,
    pub(super) tightened_count: usize,
    /// What is mounted in them after that, outermost first.
    pub(super) covers: *const Covering,
    pub(super) cover_count: usize,
    /// Whether it carries a Landlock ruleset to stay behind.
    pub(super) has_ruleset: bool,
    /// Where in mounts of its own it puts a mount that the message carries; null where it carries none.
    pub(super) mount_at: *const c_char,
    /// How many cgroups of version 1 it carries to join, each as its open `tasks`.
    pub(super) gates: u32,
    /// Where to listen in those namespaces, in place of starting a program; 0 for nowhere.
    pub(super) listen_port: u16,
    /// Whether ids are set (the agent is root).
    pub(super) set_ids: bool,
    /// Whether they are ids of the namespaces, set when inside; else of the host, set before.
    pub(super) ids_inside: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: [u32; MAX_GROUPS],
    pub(super) group_count: usize,
    pub(super) ignore_sigchld: bool,
    pub(super) die_with_keeper: bool,
    /// Whether whoever the program leaves is ended when there is no agent any more.
    pub(super) ends_alone: bool,
    /// Whether descriptor 0 becomes the session's terminal.
    pub(super) takes_terminal: bool,
    /// How it sees the host's cgroups.
    pub(super) cgroups: HostCgroups,
    /// Whether all privileges go for good: bounding set, capabilities, new privileges, session keyring.
    pub(super) confine: bool,
    pub(super) cwd: *const c_char,
    /// What the keeper is called while it has the job; null for what is no job.
    pub(super) keeper_name: *const c_char,
    /// Whether `cwd` is entered before the ids change: the job's own directory, below ones closed to its user.
    pub(super) cwd_before_ids: bool,
    /// Resource, soft limit, hard limit.
    pub(super) rlimits: [(u32, u64, u64); 8],
    pub(super) rlimit_count: usize,
    pub(super) umask: u32,
    pub(super) filter: *const libc::sock_filter,
    pub(super) filter_len: u16,
    pub(super) exec_by: ExecBy,
    pub(super) files: [FileCheck; MAX_FILES],
    pub(super) file_count: usize,
    pub(super) argv: *const *const c_char,
    pub(super) envp: *const *const c_char,
    /// Set by the keeper that takes the table, before it starts anything, or by the agent that takes it back; whoever
    /// finds it set leaves the table alone.
    pub(super) taken: AtomicBool,
    /// Written by the child: the [`Step`] it stopped at, else 0, and its errno.
    pub(super) failed_step: AtomicI64,
    pub(super) failed_errno: AtomicI32,
    /// Written by whoever entered the namespaces: the program's pid.
    pub(super) main: AtomicI32,
}

/// Copies strings and arrays behind the table, in the same slot.
pub(super) struct Arena {
    next: *mut u8,
    end: *mut u8,
}

/// The slot is too small; the signed limits make this impossible for jobs.
#[derive(Debug)]
pub(super) struct Full;

impl Arena {
    /// # Safety
    /// `slot` starts `SLOT` bytes of mapped memory that the caller alone uses while the arena lives.
    pub(super) unsafe fn after_table(slot: *mut u8) -> Self {
        // SAFETY: both offsets lie in (or one past) the mapping that the caller vouches for.
        unsafe {
            Self {
                next: slot.add(size_of::<Table>().next_multiple_of(16)),
                end: slot.add(SLOT),
            }
        }
    }

    /// Copies `items` and returns where they are.
    pub(super) fn copy<T: Copy>(&mut self, items: &[T]) -> Result<*const T, Full> {
        let at = self.next.align_offset(align_of::<T>());
        let bytes = size_of_val(items);
        let left = self.end as usize - self.next as usize;
        if at.checked_add(bytes).is_none_or(|n| n > left) {
            return Err(Full);
        }
        // SAFETY: `at + bytes` bytes are left before `end`, so source and target are valid for `bytes` bytes; they
        // cannot overlap since nobody else holds a reference into the slot.
        unsafe {
            let target = self.next.add(at);
            ptr::copy_nonoverlapping(items.as_ptr().cast::<u8>(), target, bytes);
            self.next = target.add(bytes);
            Ok(target.cast::<T>())
        }
    }

    pub(super) fn text(&mut self, text: &CString) -> Result<*const c_char, Full> {
        self.copy(text.as_bytes_with_nul()).map(|p: *const u8| p.cast())
    }

    /// A null-terminated array of strings, as execve wants them.
    pub(super) fn texts(&mut self, texts: &[CString]) -> Result<*const *const c_char, Full> {
        let mut pointers = Vec::with_capacity(texts.len() + 1);
        for t in texts {
            pointers.push(self.text(t)?);
        }
        pointers.push(ptr::null());
        self.copy(&pointers)
    }
}

/// What a keeper says: one message of its socket.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Record {
    pub(super) kind: u32,
    pub(super) a: i32,
    pub(super) b: i64,
    pub(super) usage: RawUsage,
}

/// Sums over every process that a keeper waited for.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RawUsage {
    pub(super) user_us: i64,
    pub(super) system_us: i64,
    pub(super) max_rss_kib: i64,
    pub(super) read_blocks: i64,
    pub(super) written_blocks: i64,
}

/// `a` = the keeper's pid; said once.
pub(super) const KEEPER: u32 = 1;
/// `a` = the program's pid.
pub(super) const STARTED: u32 = 2;
/// `a` = errno, `b` = [`Step`].
pub(super) const FAILED: u32 = 3;
/// `a` = wait status of the program; `b` = 1 when other processes are left, else the keeper is free again.
pub(super) const MAIN_ENDED: u32 = 4;
/// No process is left, the keeper is free again; `a` = how many besides the program were waited for.
pub(super) const EMPTY: u32 = 5;

impl Record {
    pub(super) const SIZE: usize = size_of::<Self>();

    pub(super) const fn new(kind: u32, a: i32, b: i64) -> Self {
        Self {
            kind,
            a,
            b,
            usage: RawUsage {
                user_us: 0,
                system_us: 0,
                max_rss_kib: 0,
                read_blocks: 0,
                written_blocks: 0,
            },
        }
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        // SAFETY: `Record` is plain integers without padding requirements beyond its size, any bit pattern is a
        // value, and `bytes` has exactly its size; read_unaligned asks for no alignment.
        unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

/// Where a child stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub(super) enum Step {
    Fork = 1,
    Ids,
    Namespaces,
    ForkProgram,
    Descriptors,
    Confine,
    Landlock,
    Limits,
    Directory,
    Open,
    Changed,
    Seccomp,
    Exec,
    Cgroups,
    Listen,
    Terminal,
    Mounts,
    Tighten,
    Cover,
}

impl Step {
    /// As the rest of "cannot ...".
    pub(super) fn describe(code: i64) -> &'static str {
        match code {
            1 => "fork the keeper",
            2 => "become the run-as user",
            3 => "enter the sandbox",
            4 => "fork the program",
            5 => "set up descriptors",
            6 => "give up privileges",
            7 => "stay behind the Landlock rules",
            8 => "set resource limits",
            9 => "enter the working directory",
            10 => "open the program",
            11 => "use the program: it was changed",
            12 => "install the seccomp filter",
            14 => "join the job's cgroups",
            15 => "listen in the sandbox",
            16 => "take the terminal",
            17 => "mount the job's root",
            18 => "hold what is shown to what may be done with it",
            19 => "put something over what is hidden or stays as it is",
            _ => "execute the program",
        }
    }
}
