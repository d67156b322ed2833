//! An agent process's own directory for the files of OCI runtimes.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;

use super::bundle::Bundle;
use super::left;
use crate::handle::ProcessId;
use crate::linux::process;

/// Others walk through, and list nothing.
const WALKED_THROUGH: u32 = 0o711;

/// Where one agent process keeps its bundles.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    /// What its containers are called on this machine, but for a number.
    name: String,
    next: AtomicU64,
    /// What earlier processes have left that could not be removed.
    stuck: Vec<PathBuf>,
    /// Of starts that were given up half way.
    given_up: Mutex<Vec<Bundle>>,
    /// Locked for as long as this process lives: a pid means nothing to who is in another pid namespace.
    _lock: File,
}

/// The directory where others lay things out, in mounts of their own.
const STAGE: &str = "stage";

/// The file that says by its lock that a directory is in use.
const LOCK: &str = "lock";

impl Place {
    /// Makes it, and takes away what processes left that are gone.
    pub(crate) fn make(runtime_dir: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if !runtime_dir.is_dir() {
            DirBuilder::new().recursive(true).create(runtime_dir)?;
            fs::set_permissions(runtime_dir, Permissions::from_mode(WALKED_THROUGH))?;
        }
        let meta = fs::symlink_metadata(runtime_dir)?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 || !meta.is_dir() {
            let problem = format!("{} is not the agent's own", runtime_dir.display());
            return Err(io::Error::other(problem));
        }
        let mut stuck = Vec::new();
        for entry in fs::read_dir(runtime_dir)?.flatten() {
            let owner = entry.file_name().to_str().and_then(owner);
            if owner.is_some_and(|p| !process::is_alive(p)) && !is_locked(&entry.path()) {
                left::take_away(&entry.path());
                stuck.extend(entry.path().exists().then(|| entry.path()));
            }
        }
        let own = process::identify(std::process::id()).ok_or(io::ErrorKind::NotFound)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{}.{count}", own.pid, own.start);
        let dir = runtime_dir.join(&name);
        walked_through(&dir)?;
        walked_through(&dir.join(STAGE))?;
        let lock = File::create_new(dir.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            dir,
            name,
            next: AtomicU64::new(0),
            stuck,
            given_up: Mutex::default(),
            _lock: lock,
        })
    }

    /// An empty bundle, which is taken away unless it is kept.
    pub(crate) fn draft(&self) -> io::Result<Draft<'_>> {
        Ok(Draft {
            place: self,
            bundle: self.bundle()?,
            kept: false,
        })
    }

    /// Where things are laid out for a runtime.
    pub(crate) fn stage(&self) -> PathBuf {
        self.dir.join(STAGE)
    }

    /// Where a probe's job may lie; not there yet.
    pub(crate) fn trial(&self) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("trial-{n}"))
    }

    /// An empty bundle.
    pub(crate) fn bundle(&self) -> io::Result<Bundle> {
        self.clear();
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(n.to_string());
        walked_through(&dir)?;
        Bundle::make(dir, format!("lictor-{}.{n}", self.name))
    }
}

impl Place {
    /// What lies there that whoever is left in a container could remove: some of it belongs to its users.
    pub(crate) fn stuck(&self) -> Vec<PathBuf> {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = given_up.iter().map(|bundle| bundle.dir().to_owned());
        let all = self.stuck.iter().cloned().chain(given_up);
        all.filter(|dir| dir.exists()).collect()
    }

    /// Has it removed with the next start.
    pub(crate) fn give_up(&self, bundle: Bundle) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.push(bundle);
    }

    /// Removes what starts have left that were given up. Whom they had started may still be at its end, so what cannot
    /// be removed yet stays for the next time.
    fn clear(&self) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|bundle| bundle.remove().is_err());
    }
}

/// A bundle of a container that is being made. It may be dropped at any time; what is in it goes with the next start.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    place: &'a Place,
    bundle: Bundle,
    kept: bool,
}

impl Draft<'_> {
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The container is there, and whoever holds it removes its files.
    pub(crate) fn keep(mut self) -> Bundle {
        self.kept = true;
        self.bundle.clone()
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.place.give_up(self.bundle.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
        let _ = fs::remove_file(self.dir.join(LOCK));
        let _ = fs::remove_dir(self.stage());
        // What still lies there is for whoever comes next.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Whether somebody lives whose directory this is. One without the file was never used.
fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK)) else {
        return false;
    };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn walked_through(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(WALKED_THROUGH))
}

/// Whose directory this is, by its name.
fn owner(name: &str) -> Option<ProcessId> {
    let mut numbers = name.splitn(3, '.');
    let pid = numbers.next()?.parse().ok()?;
    let start = numbers.next()?.parse().ok()?;
    numbers.next()?.parse::<u64>().ok()?;
    Some(ProcessId { pid, start })
}

#[cfg(test)]
mod tests {
    use super::{Place, owner};
    use crate::handle::ProcessId;

    #[test]
    fn what_a_start_leaves_that_is_given_up_goes_with_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::make(dir.path()).expect("a place");
        let draft = place.draft().expect("a bundle");
        let given_up = draft.bundle().dir().to_owned();
        drop(draft);
        let kept = place.draft().expect("another").keep();
        assert!(!given_up.exists());
        drop(place.bundle().expect("a third"));
        assert!(kept.dir().exists());
        kept.remove().expect("removed");
    }

    #[test]
    fn what_a_process_that_is_gone_has_left_is_taken_away_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Place::make(dir.path()).expect("a place");
        let bundle = first.bundle().expect("a bundle");
        // No process that lives has started with the kernel.
        let gone = dir.path().join("1.0.0");
        std::fs::create_dir_all(gone.join("0/root/etc")).expect("made");
        let strange = dir.path().join("something");
        std::fs::create_dir(&strange).expect("made");
        // Of somebody in another pid namespace, who is alive there.
        let elsewhere = dir.path().join("1.1.0");
        std::fs::create_dir(&elsewhere).expect("made");
        let lock = std::fs::File::create_new(elsewhere.join(super::LOCK)).expect("made");
        rustix::fs::flock(&lock, super::FlockOperation::LockExclusive).expect("locked");
        drop(Place::make(dir.path()).expect("another"));
        assert!(elsewhere.exists());
        drop(lock);
        drop(Place::make(dir.path()).expect("a third"));
        assert!(!elsewhere.exists());
        assert!(!gone.exists() && strange.exists() && bundle.dir().exists());
        assert_eq!(owner("12.34.5"), Some(ProcessId { pid: 12, start: 34 }));
        assert_eq!((owner("12.34"), owner("a.b.c")), (None, None));
    }
}
