//! From `/` to a place, by handles.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use lictor_proto::Code;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::Closed;
use crate::carry::CarryError;

/// What is said of places that are not to be used.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Where a file is put.
    Destination,
    /// Where one is taken from.
    Source,
}

impl End {
    pub(super) fn refused(self, why: String) -> CarryError {
        let code = match self {
            Self::Destination => Code::DestinationRefused,
            Self::Source => Code::SourceRefused,
        };
        CarryError::new(code, why)
    }

    /// Why a part of a path could not be opened.
    fn unopened(self, path: &str, errno: Errno) -> CarryError {
        match (self, errno) {
            (_, Errno::LOOP) => self.refused(format!("{path}: a symbolic link; name the real path")),
            (Self::Source, Errno::NOENT | Errno::ACCESS) => {
                CarryError::new(Code::SourceMissing, format!("{path}: {}", io::Error::from(errno)))
            }
            _ => self.refused(format!("{path}: {}", io::Error::from(errno))),
        }
    }
}

/// The directory that a path lies in, open, and the path's last part.
pub(super) fn to_parent<'a>(
    path: &'a str,
    end: End,
    closed: &[Closed],
) -> Result<(OwnedFd, &'a str), CarryError> {
    let (above, name) = path
        .rsplit_once('/')
        .filter(|(_, name)| !name.is_empty())
        .ok_or_else(|| end.refused(format!("{path}: no path of a file")))?;
    let root = rustix::fs::openat(CWD, "/", on_the_way(), Mode::empty());
    let mut at = root.map_err(|e| end.unopened("/", e))?;
    enter(&at, "/", end, closed)?;
    for (begin, part) in parts(above) {
        let so_far = &above[..begin + part.len()];
        at = step(&at, part, on_the_way()).map_err(|e| end.unopened(so_far, e))?;
        enter(&at, so_far, end, closed)?;
    }
    let at = match end {
        // Behind Landlock a job may read what its profile shows, and not list what lies above.
        End::Source => at,
        // It is synced, and takes a file that has no name.
        End::Destination => {
            let last = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(&at, ".", last, Mode::empty()).map_err(|e| end.unopened(above, e))?
        }
    };
    Ok((at, name))
}

/// The parts of a path, and where each begins.
fn parts(path: &str) -> impl Iterator<Item = (usize, &str)> {
    let begin = |part: &str| part.as_ptr() as usize - path.as_ptr() as usize;
    path.split('/')
        .filter(|p| !p.is_empty())
        .map(move |p| (begin(p), p))
}

fn on_the_way() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Opens an entry of a directory; no link is followed, and nothing but that entry is reached.
pub(super) fn step(at: &impl AsFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(at, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody renamed something elsewhere meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Refuses the agent's own directory, by whatever name it was reached.
fn enter(at: &OwnedFd, path: &str, end: End, closed: &[Closed]) -> Result<(), CarryError> {
    let stat = rustix::fs::fstat(at).map_err(|e| end.unopened(path, e))?;
    if is_closed(&stat, closed) {
        return Err(end.refused(format!("{path}: the agent's own directory")));
    }
    Ok(())
}

pub(super) fn is_closed(stat: &Stat, closed: &[Closed]) -> bool {
    closed
        .iter()
        .any(|c| (c.dev, c.ino) == (stat.st_dev, stat.st_ino))
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
