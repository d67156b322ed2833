//! Claiming a kept sandbox, and removing those whose time is over.
//!
//! # Invariants
//! - A directory below `.kept` is changed only by whoever holds the lock on it.
//! - What is to go is renamed first, so that nobody ever works in the rest of a sandbox.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lictor_proto::Timestamp;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::job::make_dir;
use super::remove::{link_of, remove_dir};
use crate::backend::StartError;
use crate::kept::{Kept, Limits, PLACE, Which};
use crate::plan::LaunchSpec;

/// What says what it is.
const ABOUT: &str = "sandbox.json";
/// How the names of directories begin that are on their way out.
const GONE: &str = ".gone-";
/// Times that one may be found to be on its way out before that is an error.
const TRIES: u32 = 8;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// `sandbox.json`.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    which: Which,
    limits: Limits,
    made_at: Timestamp,
    used_at: Timestamp,
}

impl About {
    /// `None` when nothing was written yet. What cannot be read is no reason to throw away what it is about.
    fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(ABOUT)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) => Err(e),
        }
    }

    /// Whole or not at all. After a loss of power it may be missing, and the sandbox is a new one then.
    fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("sandbox.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, dir.join(ABOUT))
    }

    fn is_over(&self, now: Timestamp) -> bool {
        let passed = |since: Timestamp| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        passed(self.used_at) > self.limits.idle_ms || passed(self.made_at) > self.limits.age_ms
    }
}

/// That a job has a kept sandbox for itself.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
    about: About,
    /// Holds the lock.
    lock: Arc<OwnedFd>,
}

impl Claim {
    /// Takes it, and makes it if need be: one whose time is over, or that was never finished, begins anew.
    pub(crate) fn take(kept: &Kept, spec: &LaunchSpec) -> Result<Self, StartError> {
        let failed = StartError::failed;
        let above = kept.dir.parent().unwrap_or(&kept.dir);
        for _ in 0..TRIES {
            make_if_missing(above).map_err(failed("make the kept sandbox"))?;
            match make_if_missing(&kept.dir) {
                // A sweep has just found the place empty.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("make the kept sandbox"))?,
            }
            let lock = match lock(&kept.dir).map_err(failed("lock the kept sandbox"))? {
                Lock::Held(lock) => lock,
                Lock::Busy => {
                    let name = kept.which.name.to_string();
                    return Err(StartError::Busy { name });
                }
                Lock::Gone => continue,
            };
            let now = Timestamp::now();
            let known = About::read(&kept.dir).map_err(failed("read about the kept sandbox"))?;
            let about = match known {
                Some(about) if about.which == kept.which && !about.is_over(now) => About {
                    limits: kept.limits,
                    used_at: now,
                    ..about
                },
                Some(_) => {
                    put_aside(&kept.dir).map_err(failed("put an old sandbox aside"))?;
                    continue;
                }
                None => {
                    begin(kept, spec).map_err(failed("make the kept sandbox"))?;
                    About {
                        which: kept.which.clone(),
                        limits: kept.limits,
                        made_at: now,
                        used_at: now,
                    }
                }
            };
            shut(&kept.workspace()).map_err(failed("open the kept sandbox"))?;
            about
                .write(&kept.dir)
                .map_err(failed("write about the kept sandbox"))?;
            return Ok(Self {
                dir: kept.dir.clone(),
                about,
                lock: Arc::new(lock),
            });
        }
        Err(failed("lock the kept sandbox")(io::ErrorKind::Interrupted.into()))
    }

    /// Its directory, and the lock for whoever works there beside the job.
    pub(super) fn share(&self) -> (PathBuf, Arc<OwnedFd>) {
        (self.dir.clone(), self.lock.clone())
    }

    /// Lets others have it; its idle time begins now.
    pub(crate) fn let_go(mut self) {
        self.about.used_at = Timestamp::now();
        let shut = shut(&self.dir.join("workspace"));
        if let Err(error) = shut.and(self.about.write(&self.dir)) {
            tracing::warn!(%error, "the end of a kept sandbox's use could not be written down");
        }
    }
}

/// Passable, for jobs that see the host's own tree, and not to be listed.
fn make_if_missing(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// An empty workspace, whatever an unfinished attempt has left.
fn begin(kept: &Kept, spec: &LaunchSpec) -> io::Result<()> {
    remove_dir(&kept.workspace())?;
    make_dir(&kept.workspace(), spec)
}

/// Its user's alone, whatever a job has made of it: the next one needs to get in, and nobody else.
fn shut(workspace: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(workspace, flags, Mode::empty())?;
    Ok(rustix::fs::chmodat(
        CWD,
        link_of(&dir),
        Mode::RWXU,
        AtFlags::empty(),
    )?)
}

enum Lock {
    Held(OwnedFd),
    Busy,
    /// It was renamed meanwhile.
    Gone,
}

fn lock(dir: &Path) -> io::Result<Lock> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Lock::Gone),
        other => other?,
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::AGAIN) => return Ok(Lock::Busy),
        other => other?,
    }
    let held = File::from(fd);
    let own = held.metadata()?;
    let same = fs::symlink_metadata(dir).is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), own.ino()));
    Ok(if same { Lock::Held(held.into()) } else { Lock::Gone })
}

/// Takes its name away; the next sweep removes it.
fn put_aside(dir: &Path) -> io::Result<()> {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = Timestamp::now().as_millis();
    let gone = format!("{GONE}{now}-{}-{number}", std::process::id());
    fs::rename(dir, dir.with_file_name(gone))
}

/// Removes kept sandboxes whose time is over, of which none is in use, and what is left of those before.
pub(crate) fn sweep(work: &Path) -> io::Result<()> {
    let place = work.join(PLACE);
    let entries = match fs::read_dir(&place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let now = Timestamp::now();
    let mut result = Ok(());
    for entry in entries {
        let dir = match entry {
            Ok(entry) => entry.path(),
            Err(e) => {
                result = result.and(Err(e));
                continue;
            }
        };
        let gone = |dir: &Path| {
            let name = dir.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(GONE.as_bytes())
        };
        let done = if gone(&dir) {
            remove_dir(&dir)
        } else {
            remove_if_over(&dir, now)
        };
        result = result.and(done);
    }
    // What is empty says nothing any more.
    let _ = fs::remove_dir(&place);
    result
}

fn remove_if_over(dir: &Path, now: Timestamp) -> io::Result<()> {
    let Lock::Held(_lock) = lock(dir)? else {
        return Ok(());
    };
    if About::read(dir)?.is_some_and(|about| !about.is_over(now)) {
        return Ok(());
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let aside = dir.with_file_name(format!(
        "{GONE}{}-{}-s{number}",
        now.as_millis(),
        std::process::id()
    ));
    fs::rename(dir, &aside)?;
    remove_dir(&aside)
}
