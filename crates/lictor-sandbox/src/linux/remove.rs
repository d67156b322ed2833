//! Removing a job's directory, whatever the job has left in it, and nothing that lies elsewhere.
//!
//! A job of root may have mounted something below its directory: the mount is taken away, what it shows stays.
//!
//! # Invariants
//! - No mount point is crossed, bind mounts of the same file system included (`RESOLVE_NO_XDEV`), and no link is
//!   followed: every step names an entry of a directory that is held open.
//! - Depth costs neither descriptors nor stack: a directory in a directory is moved up before it is looked into.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mounts;

/// How often it is begun again: after mounts were taken away, or when somebody still writes into the directory.
const ROUNDS: u32 = 64;

/// Removes a job's directory; one that is gone is no error.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    if std::fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for _ in 0..ROUNDS {
        match remove(&parent, name) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::XDEV | Errno::BUSY) => mounts::detach_below(dir)?,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("somebody goes on writing into the directory"))
}

fn remove(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let mut removal = Removal {
        top: open_dir(parent, name)?,
        moved: 0,
        emptied: 0,
    };
    removal.empty_top()?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// A directory on its way out.
struct Removal {
    top: OwnedFd,
    /// How many directories from further down were moved into `top`, and how many of these are gone again.
    moved: u64,
    emptied: u64,
}

impl Removal {
    fn empty_top(&mut self) -> rustix::io::Result<()> {
        for entry in Dir::read_from(&self.top)? {
            let entry = entry?;
            if is_self_or_parent(entry.file_name()) {
                continue;
            }
            if !unlinked(&self.top, entry.file_name())? {
                self.remove_directory(entry.file_name())?;
            }
            while self.emptied < self.moved {
                let name = place(self.emptied);
                self.emptied += 1;
                self.remove_directory(&name)?;
            }
        }
        Ok(())
    }

    /// Removes a directory of `top`; those in it are moved up and wait for their turn.
    fn remove_directory(&mut self, name: &CStr) -> rustix::io::Result<()> {
        if directory_removed(&self.top, name)? {
            return Ok(());
        }
        let dir = open_dir(&self.top, name)?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let inner = entry.file_name();
            if is_self_or_parent(inner) || unlinked(&dir, inner)? || directory_removed(&dir, inner)? {
                continue;
            }
            self.move_up(&dir, inner)?;
        }
        rustix::fs::unlinkat(&self.top, name, AtFlags::REMOVEDIR)
    }

    fn move_up(&mut self, dir: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        // Moving a directory takes the right to write into it; this gives it back.
        drop(open_dir(dir, name)?);
        loop {
            let target = place(self.moved);
            self.moved += 1;
            match rustix::fs::renameat(dir, name, &self.top, &target) {
                // The job has used that name itself; what is there gets its turn like everything else.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return other,
            }
        }
    }
}

fn place(number: u64) -> CString {
    CString::new(format!(".lictor-{number}")).unwrap_or_default()
}

fn is_self_or_parent(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Whether it is gone; `false` for a directory.
fn unlinked(dir: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether it is gone; `false` for one with something in it.
fn directory_removed(dir: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        // A place that the job had used for something else than a directory.
        Err(Errno::NOTDIR) => unlinked(dir, name),
        Err(e) => Err(e),
    }
}

/// Opens a directory of a directory, never across a mount or a link. A job may have taken away its own rights to it;
/// a user other than root needs them back to remove it.
fn open_dir<P: rustix::path::Arg>(at: &OwnedFd, name: P) -> rustix::io::Result<OwnedFd> {
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::BENEATH;
    let dir = rustix::fs::openat2(at, name, path, Mode::empty(), here)?;
    if rustix::fs::fstat(&dir)?.st_mode & 0o700 != 0o700 {
        // By its descriptor: a path could lead elsewhere by now.
        let _ = rustix::fs::chmodat(CWD, link_of(&dir), Mode::RWXU, AtFlags::empty());
    }
    let read = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&dir, c".", read, Mode::empty())
}

/// What the kernel shows a descriptor as.
pub(super) fn link_of(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
