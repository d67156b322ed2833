//! A file system of a job's own, with room for so many bytes and files: whatever the job writes, it has an end there.
//!
//! It is memory, mounted at the job's directory in the agent's own view, where `mounts` finds and detaches it with
//! everything else that a job has left, also after an agent was killed. Other mount namespaces of the host get none of
//! it: what is mounted on a shared mount is mounted for all of them, and would be held by them, too. So the directory is
//! mounted on itself first, which costs nothing wherever it comes, and that mount is nobody else's.
//!
//! ```text
//!   job's directory   itself, private
//!     '- on it       tmpfs: size, nr_inodes, nosuid, nodev
//!          workspace  tmp  shm      of a sandbox that has these places; else the root itself is the job's
//!          root                     of a job that may write to its root: nobody but root can enter it
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lictor_trust::profiles::Limits;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::process::{Gid, Uid};

use super::overlay::Layer;
use super::remove::link_of;
use crate::plan::LaunchSpec;

/// Where the layer of a writable root lies.
const LAYER: &str = "root";
/// What a file costs at least, for a quota that names no number of files.
const PAGE: u64 = 4096;
/// Directories of the quota's own, and of a writable root's layer.
const OWN: u64 = 4;
const OWN_OF_LAYER: u64 = 4;
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

/// Whether this agent can make one, or why not; found out by making one that nobody sees.
pub(super) fn works() -> io::Result<()> {
    make(PAGE, 1).map(drop)
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
    let own = OWN + if spec.rootfs_writable { OWN_OF_LAYER } else { 0 };
    let files = spec.limits.files.unwrap_or(files(bytes)).saturating_add(own);
    let mount = make(bytes, files)?;
    // As long as nobody but root can come there: whoever owns a directory can put something else in the place of what
    // is in it.
    lay_out(&mount, spec)?;
    let own = nobody_elses(&spec.dir)?;
    if let Err(e) = attach(&mount, &own) {
        detach(&spec.dir);
        return Err(e);
    }
    Ok(())
}

/// Mounts a directory on itself, so that what is mounted there next is mounted in no other namespace.
fn nobody_elses(dir: &Path) -> io::Result<OwnedFd> {
    let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = rustix::fs::open(dir, at, Mode::empty())?;
    let copy =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let own = rustix::mount::open_tree(at.as_fd(), c"", copy)?;
    attach(&own, &at)?;
    // Being attached to a shared mount has made it one.
    if let Err(e) = rustix::mount::mount_change(link_of(&own), MountPropagationFlags::PRIVATE) {
        detach(dir);
        return Err(e.into());
    }
    Ok(own)
}

fn attach(mount: &OwnedFd, at: &OwnedFd) -> io::Result<()> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(
        mount.as_fd(),
        c"",
        at.as_fd(),
        c"",
        both,
    )?)
}

/// How many files there may be in so many bytes where nobody has said it.
pub(super) fn files(bytes: u64) -> u64 {
    bytes / PAGE
}

/// The layer of a writable root, in a job's disk that is mounted; `None` where it has none.
pub(super) fn layer(spec: &LaunchSpec) -> io::Result<Option<Layer>> {
    if !is_set(&spec.limits) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(spec.dir.join(LAYER), flags, Mode::empty())?;
    Layer::open(&dir).map(Some)
}

/// A file system in memory that is mounted nowhere.
pub(super) fn make(bytes: u64, files: u64) -> io::Result<OwnedFd> {
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
    let root = rustix::fs::openat(mount, c".", here, Mode::empty())?;
    if !spec.backend.is_namespaced() {
        return Ok(rustix::fs::fchown(root, Some(uid), Some(gid))?);
    }
    if spec.rootfs_writable {
        rustix::fs::mkdirat(mount, LAYER, Mode::RWXU)?;
        Layer::make(rustix::fs::openat(mount, LAYER, here, Mode::empty())?, &spec.user)?;
    }
    // Whoever shows its places has to pass through it, as the job's user, who is not to change them.
    Ok(rustix::fs::fchmod(root, Mode::from_raw_mode(0o711))?)
}

/// Takes a job's away, before its directory.
pub(super) fn unmount(spec: &LaunchSpec) {
    if is_set(&spec.limits) {
        detach(&spec.dir);
    }
}

/// Both mounts, the upper one first. What is still in use goes when it no longer is; what is left for another reason, the
/// removal tells.
fn detach(dir: &Path) {
    for _ in 0..2 {
        let _ = rustix::mount::unmount(dir, UnmountFlags::DETACH);
    }
}

/// Whether a job's is full. The kernel counts no refusals and tells nobody of them, so this is true of a moment; what was
/// full and is not any more is not seen.
pub(super) fn is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < FULL || s.f_ffree == 0)
}

/// A file for a copy of a job's input, which nobody can open by a name and which goes with its last descriptor: beside
/// what is limited, where it does not count.
pub(super) fn file_beside(spec: &LaunchSpec) -> io::Result<File> {
    let above = spec.dir.parent().unwrap_or(&spec.dir);
    let dir = if is_set(&spec.limits) { above } else { &spec.dir };
    let unnamed = libc::O_TMPFILE | libc::O_EXCL;
    let mut file = OpenOptions::new();
    let file = file.read(true).write(true).mode(0o600);
    match file.clone().custom_flags(unnamed).open(dir) {
        // Some file systems have none without a name; this one has one for a moment, and whoever finds one that an agent
        // has left may remove it.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)
            ) =>
        {
            let own = spec.dir.file_name().unwrap_or_default().to_string_lossy();
            let path = dir.join(format!("{own}.lictor-input"));
            let made = file.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(made)
        }
        made => made,
    }
}
