//! Mounts in which what belongs to the agent's user belongs to a job's.
//!
//! The kernel takes the mapping from a user namespace. One is made for each user that jobs run as, the first time, by a
//! process that does nothing and is ended right after; the namespace stays as long as its descriptor.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::child;
use super::users::{self, User};

/// The user namespaces that were made.
#[derive(Debug, Default)]
pub(crate) struct IdMaps(Mutex<HashMap<(u32, u32), Arc<OwnedFd>>>);

impl IdMaps {
    /// A namespace in which the agent's own user and group are `user`'s.
    pub(super) fn owner_as(&self, user: &User) -> io::Result<Arc<OwnedFd>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&(user.uid, user.gid)) {
            return Ok(known.clone());
        }
        let new = Arc::new(namespace(user)?);
        made.insert((user.uid, user.gid), new.clone());
        Ok(new)
    }
}

fn namespace(user: &User) -> io::Result<OwnedFd> {
    let own = users::current();
    let map = |from: u32, to: u32| format!("{from} {to} 1\n");
    mapped(&map(own.uid, user.uid), &map(own.gid, user.gid))
}

/// A user namespace that nobody is in, with its maps of users and groups as the kernel takes them.
pub(super) fn mapped(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let (waits, ends) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: both are this function's own descriptors, open until after the call.
    let pid = unsafe { child::hold_user_namespace(waits.as_raw_fd(), ends.as_raw_fd()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let mapped = || {
        for (file, map) in [("uid_map", users), ("gid_map", groups)] {
            std::fs::write(format!("/proc/{pid}/{file}"), map)?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            CWD,
            format!("/proc/{pid}/ns/user"),
            flags,
            Mode::empty(),
        )?)
    };
    let namespace = mapped();
    drop(ends);
    child::wait_for(pid as i32);
    namespace
}

/// Maps the ids of a mount that nobody has used yet.
pub(super) fn map(mount: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    // `struct mount_attr`: set, clear, propagation, user namespace.
    let attributes = [
        libc::MOUNT_ATTR_IDMAP,
        0,
        0,
        u64::from(namespace.as_raw_fd().unsigned_abs()),
    ];
    // SAFETY: reads `attributes` for its size; changes the mount that the caller holds and nobody else has.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
