//! A container's root made by us, in mounts that an engine has made which is no child of ours and cannot be started in a
//! stage: a daemon.
//!
//! ```text
//!   a thread of the agent's: copies of what the view shows (from the stage), a root, /dev, /tmp: attached nowhere yet
//!     -> enters the container's mounts, attaches all of it at one place there, and the kernel's /proc of the container
//!     -> makes that the root of whoever is in these mounts, and takes the old one away with all that the engine mounted
//! ```
//!
//! # Invariants
//! - Nothing is changed in mounts whose root does not hold the file that the agent has put into this container: so never
//!   in the host's own, nor in another container's.
//! - Of what the engine shows, only `/proc` stays, and that is the one of the container's own pid namespace.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use super::Bundle;
use super::config::{MASKED, READ_ONLY};
use super::stage::{INERT, SMALL, about, attach, copy_of, file_system, memory, restrict, set};
use super::view::{Access, Mount, View, place_of};

/// Where the engine shows the agent's own directory, and where the new root is attached until it is one.
pub(crate) const PLACE: &str = "/.lictor";

const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Devices that every container has: name, major and minor number.
pub(super) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The root that a container is to have.
#[derive(Debug)]
pub(crate) struct NewRoot {
    /// A directory with places for everything.
    places: PathBuf,
    stage: Option<OwnedFd>,
    shown: Vec<Shown>,
}

/// A part of it.
#[derive(Debug)]
struct Shown {
    /// In the stage.
    source: String,
    at: String,
    is_dir: bool,
    access: Access,
}

impl NewRoot {
    /// As a view describes it, for which a bundle was laid out, with mounts of its `own`.
    ///
    /// # Errors
    /// When there is no room for another descriptor.
    pub(crate) fn of(bundle: &Bundle, view: &View, own: &[Mount]) -> io::Result<Self> {
        let shown = view.mounts.iter().chain(own).map(|mount| Shown {
            source: mount.source().to_owned(),
            at: mount.at.clone(),
            is_dir: mount.is_dir,
            access: mount.access,
        });
        Ok(Self {
            places: bundle.root(),
            stage: view.stage().map(|stage| stage.try_clone_to_owned()).transpose()?,
            shown: shown.collect(),
        })
    }

    /// Gives it to the container of a first process, who runs `program`, which is shown there as `init` at [`PLACE`]. It
    /// may take as long as a file system takes to answer.
    ///
    /// # Errors
    /// What cannot be shown, or that these are the mounts of somebody else. The container is of no use then.
    pub(crate) fn put_in_place(&self, first: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
        // A thread of its own, which enters other mounts, and ends in them.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("lictor-root".into());
            let made = thread.spawn_scoped(scope, || {
                // SAFETY: descriptors stay shared; this thread has its own directories and umask from here on, and ends
                // soon.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
                rustix::process::umask(Mode::empty());
                let root = Root::prepare(self)?;
                rustix::thread::move_into_thread_name_spaces(first, ThreadNameSpaceType::MOUNT)?;
                root.take_over(program)
            })?;
            let failed = |_| io::Error::other("showing what the profile names has failed");
            made.join().map_err(failed)?
        })
    }
}

/// Everything that is to be shown, attached nowhere.
struct Root<'a> {
    tree: OwnedFd,
    dev: OwnedFd,
    /// Memory, each with its place.
    memory: Vec<(&'static str, OwnedFd)>,
    parts: Vec<(&'a Shown, OwnedFd)>,
}

impl<'a> Root<'a> {
    fn prepare(wanted: &'a NewRoot) -> io::Result<Self> {
        if let Some(stage) = &wanted.stage {
            rustix::thread::move_into_link_name_space(stage.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        let tree = copy(&wanted.places, Access::Read)?;
        let shown = &wanted.shown;
        let mut parts = Vec::new();
        for one in shown {
            let part = copy(Path::new(&one.source), one.access).map_err(|e| about(&one.at, e))?;
            parts.push((one, part));
        }
        let dev = devices()?;
        let shm = [("size", "256m"), ("mode", "1777")];
        let mut memory_at = vec![("/dev/shm", memory(shm, INERT | NOEXEC)?)];
        // A disk of the job's own takes the place of memory.
        if shown.iter().all(|one| one.at != "/tmp") {
            memory_at.push(("/tmp", memory([("size", "1g"), ("mode", "1777")], INERT)?));
        }
        for one in shown {
            if let Some(inside) = one.at.strip_prefix("/dev/") {
                point(&dev, inside, one.is_dir).map_err(|e| about(&one.at, e))?;
            }
        }
        // Only now that it has all its places.
        restrict(&dev, MountAttrFlags::MOUNT_ATTR_NOSUID | RDONLY)?;
        Ok(Self {
            tree,
            dev,
            memory: memory_at,
            parts,
        })
    }

    /// In the container's mounts.
    fn take_over(self, program: &OwnedFd) -> io::Result<()> {
        let here = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let strange = || io::Error::other("the engine has made the container in mounts of somebody else");
        let shown = found(&here, &format!("{PLACE}/init")).map_err(|_| strange())?;
        if place_of(&shown)? != place_of(program)? {
            return Err(strange());
        }
        let proc = proc_of(&here, program)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        attach(&self.tree, &found(&here, PLACE)?)?;
        attach(&proc, &found(&self.tree, "/proc")?)?;
        cover_proc(&self.tree)?;
        attach(&self.dev, &found(&self.tree, "/dev")?)?;
        let pts = [("ptmxmode", "0666"), ("mode", "0620")];
        let pts = file_system(c"devpts", &pts, MountAttrFlags::MOUNT_ATTR_NOSUID | NOEXEC)?;
        attach(&pts, &found(&self.tree, "/dev/pts")?)?;
        for (at, memory) in &self.memory {
            attach(memory, &found(&self.tree, at)?).map_err(|e| about(at, e))?;
        }
        for (one, part) in &self.parts {
            self.show(one, part).map_err(|e| about(&one.at, e))?;
        }
        rustix::process::fchdir(&self.tree)?;
        rustix::process::pivot_root(".", ".")?;
        // The old root lies on the new one.
        Ok(rustix::mount::unmount(".", UnmountFlags::DETACH)?)
    }
}

impl Root<'_> {
    /// Attaches a part. Places were made when the container was laid out, but for those in what a job may write to as its
    /// own, which is new.
    fn show(&self, one: &Shown, part: &OwnedFd) -> io::Result<()> {
        let place = match (found(&self.tree, &one.at), one.at.strip_prefix("/tmp/")) {
            (Err(e), Some(inside)) if e.kind() == io::ErrorKind::NotFound => {
                point(&found(&self.tree, "/tmp")?, inside, one.is_dir)?;
                found(&self.tree, &one.at)
            }
            (place, _) => place,
        };
        attach(part, &place?)
    }
}

/// A directory of devices, with places for the file systems that belong there.
fn devices() -> io::Result<OwnedFd> {
    let dev = memory(SMALL, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    let all = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, all, makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name)?;
    }
    for name in ["pts", "shm"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(dev)
}

/// Makes the place for a mount, with all directories above it, following no link.
fn point(top: &OwnedFd, path: &str, is_dir: bool) -> io::Result<()> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(top, ".", directory, Mode::empty())?;
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() && !is_dir {
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            return match rustix::fs::openat(&at, part, new, Mode::from_raw_mode(0o644)) {
                // A device that every container has; the one that is named takes its place.
                Ok(_) | Err(Errno::EXIST) => Ok(()),
                Err(e) => Err(e.into()),
            };
        }
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => at = rustix::fs::openat(&at, part, directory, Mode::empty())?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// What lies at a path below a root, which links do not lead out of.
fn found(root: &OwnedFd, at: &str) -> io::Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, at, flags, Mode::empty(), inside)?)
}

/// A mount of the same that is attached nowhere, with no more rights than these.
fn copy(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let tree = copy_of(&file)?;
    set(&tree, access)?;
    Ok(tree)
}

/// The kernel's files as they are in the container's pid namespace, without what the engine has mounted on them.
fn proc_of(root: &OwnedFd, program: &OwnedFd) -> io::Result<OwnedFd> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let proc = rustix::mount::open_tree(found(root, "/proc")?.as_fd(), c"", flags)?;
    let is_proc = rustix::fs::fstatfs(&proc)?.f_type as i64 == PROC_SUPER_MAGIC;
    let first = rustix::fs::statat(&proc, "1/exe", AtFlags::empty());
    let ours = place_of(program)?;
    if !is_proc || !first.is_ok_and(|first| (first.st_dev, first.st_ino) == ours) {
        return Err(io::Error::other(
            "the engine shows another /proc than the container's",
        ));
    }
    restrict(&proc, INERT | NOEXEC)?;
    Ok(proc)
}

/// Hides what tells of the machine, and keeps what changes it.
fn cover_proc(root: &OwnedFd) -> io::Result<()> {
    for at in MASKED.iter().chain(&READ_ONLY) {
        let place = match found(root, at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            place => place?,
        };
        let cover = match MASKED.contains(at) {
            true => memory(SMALL, INERT | NOEXEC | RDONLY)?,
            false => {
                let same = copy_of(&place)?;
                set(&same, Access::Read)?;
                same
            }
        };
        attach(&cover, &place).map_err(|e| about(at, e))?;
    }
    Ok(())
}
