//! What is written about a kept sandbox, the lock on it, and how much it holds.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lictor_proto::Timestamp;
use lictor_proto::doc::GitCommit;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::kept::{Limits, Which};

/// What says what it is.
const ABOUT: &str = "sandbox.json";
/// How the names of directories begin that are on their way out.
const GONE: &str = ".gone-";
/// Entries and directories in directories that are counted.
const ENTRIES: u64 = 4_000_000;
const DEPTH: u32 = 200;
/// The kernel's unit of what a file takes.
const BLOCK: u64 = 512;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// `sandbox.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) which: Which,
    pub(super) limits: Limits,
    pub(super) made_at: Timestamp,
    pub(super) used_at: Timestamp,
    /// What it held when it was last counted.
    #[serde(default)]
    pub(super) bytes: u64,
    /// Whether it could not be counted at the end of its last job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) uncounted: bool,
    /// The directory of the job that has it, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<String>,
    /// What was cloned into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) git: Option<GitCommit>,
}

impl About {
    /// `None` when nothing was written yet. What cannot be read is no reason to throw away what it is about.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(ABOUT)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) => Err(e),
        }
    }

    /// Whole or not at all. After a loss of power it may be missing, and the sandbox is a new one then.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("sandbox.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, dir.join(ABOUT))
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        now > self.until()
    }

    /// When its time is over, if nobody uses it until then.
    pub(super) fn until(&self) -> Timestamp {
        let after = |since: Timestamp, ms: u64| Timestamp::from_millis(since.as_millis().saturating_add(ms));
        let (idle, age) = (self.limits.idle_ms, self.limits.age_ms);
        after(self.used_at, idle).min(after(self.made_at, age))
    }

    /// Counts what it holds. What cannot be counted is one sandbox's trouble, and nobody else's.
    pub(super) fn count(&mut self, dir: &Path) {
        match measure(dir, Meanwhile::Still) {
            Ok(bytes) => (self.bytes, self.uncounted) = (bytes, false),
            Err(error) => {
                tracing::warn!(%error, at = %dir.display(), "what a kept sandbox holds cannot be counted; it counts as its limit");
                self.uncounted = true;
            }
        }
    }

    /// Whether it goes with the job that has it, and is nobody else's.
    pub(super) fn goes(&self) -> bool {
        self.limits.age_ms == 0
    }

    /// Whether what it holds is known. Agents before this one wrote the largest number there is where it was not.
    pub(super) fn is_counted(&self) -> bool {
        !self.uncounted && self.bytes != u64::MAX
    }

    /// What it counts as beside others: what it holds, or may hold; where nobody knows or says either, what it held before.
    pub(super) fn counts_as(&self) -> u64 {
        match (self.is_counted(), self.limits.bytes) {
            (true, _) => self.bytes,
            (false, Some(most)) => most,
            (false, None) if self.bytes == u64::MAX => 0,
            (false, None) => self.bytes,
        }
    }

    pub(super) fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.made_at > now || self.used_at > now
    }

    /// What a clock that was ahead has written counts from now: else it would be kept until that time came.
    pub(super) fn not_ahead_of(self, now: Timestamp) -> Self {
        Self {
            made_at: self.made_at.min(now),
            used_at: self.used_at.min(now),
            ..self
        }
    }
}

/// Every sandbox in the place of all of them, with what is known about it; those on their way out are none any more.
pub(super) fn all(place: &Path) -> io::Result<Vec<(PathBuf, Option<About>)>> {
    let entries = match fs::read_dir(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        if !is_gone(&dir) {
            // What cannot be read is one all the same.
            let about = About::read(&dir).ok().flatten();
            found.push((dir, about));
        }
    }
    Ok(found)
}

/// Whether it is on its way out.
pub(super) fn is_gone(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(GONE.as_bytes())
}

/// Takes its name away; whoever comes by removes it.
pub(super) fn put_aside(dir: &Path) -> io::Result<PathBuf> {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = Timestamp::now().as_millis();
    let aside = dir.with_file_name(format!("{GONE}{now}-{}-{number}", std::process::id()));
    fs::rename(dir, &aside)?;
    Ok(aside)
}

pub(super) enum Lock {
    Held(OwnedFd),
    Busy,
    /// It was renamed meanwhile.
    Gone,
}

fn open(dir: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
}

/// The lock that a job has.
pub(super) fn lock(dir: &Path) -> io::Result<Lock> {
    lock_as(dir, FlockOperation::NonBlockingLockExclusive)
}

/// Whether a job has it; looked at by taking the lock for a moment.
pub(super) fn is_held(dir: &Path) -> io::Result<bool> {
    Ok(matches!(
        lock_as(dir, FlockOperation::NonBlockingLockShared)?,
        Lock::Busy
    ))
}

fn lock_as(dir: &Path, how: FlockOperation) -> io::Result<Lock> {
    let fd = match open(dir) {
        Err(rustix::io::Errno::NOENT) => return Ok(Lock::Gone),
        other => other?,
    };
    match rustix::fs::flock(&fd, how) {
        Err(rustix::io::Errno::AGAIN) => return Ok(Lock::Busy),
        other => other?,
    }
    let held = File::from(fd);
    let own = held.metadata()?;
    let same = fs::symlink_metadata(dir).is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), own.ino()));
    Ok(if same { Lock::Held(held.into()) } else { Lock::Gone })
}

/// Waits for a lock that nobody has for long.
pub(super) fn wait_for_lock(dir: &Path) -> io::Result<OwnedFd> {
    let fd = open(dir)?;
    rustix::fs::flock(&fd, FlockOperation::LockExclusive)?;
    Ok(fd)
}

/// Whether somebody works in what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meanwhile {
    Still,
    /// Then what is gone by the time that it is looked at counts as nothing.
    InUse,
}

/// What is in a directory, in bytes on the disk; a file with several names counts once.
///
/// # Errors
/// When it is too much to be looked through, or closed to the agent.
pub(super) fn measure(dir: &Path, meanwhile: Meanwhile) -> io::Result<u64> {
    let mut sum = Sum {
        blocks: 0,
        entries: 0,
        seen: HashSet::new(),
        meanwhile,
    };
    sum.add(open(dir)?, DEPTH)?;
    Ok(sum.blocks.saturating_mul(BLOCK))
}

struct Sum {
    blocks: u64,
    entries: u64,
    seen: HashSet<u64>,
    meanwhile: Meanwhile,
}

impl Sum {
    fn add(&mut self, dir: OwnedFd, depth: u32) -> io::Result<()> {
        let too_much = || io::Error::new(io::ErrorKind::QuotaExceeded, "more than can be looked through");
        let depth = depth.checked_sub(1).ok_or_else(too_much)?;
        let in_use = self.meanwhile == Meanwhile::InUse;
        let is_gone = |e: &Errno| in_use && matches!(*e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES {
                return Err(too_much());
            }
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(e) if is_gone(&e) => continue,
                other => other?,
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory || stat.st_nlink == 1 || self.seen.insert(stat.st_ino) {
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX);
                self.blocks = self.blocks.saturating_add(blocks);
            }
            if is_directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
                    Err(e) if is_gone(&e) => {}
                    other => self.add(other?, depth)?,
                }
            }
        }
        Ok(())
    }
}
