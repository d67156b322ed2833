//! Files become standard output, in records ([`lictor_proto::files`]): one file, or a directory with all below it.
//!
//! # Invariants
//! - Memory is bounded: one chunk, and one handle with the names of one directory for each level.
//! - The caps hold while it is read: no file brings more than it had when it was opened, and all of them no more than the
//!   job says.
//! - An entry is opened without following anything, looked at, and read by the same handle.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::OwnedFd;

use lictor_proto::files::{MAGIC, Record, Skip};
use lictor_proto::{Code, Digest, limits};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Closed;
use super::walk::{End, is_closed, kind, step, to_parent};
use crate::carry::CarryError;

/// How deep a tree is followed.
const DEPTH: usize = 128;
/// Most names of one directory.
const NAMES: usize = 1_000_000;

/// What is to be brought.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::linux) struct Take {
    pub(super) from: String,
    pub(super) max_bytes: u64,
    pub(super) closed: Vec<Closed>,
}

impl Take {
    /// Does it.
    pub(super) fn carry_out(&self, out: impl Write) -> Result<(), CarryError> {
        let (dir, name) = to_parent(&self.from, End::Source, &self.closed)?;
        let stat =
            rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.unreadable(e))?;
        if is_closed(&stat, &self.closed) {
            return Err(self.refused("the agent's own directory"));
        }
        match kind(&stat) {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(self.refused("a symbolic link; name the real path")),
            _ => return Err(self.refused("no file and no directory")),
        }
        let mut carrying = Carrying {
            take: self,
            out: io::BufWriter::with_capacity(256 * 1024, out),
            device: stat.st_dev,
            files: 0,
            bytes: 0,
            said: 0,
            chunk: Vec::new(),
        };
        carrying.write(MAGIC)?;
        let opened = carrying.open(&dir, name, &stat).map_err(|e| self.unreadable(e))?;
        let opened = opened.ok_or_else(|| self.refused("it became something else at this moment"))?;
        carrying.entry(opened, &stat, String::new(), 0)?;
        let (files, bytes) = (carrying.files, carrying.bytes);
        carrying.say(&Record::End { files, bytes })?;
        carrying.out.flush().map_err(|e| self.failed(&e))
    }

    fn refused(&self, why: &str) -> CarryError {
        End::Source.refused(format!("{}: {why}", self.from))
    }

    fn unreadable(&self, errno: Errno) -> CarryError {
        let why = format!("{}: {}", self.from, io::Error::from(errno));
        match errno {
            Errno::NOENT | Errno::ACCESS | Errno::PERM => CarryError::new(Code::SourceMissing, why),
            _ => CarryError::new(Code::TransferFailed, why),
        }
    }

    fn failed(&self, e: &io::Error) -> CarryError {
        CarryError::new(Code::TransferFailed, format!("{}: {e}", self.from))
    }

    fn too_much(&self, what: &str) -> CarryError {
        CarryError::new(Code::SourceTooLarge, format!("{}: {what}", self.from))
    }
}

struct Carrying<'a, W: Write> {
    take: &'a Take,
    out: io::BufWriter<W>,
    device: u64,
    files: u64,
    bytes: u64,
    /// Bytes of records.
    said: u64,
    chunk: Vec<u8>,
}

impl<W: Write> Carrying<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), CarryError> {
        self.out.write_all(bytes).map_err(|e| self.take.failed(&e))
    }

    fn say(&mut self, record: &Record) -> Result<(), CarryError> {
        let record = record.encode();
        self.said += record.len() as u64;
        if self.said > limits::MANIFEST {
            return Err(self.take.too_much("there are too many entries"));
        }
        self.write(&record)
    }

    fn skip(&mut self, path: String, why: Skip) -> Result<(), CarryError> {
        self.say(&Record::Skipped { path, why })
    }

    /// Opens an entry that looked like this; `None` when it is another one by now.
    fn open(&self, dir: &OwnedFd, name: &str, stat: &Stat) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = match kind(stat) {
            FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            // What has become a pipe meanwhile must not be waited for.
            _ => OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        };
        let file = step(dir, name, flags)?;
        let now = rustix::fs::fstat(&file)?;
        let same = (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino) && kind(&now) == kind(stat);
        Ok(same.then_some(file))
    }

    fn entry(&mut self, opened: OwnedFd, stat: &Stat, path: String, depth: usize) -> Result<(), CarryError> {
        let mode = stat.st_mode & 0o7777;
        if kind(stat) == FileType::RegularFile {
            self.say(&Record::File { path, mode })?;
            return self.file(opened);
        }
        self.say(&Record::Directory {
            path: path.clone(),
            mode,
        })?;
        let mut names = Vec::new();
        let entries = Dir::read_from(&opened).map_err(|e| self.take.failed(&e.into()))?;
        for entry in entries {
            let entry = entry.map_err(|e| self.take.failed(&e.into()))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
            if names.len() > NAMES {
                return Err(self.take.too_much("a directory has over a million entries"));
            }
        }
        names.sort();
        for name in names {
            let Ok(text) = name.to_str() else {
                let path = joined(&path, &name.to_string_lossy());
                self.skip(path, Skip::Name)?;
                continue;
            };
            self.below(&opened, text, joined(&path, text), depth + 1)?;
        }
        Ok(())
    }

    /// One name of a directory.
    fn below(&mut self, dir: &OwnedFd, name: &str, path: String, depth: usize) -> Result<(), CarryError> {
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return self.skip(path, Skip::Changed);
        };
        if is_closed(&stat, &self.take.closed) {
            return self.skip(path, Skip::AgentsOwn);
        }
        if stat.st_dev != self.device {
            return self.skip(path, Skip::OtherFileSystem);
        }
        match kind(&stat) {
            FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => {
                    let target = target.to_string_lossy().into_owned();
                    self.say(&Record::Link { path, target })
                }
                Err(_) => self.skip(path, Skip::Changed),
            },
            FileType::Directory if depth > DEPTH || path.len() > limits::PATH => self.skip(path, Skip::Depth),
            FileType::Directory | FileType::RegularFile => match self.open(dir, name, &stat) {
                Ok(Some(opened)) => self.entry(opened, &stat, path, depth),
                Err(Errno::ACCESS | Errno::PERM) => self.skip(path, Skip::Unreadable),
                Ok(None) | Err(_) => self.skip(path, Skip::Changed),
            },
            _ => self.skip(path, Skip::Special),
        }
    }

    /// The content of a file: as much as it had when it was opened. What says that it has none may have some all the
    /// same, as files of the kernel's do.
    fn file(&mut self, opened: OwnedFd) -> Result<(), CarryError> {
        let size = rustix::fs::fstat(&opened)
            .map_err(|e| self.take.failed(&e.into()))?
            .st_size;
        let mut left = match u64::try_from(size) {
            Ok(size) if size > 0 => size,
            _ => u64::MAX,
        };
        let mut file = File::from(opened);
        let mut whole = Sha256::new();
        let mut size = 0;
        loop {
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.clear();
            let most = (limits::CHUNK as u64).min(left);
            (&mut file)
                .take(most)
                .read_to_end(&mut chunk)
                .map_err(|e| self.take.failed(&e))?;
            if chunk.is_empty() {
                self.chunk = chunk;
                break;
            }
            let read = chunk.len() as u64;
            self.bytes += read;
            if self.bytes > self.take.max_bytes {
                let max = self.take.max_bytes;
                return Err(self.take.too_much(&format!("over {max} bytes")));
            }
            whole.update(&chunk);
            self.say(&Record::Chunk {
                size: u32::try_from(read).unwrap_or(u32::MAX),
                sha256: Digest::of(&chunk),
            })?;
            self.write(&chunk)?;
            self.chunk = chunk;
            size += read;
            left = left.saturating_sub(read);
        }
        self.files += 1;
        let sha256 = Digest(whole.finalize().into());
        self.say(&Record::FileEnd { size, sha256 })
    }
}

fn joined(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}/{name}"),
    }
}

#[cfg(test)]
mod tests;
