//! What a runtime is to show, laid out for it by descriptors in mounts that nobody else sees.
//!
//! A runtime looks up by path what it mounts, and as root. What others than root can move about is therefore mounted here
//! by us, as it was found: with no rights that it must not have, with what is hidden or kept in its place mounted on it, and
//! cut off from what the host mounts later. The runtime is started in these mounts and shows the places that are made here.
//!
//! ```text
//!   RUNTIME_DIR/PID.START.N/stage    a tmpfs that only these mounts have
//!     0  1  2  ...                   what is shown
//!     nothing                        a file that nobody can open
//!     devices                        the null device that is seen in these mounts, in place of the machine's
//! ```
//!
//! # Invariants
//! - Every place is found below what is held, following no link.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::view::{Access, Mount, Source, place_of};
use crate::linux::covers::{Cover, Covered};

/// A file that nobody can open.
const NOTHING: &str = "nothing";
/// Devices of these mounts' own.
const DEVICES: &str = "devices";
const NULL: &str = "/dev/null";
pub(super) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What is laid out.
#[derive(Debug)]
pub(super) struct Stage {
    /// The mounts in which it is.
    pub(super) mounts: OwnedFd,
    /// Each of them, as the kernel lists them.
    pub(super) table: String,
}

/// Lays out everything that is held, at `place`; returns the mounts in which it lies there, and says of each where.
///
/// # Errors
/// What cannot be laid out, or is something else by now.
pub(super) fn lay_out(place: &Path, mounts: &mut [Mount], covers: &[Covered]) -> io::Result<Stage> {
    let mut parts = Vec::new();
    for mount in mounts.iter_mut() {
        let (tree, path) = match &mut mount.source {
            Source::Held(held, path) => (copy_of(held).map_err(|e| about(path, e))?, path),
            // It is nobody else's, so it is this mount of it that is laid out.
            Source::New(made, path) => (made.try_clone()?, path),
            Source::Path(_) => continue,
        };
        set(&tree, mount.access).map_err(|e| about(path, e))?;
        *path = format!("{}/{}", place.display(), parts.len());
        parts.push(Part {
            tree,
            at: &mount.at,
            is_dir: mount.is_dir,
        });
    }
    // A thread of its own, which has these mounts, and ends with them.
    on_a_thread(|| attach_all(place, &parts, covers))
}

/// Mounts what is root's own right at its places in `root`, as it is seen in mounts that were laid out before.
///
/// # Errors
/// What cannot be mounted.
pub(super) fn settle(stage: BorrowedFd<'_>, root: &Path, mounts: &[Mount]) -> io::Result<()> {
    let mut parts = Vec::new();
    for mount in mounts {
        let file = rustix::fs::open(mount.source(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let tree = copy_of(&file)?;
        set(&tree, mount.access)?;
        parts.push((tree, root.join(mount.at.trim_start_matches('/'))));
    }
    let attach_each = || {
        // SAFETY: descriptors stay shared; this thread has its own directories from here on, and ends soon.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
        rustix::thread::move_into_link_name_space(stage, Some(LinkNameSpaceType::Mount))?;
        for (tree, at) in &parts {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::open(at, flags, Mode::empty())?;
            attach(tree, &place).map_err(|e| about(&at.to_string_lossy(), e))?;
        }
        Ok(())
    };
    on_a_thread(attach_each)
}

/// Whoever enters other mounts does it on a thread that ends with that.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lictor-stage".into());
        let done = thread.spawn_scoped(scope, work)?;
        let failed = |_| io::Error::other("laying out what is shown has failed");
        done.join().map_err(failed)?
    })
}

/// One of what is shown.
struct Part<'a> {
    tree: OwnedFd,
    at: &'a str,
    is_dir: bool,
}

pub(super) fn about(path: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn attach_all(place: &Path, parts: &[Part<'_>], covers: &[Covered]) -> io::Result<Stage> {
    // SAFETY: descriptors stay shared; this thread has its own mounts and directories from here on, and ends soon.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let stage = memory(SMALL, INERT | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    attach(&stage, &rustix::fs::open(place, directory, Mode::empty())?)?;
    point(&stage, NOTHING, false)?;
    own_null(&stage).map_err(|e| about(NULL, e))?;
    for (n, part) in parts.iter().enumerate() {
        let at = point(&stage, &n.to_string(), part.is_dir)?;
        attach(&part.tree, &at).map_err(|e| about(part.at, e))?;
    }
    for covered in covers {
        cover(&stage, parts, covered).map_err(|e| about(&covered.at, e))?;
    }
    Ok(Stage {
        mounts: File::open("/proc/thread-self/ns/mnt")?.into(),
        table: std::fs::read_to_string("/proc/thread-self/mountinfo")?,
    })
}

/// Puts another device in the place of this one: crun gives what a container's first process gets as standard input to
/// the container's root, and podman gives it this.
fn own_null(stage: &OwnedFd) -> io::Result<()> {
    let devices = memory(
        SMALL,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    attach(&devices, &point(stage, DEVICES, true)?)?;
    let everybodys = Mode::from_raw_mode(0o666);
    let number = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(&devices, "null", FileType::CharacterDevice, everybodys, number)?;
    // Whatever mask this process has.
    rustix::fs::chmodat(&devices, "null", everybodys, AtFlags::empty())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = rustix::fs::openat(&devices, "null", flags, Mode::empty())?;
    attach(&copy_of(&own)?, &rustix::fs::open(NULL, flags, Mode::empty())?)
}

/// Makes a place to mount something at.
fn point(stage: &OwnedFd, name: &str, is_dir: bool) -> io::Result<OwnedFd> {
    if is_dir {
        rustix::fs::mkdirat(stage, name, Mode::RWXU)?;
    } else {
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(stage, name, new, Mode::empty())?;
    }
    Ok(rustix::fs::openat(
        stage,
        name,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Mounts a cover on what lies deepest below it.
fn cover(stage: &OwnedFd, parts: &[Part<'_>], covered: &Covered) -> io::Result<()> {
    let path = Path::new(&covered.at);
    let above = parts.iter().filter(|p| path.starts_with(p.at));
    let part = above.max_by_key(|p| p.at.len()).ok_or(io::ErrorKind::NotFound)?;
    let inside = path.strip_prefix(part.at).map_err(io::Error::other)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(&part.tree, inside, flags, Mode::empty(), beneath)?;
    let is_dir = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::Directory;
    let same = |held: &OwnedFd| Ok::<_, io::Error>(place_of(held)? == place_of(&found)?);
    let changed = || Err(io::Error::other("something else was put in its place meanwhile"));
    let by = match &covered.by {
        Cover::Empty if !is_dir => return changed(),
        Cover::Nothing if is_dir => return changed(),
        Cover::ReadOnly(held) | Cover::Itself(held) if !same(held)? => return changed(),
        Cover::Empty => {
            let nothing = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
            memory(SMALL, INERT | nothing)?
        }
        Cover::Nothing => {
            let file = rustix::fs::openat(stage, NOTHING, flags, Mode::empty())?;
            let copy = copy_of(&file)?;
            set(&copy, Access::Read)?;
            copy
        }
        Cover::ReadOnly(_) => {
            let copy = copy_of(&found)?;
            set(&copy, Access::Read)?;
            copy
        }
        Cover::Itself(_) => copy_of(&found)?,
    };
    attach(&by, &found)
}

/// Size and mode of a file system for a few names.
pub(super) const SMALL: [(&str, &str); 2] = [("size", "64k"), ("mode", "0755")];

/// A file system in memory.
pub(super) fn memory(options: [(&str, &str); 2], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    file_system(c"tmpfs", &options, attributes)
}

/// A new file system that is mounted nowhere.
pub(super) fn file_system(
    kind: &CStr,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let close = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(context.as_fd(), close, attributes)?)
}

/// A mount of the same, with everything that is mounted below, that is attached nowhere.
pub(super) fn copy_of(file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(file.as_fd(), c"", flags)
}

/// Takes rights away from it and everything below, and cuts it off from what it is a copy of.
pub(super) fn set(tree: &OwnedFd, access: Access) -> io::Result<()> {
    let without = match access {
        Access::Read => INERT | MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::Write => INERT,
        Access::Device => MountAttrFlags::empty(),
    };
    restrict(tree, without)
}

/// The same, in the kernel's words.
pub(in crate::linux) fn restrict(tree: &OwnedFd, without: MountAttrFlags) -> io::Result<()> {
    // `struct mount_attr`: set, clear, propagation, user namespace.
    let attributes = [u64::from(without.bits()), 0, libc::MS_PRIVATE, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: an empty string, and a structure of the size that is told; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn attach(mount: &OwnedFd, at: &OwnedFd) -> io::Result<()> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let done = rustix::mount::move_mount(mount.as_fd(), c"", at.as_fd(), c"", both);
    Ok(done?)
}
