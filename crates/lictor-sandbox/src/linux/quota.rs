//! A file system of a job's own, with room for so many bytes and files: whatever the job writes, it has an end there.
//!
//! It is memory, mounted at the job's directory in the agent's own view, where `mounts` finds and detaches it with
//! everything else that a job has left, also after an agent was killed.
//!
//! ```text
//!   job's directory   tmpfs: size, nr_inodes, nosuid, nodev
//!     workspace  tmp  shm      of a sandbox that has these places; else the root itself is the job's
//! ```

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use lictor_trust::profiles::Limits;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use rustix::process::{Gid, Uid};

use crate::plan::LaunchSpec;

/// What a file costs at least, for a quota that names no number of files.
const PAGE: u64 = 4096;
/// Directories of the quota's own.
const OWN: u64 = 4;
/// With less than this left it is full.
const FULL: u64 = PAGE;

/// The places of a sandbox in it: name, where it is mounted, rights.
pub(super) const PLACES: [(&str, &str, u32); 3] = [
    ("workspace", "/workspace", 0o700),
    ("tmp", "/tmp", 0o1777),
    ("shm", "/dev/shm", 0o1777),
];

/// Whether there is one.
pub(super) fn is_set(limits: &Limits) -> bool {
    limits.disk.is_some()
}

/// Whether this agent can make one; found out by making one that nobody sees.
pub(super) fn works() -> bool {
    make(PAGE, 1).is_ok()
}

/// Where the job works, as the host sees it.
pub(super) fn workspace(spec: &LaunchSpec) -> PathBuf {
    match is_set(&spec.limits) && spec.backend.is_namespaced() {
        true => spec.dir.join(PLACES[0].0),
        false => spec.workspace(),
    }
}

/// Mounts a job's at its directory, which is there and belongs to its user.
pub(super) fn mount(spec: &LaunchSpec) -> io::Result<()> {
    let Some(bytes) = spec.limits.disk else {
        return Ok(());
    };
    let files = spec.limits.files.unwrap_or(bytes / PAGE).saturating_add(OWN);
    let mount = make(bytes, files)?;
    // As long as nobody but root can come there: whoever owns a directory can put something else in the place of what
    // is in it.
    lay_out(&mount, spec)?;
    let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = rustix::fs::open(&spec.dir, at, Mode::empty())?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(
        mount.as_fd(),
        c"",
        at.as_fd(),
        c"",
        both,
    )?)
}

fn make(bytes: u64, files: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("size", bytes.to_string()),
        ("nr_inodes", files.to_string()),
        ("mode", "0700".into()),
    ] {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value.as_str())?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Makes the places in a file system that nobody else sees yet, and gives them to the job's user.
fn lay_out(mount: &OwnedFd, spec: &LaunchSpec) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(spec.user.uid), Gid::from_raw(spec.user.gid));
    let here = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if spec.backend.is_namespaced() {
        for (name, _, mode) in PLACES {
            rustix::fs::mkdirat(mount, name, Mode::RWXU)?;
            let place = rustix::fs::openat(mount, name, here, Mode::empty())?;
            rustix::fs::fchown(&place, Some(uid), Some(gid))?;
            rustix::fs::fchmod(&place, Mode::from_raw_mode(mode))?;
        }
    }
    // Whoever shows its places has to pass through it, as the job's user.
    let root = rustix::fs::openat(mount, c".", here, Mode::empty())?;
    Ok(rustix::fs::fchown(root, Some(uid), Some(gid))?)
}

/// Takes a job's away, before its directory.
pub(super) fn unmount(spec: &LaunchSpec) {
    if is_set(&spec.limits) {
        // What is still in use goes when it no longer is; what is left for another reason, the removal tells.
        let _ = rustix::mount::unmount(&spec.dir, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Whether a job's is full.
pub(super) fn is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < FULL || s.f_ffree == 0)
}

/// Where a copy of a job's input lies for a moment: beside what is limited, where it does not count.
pub(super) fn beside(spec: &LaunchSpec, name: &str) -> PathBuf {
    match (is_set(&spec.limits), spec.dir.file_name()) {
        (true, Some(own)) => {
            let mut sibling = own.to_owned();
            sibling.push(name);
            spec.dir.with_file_name(sibling)
        }
        _ => spec.dir.join(name),
    }
}
