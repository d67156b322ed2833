//! Standard input becomes a file: in a temporary one beside its place, checked, synced, and then there at once.
//!
//! ```text
//!   look -> room? -> temporary file -> bytes, counted and hashed -> owner, mode -> sync -> its name -> sync of the directory
//! ```
//!
//! # Invariants
//! - At the destination is what was there before, or the whole file; never a part of it.
//! - The temporary file has no name wherever the file system knows such files, so it goes with this process. Where it
//!   has one, the next file for the same destination removes it, unless whoever writes to it lives.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use lictor_proto::{Code, Digest};
use rustix::fs::{
    Advice, AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Closed;
use super::walk::{End, kind, step, to_parent};
use crate::carry::CarryError;

/// Bytes in memory.
const PIECE: usize = 1024 * 1024;
/// After so many bytes the disk is asked to begin with them: the sync at the end then waits for the last ones only.
const EARLY: u64 = 16 * 1024 * 1024;
/// What stays free besides the file.
const SPARE: u64 = 1024 * 1024;

/// A file that is to be there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::linux) struct Put {
    pub(super) to: String,
    pub(super) sha256: Digest,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) replace: bool,
    pub(super) closed: Vec<Closed>,
}

/// A file on its way to a directory.
struct Temporary<'a> {
    file: File,
    dir: &'a OwnedFd,
    /// What it is called while it has another name than its own.
    name: String,
    /// Whether it is called that now.
    is_named: bool,
}

impl Put {
    /// Does it.
    pub(super) fn carry_out(&self, mut content: impl Read) -> Result<(), CarryError> {
        let (dir, name) = to_parent(&self.to, End::Destination, &self.closed)?;
        self.look(&dir, name)?;
        self.has_room(&dir)?;
        let mut temporary =
            Temporary::make(&dir, name).map_err(|e| self.failed("make a file beside it", e))?;
        self.reserve(&temporary.file)?;
        self.fill(&mut temporary.file, &mut content)?;
        self.finish(&temporary.file)?;
        temporary
            .publish(name, self.replace)
            .map_err(|e| match Errno::from_io_error(&e) {
                Some(Errno::EXIST) => self.exists(),
                Some(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY) => self.refused("it is a directory"),
                _ => self.failed("give it its name", e),
            })?;
        rustix::fs::fsync(&dir).map_err(|e| self.failed("sync its directory", e.into()))
    }

    /// What is there already.
    fn look(&self, dir: &OwnedFd, name: &str) -> Result<(), CarryError> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|e| self.failed("look at it", e.into()))?,
        };
        match kind(&stat) {
            FileType::RegularFile if self.replace => Ok(()),
            FileType::RegularFile => Err(self.exists()),
            FileType::Symlink => Err(self.refused("it is a symbolic link; name the real path")),
            FileType::Directory => Err(self.refused("it is a directory; name the file in it")),
            _ => Err(self.refused("it is no regular file")),
        }
    }

    fn has_room(&self, dir: &OwnedFd) -> Result<(), CarryError> {
        let stat =
            rustix::fs::fstatvfs(dir).map_err(|e| self.failed("look how much room there is", e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < self.size.saturating_add(SPARE) {
            let why = format!("{}: {} bytes, and {free} are free there", self.to, self.size);
            return Err(CarryError::new(Code::DestinationFull, why));
        }
        Ok(())
    }

    /// Takes the room at once, where the file system can: a disk that fills up is met now rather than at the end.
    fn reserve(&self, file: &File) -> Result<(), CarryError> {
        if self.size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, self.size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(self.failed("take the room for it", e.into())),
        }
    }

    fn fill(&self, file: &mut File, content: &mut impl Read) -> Result<(), CarryError> {
        let mut piece = vec![0; PIECE];
        let mut hash = Sha256::new();
        let (mut size, mut begun) = (0_u64, 0_u64);
        loop {
            if size - begun >= EARLY {
                begin_writing(file, begun..size);
                begun = size;
            }
            let n = match content.read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| self.failed("read its content", e))?,
            };
            if n == 0 {
                break;
            }
            size += n as u64;
            if size > self.size {
                break;
            }
            hash.update(&piece[..n]);
            file.write_all(&piece[..n])
                .map_err(|e| self.failed("write it", e))?;
        }
        if size == self.size && Digest(hash.finalize().into()) == self.sha256 {
            return Ok(());
        }
        let why = format!("{}: what came is not what was signed", self.to);
        Err(CarryError::new(Code::ContentMismatch, why))
    }

    /// Owner, mode, and onto the disk: it is as it should be before it is there.
    fn finish(&self, file: &File) -> Result<(), CarryError> {
        if self.owner.is_some() || self.group.is_some() {
            let owner = self.owner.map(Uid::from_raw);
            let group = self.group.map(Gid::from_raw);
            rustix::fs::fchown(file, owner, group).map_err(|e| {
                let why = format!("{}: give it to its owner: {}", self.to, io::Error::from(e));
                CarryError::new(Code::OwnerRefused, why)
            })?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))
            .map_err(|e| self.failed("set its mode", e.into()))?;
        file.sync_all().map_err(|e| self.failed("sync it", e))
    }

    fn refused(&self, why: &str) -> CarryError {
        End::Destination.refused(format!("{}: {why}", self.to))
    }

    fn exists(&self) -> CarryError {
        CarryError::new(
            Code::DestinationExists,
            format!("{}: it is there already", self.to),
        )
    }

    fn failed(&self, doing: &str, e: io::Error) -> CarryError {
        let code = match Errno::from_io_error(&e) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Code::DestinationFull,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Code::DestinationRefused,
            _ => Code::TransferFailed,
        };
        CarryError::new(code, format!("{}: {doing}: {e}", self.to))
    }
}

/// Has the kernel write these bytes now, and forget its copy where it has done so: nobody reads them soon. It waits for
/// nothing, and what it says counts for nothing: the sync at the end does.
fn begin_writing(file: &File, range: Range<u64>) {
    let length = NonZeroU64::new(range.end - range.start);
    let _ = rustix::fs::fadvise(file, range.start, length, Advice::DontNeed);
}

impl<'a> Temporary<'a> {
    /// One without a name, or where there is no such thing one that says what it is.
    fn make(dir: &'a OwnedFd, name: &str) -> io::Result<Self> {
        let other = temporary_name(name);
        remove_left(dir, &other)?;
        let write = OFlags::RDWR | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let (file, is_named) = match rustix::fs::openat(dir, ".", write | OFlags::TMPFILE, private) {
            Ok(file) => (file, false),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let new = write | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                (rustix::fs::openat(dir, other.as_str(), new, private)?, true)
            }
            Err(e) => return Err(e.into()),
        };
        let temporary = Self {
            file: file.into(),
            dir,
            name: other,
            is_named,
        };
        // Says that its writer lives.
        rustix::fs::flock(&temporary.file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(temporary)
    }

    /// Gives it its name.
    fn publish(&mut self, name: &str, replace: bool) -> io::Result<()> {
        if !replace && !self.is_named {
            return self.link(name);
        }
        if !self.is_named {
            let other = self.name.clone();
            self.link(&other)?;
            self.is_named = true;
        }
        let how = match replace {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        rustix::fs::renameat_with(self.dir, self.name.as_str(), self.dir, name, how)?;
        self.is_named = false;
        Ok(())
    }

    fn link(&self, name: &str) -> io::Result<()> {
        let held = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(self.file.as_fd(), "", self.dir, name, AtFlags::EMPTY_PATH) {
            // Only root may do it by the descriptor alone.
            Err(Errno::NOENT | Errno::PERM) => Ok(rustix::fs::linkat(
                CWD,
                held,
                self.dir,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )?),
            other => Ok(other?),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.is_named {
            let _ = rustix::fs::unlinkat(self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// What a file for this name is called before it has it.
fn temporary_name(name: &str) -> String {
    let digest = Digest::of(name.as_bytes()).to_string();
    let short: String = digest.trim_start_matches("sha256:").chars().take(16).collect();
    format!(".lictor-fetch-{short}.part")
}

/// Removes one that a killed process has left.
fn remove_left(dir: &OwnedFd, name: &str) -> io::Result<()> {
    let left = match step(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if kind(&rustix::fs::fstat(&left)?) != FileType::RegularFile {
        return Err(io::Error::other(format!("{name} is in the way, and no file")));
    }
    match rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::Error::other(
            "another job puts a file there at this moment; try again when it is done",
        )),
        other => {
            other?;
            Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
        }
    }
}

#[cfg(test)]
mod tests;
