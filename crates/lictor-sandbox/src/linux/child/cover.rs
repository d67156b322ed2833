//! What is hidden or stays as it is in a sandbox, where its own mounts are the only ones that the agent may make: mounted
//! from inside, by whoever has entered it, before anything of the job is there.
//!
//! # Invariants
//! - A place is found once, following no link, and what is mounted is mounted on that, by descriptor.
//! - What stays as it is, is what the agent has found before; what is hidden is at least of its kind.

use std::ffi::{CStr, c_int, c_long};

use crate::linux::table::{Covering, Over, Table};

/// `fsconfig`: a flag, a word, and that it is complete.
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CREATE: u32 = 6;
/// Close-on-exec, for `fsopen` and `fsmount`.
const FS_CLOEXEC: u32 = 1;
/// `move_mount`: both ends are descriptors.
const BY_DESCRIPTORS: u32 = 0x04 | 0x40;
/// `open_tree`: a copy, attached nowhere.
const COPY: c_int = 1 | libc::O_CLOEXEC;

const INERT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const SEALED: u64 = INERT | libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC;

/// A descriptor of this process, closed with this; `None` when a call has failed, with errno.
struct Fd(c_int);

impl Fd {
    fn of(answer: c_long) -> Option<Self> {
        (answer >= 0).then_some(Self(answer as c_int))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: nobody else uses it.
        unsafe { libc::close(self.0) };
    }
}

/// Puts everything that the table names over what it names; whether all of it is there, else with errno.
///
/// # Safety
/// In the namespaces of the sandbox, with a table that the agent has filled.
pub(super) unsafe fn cover_all(table: &Table) -> bool {
    // SAFETY: the agent has put that many into its slot.
    let covers = unsafe { std::slice::from_raw_parts(table.covers, table.cover_count) };
    // SAFETY: as the caller vouches.
    covers.iter().all(|covering| unsafe { cover(covering) }.is_some())
}

/// # Safety
/// As [`cover_all`].
unsafe fn cover(covering: &Covering) -> Option<()> {
    // SAFETY: system calls with descriptors of this process and strings that outlive them.
    unsafe {
        let at = find(covering)?;
        if !is_meant(&at, covering) {
            *libc::__errno_location() = libc::ESTALE;
            return None;
        }
        let over = match covering.over {
            Over::Empty => empty()?,
            Over::Nothing => {
                let device = libc::syscall(
                    libc::SYS_open_tree,
                    libc::AT_FDCWD,
                    c"/dev/null".as_ptr(),
                    COPY | libc::AT_SYMLINK_NOFOLLOW,
                );
                // On a mount without devices it cannot be opened.
                restricted(Fd::of(device)?, SEALED)?
            }
            Over::ReadOnly => restricted(copy_of(&at)?, INERT | libc::MOUNT_ATTR_RDONLY)?,
            Over::Itself => restricted(copy_of(&at)?, 0)?,
        };
        let none = c"".as_ptr();
        let moved = libc::syscall(libc::SYS_move_mount, over.0, none, at.0, none, BY_DESCRIPTORS);
        (moved == 0).then_some(())
    }
}

/// # Safety
/// As [`cover_all`].
unsafe fn find(covering: &Covering) -> Option<Fd> {
    // `struct open_how`: flags, mode, resolve.
    let how = [
        (libc::O_PATH | libc::O_CLOEXEC) as u64,
        0,
        libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
    ];
    // SAFETY: the path is the agent's; `how` has the kernel's layout.
    Fd::of(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            covering.path,
            how.as_ptr(),
            size_of_val(&how),
        )
    })
}

fn is_meant(at: &Fd, covering: &Covering) -> bool {
    // SAFETY: all-zero is a valid stat; fstat fills it.
    let (found, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(at.0, &raw mut stat), stat)
    };
    let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    found == 0
        && match covering.over {
            Over::Empty => is_directory,
            Over::Nothing => !is_directory,
            Over::ReadOnly | Over::Itself => (stat.st_dev, stat.st_ino) == (covering.dev, covering.ino),
        }
}

/// An empty directory, of the sandbox's root.
///
/// # Safety
/// As [`cover_all`].
unsafe fn empty() -> Option<Fd> {
    // SAFETY: system calls with descriptors of this process and literals.
    unsafe {
        let context = Fd::of(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FS_CLOEXEC))?;
        let set = |command: u32, key: &CStr, value: &CStr| {
            let value = match command {
                SET_STRING => value.as_ptr(),
                _ => std::ptr::null(),
            };
            libc::syscall(libc::SYS_fsconfig, context.0, command, key.as_ptr(), value, 0)
        };
        for (key, value) in [
            (c"size", c"4k"),
            (c"mode", c"0755"),
            (c"uid", c"0"),
            (c"gid", c"0"),
        ] {
            if set(SET_STRING, key, value) < 0 {
                return None;
            }
        }
        let none = std::ptr::null::<u8>();
        if set(SET_FLAG, c"ro", c"") < 0
            || libc::syscall(libc::SYS_fsconfig, context.0, CREATE, none, none, 0) < 0
        {
            return None;
        }
        Fd::of(libc::syscall(libc::SYS_fsmount, context.0, FS_CLOEXEC, SEALED))
    }
}

/// The same, with all that is mounted below, attached nowhere.
///
/// # Safety
/// As [`cover_all`].
unsafe fn copy_of(at: &Fd) -> Option<Fd> {
    let flags = COPY | libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: a descriptor of this process and a literal.
    Fd::of(unsafe { libc::syscall(libc::SYS_open_tree, at.0, c"".as_ptr(), flags) })
}

/// Takes rights away from it and all below, and cuts it off from what it is a copy of.
///
/// # Safety
/// As [`cover_all`].
unsafe fn restricted(tree: Fd, without: u64) -> Option<Fd> {
    // `struct mount_attr`: set, clear, propagation, user namespace.
    let attributes = [without, 0, libc::MS_PRIVATE, 0];
    // SAFETY: a descriptor of this process, and a structure of the size that is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.0,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    (done == 0).then_some(tree)
}
