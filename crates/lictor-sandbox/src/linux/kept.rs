//! Claiming a kept sandbox, and letting others have it.
//!
//! # Invariants
//! - A directory below `.kept` is changed only by whoever holds the lock on it, and a new one is begun only by whoever holds
//!   the lock on `.kept`.
//! - What is to go is renamed first, so that nobody ever works in the rest of a sandbox.

mod about;
mod growth;
mod people;
mod sweep;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use lictor_proto::Timestamp;
use lictor_proto::doc::GitCommit;
use lictor_trust::profiles::size_in_words;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use self::about::{About, Lock, lock, put_aside, wait_for_lock};
pub(crate) use self::growth::Growth;
pub(crate) use self::people::{list, remove, restore, snapshot};
pub(crate) use self::sweep::{Sweep, hold};
use super::job::make_dir;
use super::remove::{link_of, remove_dir};
use crate::backend::StartError;
use crate::kept::{Kept, KeptUse, Purpose, Room, Which};
use crate::plan::LaunchSpec;

/// Times that one may be found to be on its way out before that is an error.
const TRIES: u32 = 8;

/// What keeps others out.
pub(crate) type KeptLock = OwnedFd;

/// That a job has a kept sandbox for itself.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
    about: About,
    is_new: bool,
    was_empty: bool,
    /// Whether it has been removed meanwhile.
    is_gone: AtomicBool,
    /// What has been cloned into it meanwhile.
    cloned: OnceLock<GitCommit>,
    /// Holds the lock.
    lock: Arc<OwnedFd>,
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

impl Claim {
    /// Takes it, and makes it if need be: one whose time is over, or that was never finished, begins anew.
    pub(crate) fn take(kept: &Kept, spec: &LaunchSpec, now: Timestamp) -> Result<Self, StartError> {
        let failed = StartError::failed;
        let above = kept.dir.parent().unwrap_or(&kept.dir);
        let unknown = || StartError::Unknown {
            name: kept.which.name.to_string(),
        };
        for _ in 0..TRIES {
            if kept.purpose != Purpose::Work && fs::symlink_metadata(&kept.dir).is_err() {
                return Err(unknown());
            }
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
                    let about = About::read(&kept.dir).ok().flatten();
                    let job = about.and_then(|about| about.holder);
                    return Err(StartError::Busy { name, job });
                }
                Lock::Gone => continue,
            };
            let known = About::read(&kept.dir).map_err(failed("read about the kept sandbox"))?;
            let is_new = known.is_none();
            let about = match known.map(|about| about.not_ahead_of(now)) {
                // What goes with one job begins empty, whoever was there before and whatever they called it.
                Some(about)
                    if about.which == kept.which && !about.goes() && !kept.goes && !about.is_over(now) =>
                {
                    if kept.purpose != Purpose::Reduce {
                        enough_room(&about, &kept.room)?;
                    }
                    About {
                        limits: kept.limits,
                        used_at: now,
                        ..about
                    }
                }
                Some(_) => {
                    put_aside(&kept.dir).map_err(failed("put an old sandbox aside"))?;
                    continue;
                }
                None if kept.purpose != Purpose::Work => return Err(unknown()),
                None => begin(kept, spec, now)?,
            };
            let about = About {
                holder: spec.dir.file_name().map(|n| n.to_string_lossy().into_owned()),
                ..about
            };
            shut(&kept.workspace()).map_err(failed("open the kept sandbox"))?;
            about
                .write(&kept.dir)
                .map_err(failed("write about the kept sandbox"))?;
            return Ok(Self {
                dir: kept.dir.clone(),
                about,
                is_new,
                was_empty: is_empty(&kept.workspace()),
                is_gone: AtomicBool::new(false),
                cloned: OnceLock::new(),
                lock: Arc::new(lock),
            });
        }
        Err(failed("lock the kept sandbox")(io::ErrorKind::Interrupted.into()))
    }

    /// Whether there was nothing in its workspace when it was taken.
    pub(super) fn was_empty(&self) -> bool {
        self.was_empty
    }

    /// Its directory, and the lock for whoever works there beside the job.
    pub(super) fn share(&self) -> (PathBuf, Arc<OwnedFd>) {
        (self.dir.clone(), self.lock.clone())
    }

    /// Remembers what was cloned into it, once its job lets go of it.
    pub(super) fn cloned(&self, git: &GitCommit) {
        let _ = self.cloned.set(git.clone());
    }

    /// Takes its name away: whoever claims one of that name begins anew. What it held is there to be removed, by the caller
    /// or by a sweep.
    pub(super) fn give_up(&self) -> io::Result<PathBuf> {
        let aside = put_aside(&self.dir)?;
        self.is_gone.store(true, Ordering::SeqCst);
        Ok(aside)
    }

    /// What a receipt says about it.
    pub(crate) fn to_tell(&self) -> KeptUse {
        KeptUse {
            name: self.about.which.name.clone(),
            made_at: self.about.made_at,
            is_new: self.is_new,
        }
    }

    /// Lets others have it; its idle time begins now. Looks through all that it holds.
    pub(crate) fn let_go(mut self) {
        if self.is_gone.load(Ordering::SeqCst) {
            return;
        }
        // Where the clock was put back meanwhile, what was said at the claim is later.
        self.about.used_at = Timestamp::now().max(self.about.used_at);
        self.about.holder = None;
        if let Some(git) = self.cloned.take() {
            self.about.git = Some(git);
        }
        if self.about.goes() {
            let removed = put_aside(&self.dir).and_then(|aside| remove_dir(&aside));
            if let Err(error) = removed {
                tracing::warn!(%error, "the directory of a job is left, and removed later");
            }
            return;
        }
        let shut = shut(&self.dir.join("workspace"));
        self.about.count(&self.dir);
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

/// An empty workspace, whatever an unfinished attempt has left, if there may be one more.
fn begin(kept: &Kept, spec: &LaunchSpec, now: Timestamp) -> Result<About, StartError> {
    let failed = || StartError::failed("make the kept sandbox");
    let above = kept.dir.parent().unwrap_or(&kept.dir);
    // Until it is written down: two that begin at once are counted one after the other.
    let _turn = wait_for_lock(above).map_err(failed())?;
    if let Err(e) = one_more(kept) {
        let _ = fs::remove_dir(&kept.dir);
        return Err(e);
    }
    remove_dir(&kept.workspace()).map_err(failed())?;
    make_dir(&kept.workspace(), spec).map_err(failed())?;
    let about = About {
        which: kept.which.clone(),
        limits: kept.limits,
        made_at: now,
        used_at: now,
        bytes: 0,
        uncounted: false,
        holder: None,
        git: None,
    };
    about.write(&kept.dir).map_err(failed())?;
    Ok(about)
}

fn one_more(kept: &Kept) -> Result<(), StartError> {
    let failed = StartError::failed("count the kept sandboxes");
    let others = about::all(kept.dir.parent().unwrap_or(&kept.dir)).map_err(failed)?;
    let others: Vec<_> = others.into_iter().filter(|(dir, _)| *dir != kept.dir).collect();
    let known = || others.iter().filter_map(|(_, about)| about.as_ref());
    let is_like = |w: &Which| w.profile == kept.which.profile;
    let of_profile = known()
        .filter(|about| is_like(&about.which) && !about.goes())
        .count();
    let bytes = known().fold(0_u64, |sum, about| sum.saturating_add(about.counts_as()));
    let Room {
        of_profile: most,
        of_node,
        ..
    } = kept.room;
    let is_enough = |count: usize, most: u32| u32::try_from(count).is_ok_and(|n| n < most);
    let why = match most {
        Some(most) if !is_enough(of_profile, most) => {
            format!(
                "{of_profile} sandboxes of the profile {} are kept here, and it says {most}",
                kept.which.profile
            )
        }
        _ if !is_enough(others.len(), of_node.most) => {
            format!(
                "{} sandboxes are kept here, and the node keeps {}",
                others.len(),
                of_node.most
            )
        }
        _ if bytes >= of_node.bytes => format!(
            "the sandboxes kept here hold {}, and the node keeps {}",
            size_in_words(bytes),
            size_in_words(of_node.bytes)
        ),
        _ => return Ok(()),
    };
    Err(StartError::Full { why })
}

fn enough_room(about: &About, room: &Room) -> Result<(), StartError> {
    let name = &about.which.name;
    let why = match room.of_one.map(size_in_words) {
        Some(most) if !about.is_counted() => format!(
            "what the sandbox {name} holds cannot be counted, and the profile says {most}; restore a snapshot, or remove it"
        ),
        Some(most) if room.of_one < Some(about.bytes) => format!(
            "the sandbox {name} holds {}, and the profile says {most}",
            size_in_words(about.bytes)
        ),
        _ => return Ok(()),
    };
    Err(StartError::Full { why })
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

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use lictor_proto::{Digest, JobId};
    use lictor_trust::profiles::Persist;

    use super::*;
    use crate::linux::{resolve, users};

    const HOST: &str = r#"{"backend":"host","network":"host"}"#;

    #[test]
    fn what_goes_with_one_job_begins_empty_whoever_has_called_theirs_so() {
        let work = tempfile::tempdir().expect("a directory");
        let id = JobId::from_digest(&Digest::of(b"a job"));
        let dir = work.path().join(id.as_str());
        let profile = serde_json::from_str(HOST).expect("a profile");
        let backend = lictor_trust::profiles::Backend::Host;
        let own = users::current();
        let spec = resolve::place_of((&profile, backend), &dir, &own).expect("a place");
        let which = Which {
            name: id.as_str().parse().expect("a name"),
            profile: "p".parse().expect("a name"),
            backend,
            uid: own.uid,
        };
        let long = std::time::Duration::from_secs(3600);
        let persist = Persist {
            idle: long,
            age: long,
            most: None,
            bytes: None,
        };
        let somebodys = Kept::new(which.clone(), &persist, &dir);
        let claim = Claim::take(&somebodys, &spec, Timestamp::now()).expect("taken");
        fs::write(somebodys.workspace().join("theirs"), "x").expect("written");
        claim.let_go();
        // Who named it finds it again.
        let again = Claim::take(&somebodys, &spec, Timestamp::now()).expect("taken");
        assert!(!again.was_empty());
        again.let_go();
        let jobs = Kept::for_one_job(which, None, &dir).expect("a job's");
        assert_eq!(jobs.dir, somebodys.dir);
        let claim = Claim::take(&jobs, &spec, Timestamp::now()).expect("taken");
        assert!(claim.was_empty() && claim.is_new);
        claim.let_go();
        assert!(!jobs.dir.exists());
    }
}
