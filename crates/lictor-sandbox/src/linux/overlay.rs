//! A root file system that a job may write to: the store's tree below, a layer of the job's own on top of it.
//!
//! ```text
//!   the store's tree, its files the job's user's by an id-mapped copy of the mount     lower
//!   a directory of the job's disk, or a tmpfs of 1 GiB                                 upper
//!   `-- overlay, put where the tree is in mounts that only bwrap has                   what is shown as /
//! ```
//!
//! None of it is mounted anywhere that somebody else could look, the agent's own view included: these are mounts without
//! a place, held by descriptors, until bwrap's process takes one into mounts of its own. So nothing is left of them when
//! agent and sandbox have ended, however they did.
//!
//! # Invariants
//! - Nothing of the store is written to.
//! - Nobody can reach the upper layer but through the job's own root, so before the job's program runs there is nothing in
//!   it, and a path leads to what the store's tree has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::process::{Gid, Uid};

use super::idmap::{self, IdMaps};
use super::quota;
use super::users::User;
use crate::backend::StartError;
use crate::plan::LaunchSpec;
use crate::program::{FileIdentity, ProgramFile};

/// Room for what is written, where the profile sets none: as much as `/tmp` has.
const ROOM: u64 = 1 << 30;
/// The two directories that the upper layer is made of.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// A job's root, until it is gone.
#[derive(Debug)]
pub(super) struct Overlay {
    root: OwnedFd,
}

/// Whether this agent can make one, or why not; found out by making one that nobody sees.
pub(super) fn works(maps: &IdMaps, user: &User) -> io::Result<()> {
    let lower = quota::make(ROOM, 1)?;
    idmap::map(&lower, maps.owner_as(user)?.as_fd())?;
    Overlay::of(&lower, &own_layer(user)?).map(drop)
}

impl Overlay {
    /// That of a job whose profile has one. The job's disk is mounted.
    pub(super) fn make(maps: &IdMaps, spec: &LaunchSpec) -> io::Result<Option<Self>> {
        let Some(tree) = spec.rootfs.as_deref().filter(|_| spec.rootfs_writable) else {
            return Ok(None);
        };
        let copy = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let lower = rustix::mount::open_tree(CWD, tree, copy)?;
        idmap::map(&lower, maps.owner_as(&spec.user)?.as_fd())?;
        let layer = match quota::layer(spec)? {
            Some(layer) => layer,
            None => own_layer(&spec.user)?,
        };
        Self::of(&lower, &layer).map(Some)
    }

    /// `layer` is an empty directory's that nobody else can reach.
    fn of(lower: &OwnedFd, layer: &Layer) -> io::Result<Self> {
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, dir) in [
            ("lowerdir", lower),
            ("upperdir", &layer.upper),
            ("workdir", &layer.work),
        ] {
            // By its descriptor: no path, and nothing in one that would have to be escaped.
            let dir = super::remove::link_of(dir);
            rustix::mount::fsconfig_set_string(context.as_fd(), key, dir.as_str())?;
        }
        for (key, value) in [
            // Files have the numbers that they have in the store.
            ("xino", "off"),
            // A file in the upper layer is a whole one, a directory is where it says.
            ("metacopy", "off"),
            ("redirect_dir", "off"),
        ] {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let root = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What a file that was judged is compared with in there. What the profile shows of the host is the host's.
    pub(super) fn identity_of(
        &self,
        file: &ProgramFile,
        spec: &LaunchSpec,
    ) -> Result<FileIdentity, StartError> {
        if file.is_only_held() {
            return Ok(file.identity);
        }
        let mut shown = spec.read_only.iter().chain(&spec.read_write);
        if shown.any(|dir| Path::new(&file.path).starts_with(dir)) {
            return Ok(file.identity);
        }
        let found = self
            .identity(file)
            .map_err(StartError::failed("find the program in its root"))?;
        found.ok_or_else(|| StartError::ProgramChanged {
            path: file.path.clone(),
        })
    }

    /// What a file of the tree that was judged is called here. The kernel gives it another device; everything else is the
    /// store's own file's, or it is another file.
    fn identity(&self, file: &ProgramFile) -> io::Result<Option<FileIdentity>> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&self.root, &file.path, flags, Mode::empty(), inside)?;
        let stat = rustix::fs::fstat(&found)?;
        let here = FileIdentity {
            dev: stat.st_dev,
            ino: stat.st_ino,
            ctime: stat.st_ctime,
            ctime_nsec: stat.st_ctime_nsec as i64,
            size: stat.st_size,
        };
        let judged = FileIdentity {
            dev: here.dev,
            ..file.identity
        };
        Ok((here == judged).then_some(here))
    }
}

/// An upper layer: what is written, and room for the kernel's own work.
#[derive(Debug)]
pub(super) struct Layer {
    upper: OwnedFd,
    work: OwnedFd,
    /// What they lie in, where that is mounted nowhere: it would be taken apart with its last descriptor.
    _mount: Option<OwnedFd>,
}

impl Layer {
    /// Makes one in an empty directory that nobody but root can enter.
    pub(super) fn make(dir: impl AsFd, user: &User) -> io::Result<()> {
        for name in [UPPER, WORK] {
            rustix::fs::mkdirat(&dir, name, Mode::RWXU)?;
        }
        let layer = Self::open(dir)?;
        rustix::fs::fchown(
            &layer.upper,
            Some(Uid::from_raw(user.uid)),
            Some(Gid::from_raw(user.gid)),
        )?;
        // It is the root's own mode.
        Ok(rustix::fs::fchmod(&layer.upper, Mode::from_raw_mode(0o755))?)
    }

    /// Opens one that was made.
    pub(super) fn open(dir: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            upper: rustix::fs::openat(&dir, UPPER, flags, Mode::empty())?,
            work: rustix::fs::openat(&dir, WORK, flags, Mode::empty())?,
            _mount: None,
        })
    }
}

/// A layer in memory of its own, mounted nowhere.
fn own_layer(user: &User) -> io::Result<Layer> {
    let memory = quota::make(ROOM, quota::files(ROOM))?;
    Layer::make(&memory, user)?;
    Ok(Layer {
        _mount: Some(memory.try_clone()?),
        ..Layer::open(&memory)?
    })
}
