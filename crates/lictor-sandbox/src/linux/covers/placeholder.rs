//! What is made, with nothing in it, in a directory of the host to have a place for a cover, and taken away again.
//!
//! ```text
//!   WORK/.held-JOB     its paths, each with what it is, from before it is made until it is gone: for an agent that comes
//!                      back after it was killed
//! ```
//!
//! # Invariants
//! - What a sandbox has a cover on is removed by nobody else, which would take the cover off: each holds a shared lock on
//!   what is empty there, and it is removed under an exclusive one.
//! - What is not as it was made any more stays, and no link is followed to it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How the names of records begin.
const HELD: &str = ".held-";
/// What git takes for a repository that is its own; of a file with nothing in it it says that it cannot be read.
const COMMON_DIR: (&str, &[u8]) = ("commondir", b".\n");
/// What comes before the path of a directory, and of a file.
const KINDS: [u8; 2] = [b'd', b'f'];

/// What a sandbox needs to stay where it is.
#[derive(Debug)]
pub(crate) struct Placeholder {
    lock: OwnedFd,
    /// What is removed with it; `None` for what another sandbox has made, or somebody has left empty.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    above: OwnedFd,
    name: CString,
    directory: bool,
    /// Forgotten with the last of what it names.
    _record: Option<Arc<Record>>,
}

impl Placeholder {
    /// What has just been made.
    pub(super) fn of_its_own(
        above: OwnedFd,
        name: &str,
        directory: bool,
        record: Option<Arc<Record>>,
    ) -> io::Result<Self> {
        let lock = open(&above, name)?;
        share(&lock)?;
        let name = CString::new(name).map_err(io::Error::other)?;
        let own = Own {
            above,
            name,
            directory,
            _record: record,
        };
        Ok(Self { lock, own: Some(own) })
    }

    /// What was there, as far as it is empty and so may be another's to remove.
    pub(super) fn of_another(above: &OwnedFd, name: &str, found: &OwnedFd) -> io::Result<Option<Self>> {
        let stat = rustix::fs::fstat(found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Ok(None);
        }
        // Everybody may read what a sandbox has made.
        let lock = match open(above, name) {
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            other => other?,
        };
        let is_as_made = match kind {
            FileType::Directory => is_empty(&lock)?,
            _ => is_as_made(&lock, name.as_bytes())?,
        };
        if !is_as_made {
            return Ok(None);
        }
        share(&lock)?;
        Ok(Some(Self { lock, own: None }))
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        if rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN) {
            // Another sandbox has a cover on it.
            return;
        }
        let flags = match own.directory {
            true => AtFlags::REMOVEDIR,
            false => {
                let now = open(&own.above, &own.name);
                match now.map(|file| is_as_made(&file, own.name.as_bytes())) {
                    Ok(Ok(true)) => AtFlags::empty(),
                    _ => return,
                }
            }
        };
        let _ = rustix::fs::unlinkat(&own.above, &own.name, flags);
    }
}

/// What is written into a file that is made.
pub(super) fn content(at: &str) -> &'static [u8] {
    let (name, content) = COMMON_DIR;
    match Path::new(at).ends_with(Path::new(".git").join(name)) {
        true => content,
        false => b"",
    }
}

/// Whether somebody else has written into a file of this name; an agent may have been killed before it had.
fn is_as_made(file: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    let (common, content) = COMMON_DIR;
    let size = rustix::fs::fstat(file)?.st_size;
    if size == 0 || name != common.as_bytes() {
        return Ok(size == 0);
    }
    let mut found = [0; 4];
    let length = rustix::io::pread(file, &mut found, 0)?;
    Ok(found[..length] == *content)
}

fn open(above: &OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let here = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat2(above, name, flags, Mode::empty(), here)
}

fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a file system has no locks nobody can do better.
fn share(lock: &OwnedFd) -> io::Result<()> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::AGAIN) => Err(io::Error::other("it is protected, and somebody is removing it")),
        _ => Ok(()),
    }
}

/// Where it is written down what a job's sandbox makes.
#[derive(Debug)]
pub(crate) struct Record(PathBuf);

impl Record {
    /// Of a job with this directory.
    pub(super) fn beside(dir: &Path) -> Option<Self> {
        let mut name = std::ffi::OsString::from(HELD);
        name.push(dir.file_name()?);
        Some(Self(dir.with_file_name(name)))
    }

    pub(super) fn add(&self, at: &str, directory: bool) -> io::Result<()> {
        let mut file = OpenOptions::new();
        let mut file = file.create(true).append(true).mode(0o600).open(&self.0)?;
        let mut line = vec![KINDS[usize::from(!directory)]];
        line.extend_from_slice(at.as_bytes());
        line.push(0);
        file.write_all(&line)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes what jobs of an earlier agent have left, and what was written down about it.
pub(crate) fn remove_left(work: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in std::fs::read_dir(work)? {
        let entry = entry?;
        if !entry.file_name().as_bytes().starts_with(HELD.as_bytes()) {
            continue;
        }
        let record = Record(entry.path());
        let lines = std::fs::read(&record.0)?;
        // The last first: what lies in another was made after it.
        for line in lines.split(|b| *b == 0).rev().filter(|l| !l.is_empty()) {
            result = result.and(remove_one(line));
        }
    }
    result
}

fn remove_one(line: &[u8]) -> io::Result<()> {
    let Some((kind, path)) = line.split_first() else {
        return Ok(());
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = match rustix::fs::openat2(CWD, above, flags, Mode::empty(), no_links) {
        // Whatever is there now, it is not what was made.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    let lock = match open(&above, name) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    let is_directory = File::from(lock.try_clone()?).metadata()?.is_dir();
    if is_directory == (*kind == KINDS[0]) {
        let name = CString::new(name).map_err(io::Error::other)?;
        let own = Own {
            above,
            name,
            directory: is_directory,
            _record: None,
        };
        drop(Placeholder { lock, own: Some(own) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Covers;
    use super::remove_left;

    #[test]
    fn what_an_agent_that_was_killed_had_made_is_removed_unless_somebody_uses_it() {
        let place = tempfile::tempdir().expect("a directory");
        let (work, repo) = (place.path().join("work"), place.path().join("repo"));
        fs::create_dir_all(&work).expect("made");
        fs::create_dir_all(repo.join(".git")).expect("made");
        let shown = repo.to_str().expect("UTF-8");
        let root =
            rustix::fs::open(&repo, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("open");
        let make = |job: &str| {
            let mut covers = Covers::of_job(&work.join(job));
            for path in [".git/hooks/", ".git/config", ".git/commondir", "ci/"] {
                covers.protect(shown, &root, path).expect("held");
            }
            covers
        };
        let record = work.join(".held-one");
        let covers = make("one");
        let text = fs::read(&record).expect("written down");
        let common = repo.join(".git/commondir");
        assert_eq!(fs::read(&common).expect("made"), b".\n", "git can read it");
        drop(covers);
        let gone = || {
            !repo.join(".git/hooks").exists()
                && !repo.join(".git/config").exists()
                && !repo.join(".git/commondir").exists()
                && !repo.join("ci").exists()
        };
        assert!(gone() && !record.exists(), "in order nothing stays");

        let as_left = || {
            fs::create_dir(repo.join(".git/hooks")).expect("made");
            fs::write(repo.join(".git/config"), "").expect("made");
            fs::write(&common, ".\n").expect("made");
            fs::create_dir(repo.join("ci")).expect("made");
            fs::write(&record, &text).expect("written");
        };
        as_left();
        remove_left(&work).expect("removed");
        assert!(gone() && !record.exists(), "and after a crash neither");

        as_left();
        fs::write(repo.join(".git/config"), "[core]").expect("written");
        fs::write(repo.join("ci/build"), "").expect("written");
        fs::write(&common, "..\n").expect("written");
        let another = make("another");
        remove_left(&work).expect("removed");
        assert!(
            repo.join(".git/config").exists() && repo.join("ci/build").exists() && common.exists(),
            "it is somebody's now"
        );
        assert!(
            repo.join(".git/hooks").exists(),
            "another sandbox has a cover on it"
        );
        drop(another);
    }
}
