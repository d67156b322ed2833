//! The files of a workspace as they are, by handles: no link is followed, and nothing of `.git` is looked at.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use lictor_proto::{Code, limits};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use sha1::Digest as _;

use super::tree;
use crate::carry::CarryError;
use crate::linux::files::git::failed;

/// Directories in directories.
const DEPTH: u32 = 128;
/// Files.
const FILES: usize = 1_000_000;
const LINK: u32 = 0o120_000;

/// A file, or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// From the workspace on.
    pub(super) path: Vec<u8>,
    /// In git's words.
    pub(super) mode: u32,
    /// Bytes of its content; of a link, of what it says.
    pub(super) size: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<Found>,
    /// What is neither file, directory nor link, or `.git` of another repository.
    pub(super) left_out: u64,
}

/// The workspace, open.
pub(in crate::linux::files) fn root(at: &Path) -> Result<OwnedFd, CarryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(at, flags, Mode::empty()).map_err(|e| lost(b".", e.into()))
}

/// Every file in it.
pub(super) fn all(root: &OwnedFd) -> Result<Tree, CarryError> {
    let mut tree = Tree::default();
    tree.add(root, &[], DEPTH)?;
    Ok(tree)
}

impl Tree {
    fn add(&mut self, dir: &OwnedFd, above: &[u8], depth: u32) -> Result<(), CarryError> {
        let too_much = |why: &str| CarryError::new(Code::SourceTooLarge, why);
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| too_much("over 128 directories in each other"))?;
        for entry in Dir::read_from(dir).map_err(|e| lost(above, e.into()))? {
            let entry = entry.map_err(|e| lost(above, e.into()))?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") {
                continue;
            }
            // Its own is nothing of the files; others' are no part of any commit.
            if bytes.eq_ignore_ascii_case(b".git") {
                self.left_out += u64::from(!(above.is_empty() && bytes == b".git"));
                continue;
            }
            let mut path = above.to_vec();
            path.extend_from_slice(bytes);
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|e| lost(&path, e.into()))?;
            let size = u64::try_from(stat.st_size).unwrap_or_default();
            let mode = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = rustix::fs::openat(dir, name, flags, Mode::empty());
                    let inner = inner.map_err(|e| lost(&path, e.into()))?;
                    path.push(b'/');
                    self.add(&inner, &path, depth)?;
                    continue;
                }
                FileType::RegularFile if stat.st_mode & 0o100 != 0 => 0o100_755,
                FileType::RegularFile => 0o100_644,
                FileType::Symlink => LINK,
                _ => {
                    self.left_out += 1;
                    continue;
                }
            };
            if path.len() > limits::PATH {
                return Err(too_much("a path is over 4095 bytes"));
            }
            self.files.push(Found { path, mode, size });
            if self.files.len() > FILES {
                return Err(too_much("there are over a million files"));
            }
        }
        Ok(())
    }
}

/// Its content, as git has it.
pub(super) fn open(root: &OwnedFd, found: &Found) -> Result<Box<dyn Read>, CarryError> {
    let flags = match found.mode {
        LINK => OFlags::PATH | OFlags::NOFOLLOW,
        // What has become a pipe meanwhile must not be waited for.
        _ => OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
    };
    let resolve = match found.mode {
        LINK => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        _ => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    };
    let file = rustix::fs::openat2(
        root,
        found.path.as_slice(),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    );
    let file = file.map_err(|e| lost(&found.path, e.into()))?;
    if found.mode != LINK {
        return Ok(Box::new(File::from(file)));
    }
    let target = rustix::fs::readlinkat(&file, "", Vec::new());
    let target = target.map_err(|e| lost(&found.path, e.into()))?;
    Ok(Box::new(io::Cursor::new(target.into_bytes())))
}

/// The id that git gives it.
pub(super) fn id_of(root: &OwnedFd, found: &Found) -> Result<String, CarryError> {
    let mut content = open(root, found)?.take(found.size);
    let mut read = Ok(0);
    let id = tree::id_of("blob", found.size, |hash| {
        read = io::copy(&mut content, &mut Hashing(hash));
    });
    match read {
        Ok(size) if size == found.size => Ok(id),
        Ok(_) => Err(failed("a file was changed while it was read".to_owned())),
        Err(e) => Err(lost(&found.path, e)),
    }
}

/// Writes into a hash.
struct Hashing<'a>(&'a mut sha1::Sha1);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lost(path: &[u8], e: io::Error) -> CarryError {
    failed(format!("{}: {e}", String::from_utf8_lossy(path)))
}
