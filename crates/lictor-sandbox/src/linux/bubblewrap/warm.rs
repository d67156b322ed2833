//! Prepared sandboxes: everything of a job's place but the job, waiting.
//!
//! ```text
//!   keep_warm: make a directory and a box over it --> waiting --take--> the directory is renamed to the job's --> its sandbox
//!                                                        '--too old, its profile gone, what it shows replaced--> ended
//! ```
//!
//! # Invariants
//! - A box is taken for a plan whose place is the same in every field ([`LaunchSpec::place`], the profile's digest among
//!   them), and that would show the same files today. It is taken once.
//! - Only [`keep_warm`] makes boxes, one after the other, and it ends all that are left when it ends. When the agent is
//!   killed they end with it, as every box does; their directories are swept with those of jobs.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lictor_proto::Digest;
use lictor_trust::profiles::{Backend, Profile};
use rustix::fs::{CWD, RenameFlags};
use tokio::sync::{Notify, watch};

use super::namespaces::{Mounts, Namespaces};
use crate::backend::StartError;
use crate::linux::job;
use crate::linux::kernel::Kernel;
use crate::linux::remove::remove_dir;
use crate::linux::resolve::place_of;
use crate::linux::shown::{ETC, SHOWN};
use crate::linux::supervisor::{Timer, expiry};
use crate::plan::LaunchSpec;

/// The longest that one waits for a job: what it shows may be out of date in ways that cannot be seen from outside.
const AGE: Duration = Duration::from_secs(600);
/// After one could not be made.
const TRY_AGAIN: Duration = Duration::from_secs(30);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// All that wait.
#[derive(Debug)]
pub(crate) struct Warm {
    shelves: Mutex<Shelves>,
    /// Something was taken, and its job runs.
    taken: Notify,
    ready: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Shelves {
    all: Vec<Shelf>,
    /// To be ended.
    discarded: Vec<Prepared>,
}

/// Those of one place.
#[derive(Debug)]
struct Shelf {
    place: Digest,
    spec: LaunchSpec,
    wanted: usize,
    ready: VecDeque<Prepared>,
    /// After one could not be made.
    not_before: Option<Instant>,
}

/// One box.
#[derive(Debug)]
struct Prepared {
    namespaces: Namespaces,
    dir: PathBuf,
    shows: Vec<Shown>,
    /// What is mounted inside stays what it was.
    mounts: Mounts,
    made_at: Instant,
}

/// What a path led to when a box was made.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    path: String,
    /// Device and inode of the entry itself, and of what it leads to.
    entry: Option<(u64, u64)>,
    target: Option<(u64, u64)>,
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            shelves: Mutex::default(),
            taken: Notify::new(),
            ready: watch::Sender::new(0),
        }
    }
}

impl Warm {
    /// How many wait.
    pub(crate) fn ready(&self) -> watch::Receiver<usize> {
        self.ready.subscribe()
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, shelves: &Shelves) {
        let ready = shelves.all.iter().map(|s| s.ready.len()).sum();
        self.ready
            .send_if_modified(|before| std::mem::replace(before, ready) != ready);
    }

    /// The one that has waited longest; whether it is of use still is for the caller to see, who holds nothing meanwhile.
    fn pop(&self, spec: &LaunchSpec) -> Option<Prepared> {
        let mut shelves = self.shelves();
        if shelves.all.is_empty() {
            return None;
        }
        let place = spec.place();
        let shelf = shelves.all.iter_mut().find(|s| s.place == place)?;
        let found = shelf.ready.pop_front();
        self.count(&shelves);
        found
    }

    /// Puts up a shelf for each place that is wanted, and takes down the others.
    fn arrange(&self, wanted: Vec<(LaunchSpec, usize)>) {
        let mut shelves = self.shelves();
        let mut old = std::mem::take(&mut shelves.all);
        for (spec, wanted) in wanted {
            let place = spec.place();
            if let Some(same) = shelves.all.iter_mut().find(|s| s.place == place) {
                // One profile under two names.
                same.wanted = same.wanted.max(wanted);
                continue;
            }
            let known = old.iter().position(|s| s.place == place);
            let known = known.map(|i| old.swap_remove(i));
            shelves.all.push(Shelf {
                place,
                spec,
                wanted,
                not_before: known.as_ref().and_then(|s| s.not_before),
                ready: known.map_or_else(VecDeque::new, |s| s.ready),
            });
        }
        shelves.discarded.extend(old.into_iter().flat_map(|s| s.ready));
        self.count(&shelves);
    }

    /// Puts aside what has waited too long, or is one too many.
    fn sort_out(&self) -> Vec<Prepared> {
        let mut shelves = self.shelves();
        let Shelves { all, discarded } = &mut *shelves;
        for shelf in all {
            while shelf.ready.len() > shelf.wanted
                || shelf.ready.front().is_some_and(|p| p.made_at.elapsed() >= AGE)
            {
                discarded.extend(shelf.ready.pop_front());
            }
        }
        let discarded = std::mem::take(discarded);
        self.count(&shelves);
        discarded
    }

    /// A place of which too few wait, and that may be tried.
    fn lacking(&self) -> Option<(Digest, LaunchSpec)> {
        let (shelves, now) = (self.shelves(), Instant::now());
        let mut lacking = shelves.all.iter().filter(|s| s.ready.len() < s.wanted);
        let shelf = lacking.find(|s| s.not_before.is_none_or(|at| at <= now))?;
        Some((shelf.place, shelf.spec.clone()))
    }

    /// Leaves a place alone for a while, of which none can be made; the others are not held up by it.
    fn put_off(&self, place: Digest) {
        let mut shelves = self.shelves();
        if let Some(shelf) = shelves.all.iter_mut().find(|s| s.place == place) {
            shelf.not_before = Some(Instant::now() + TRY_AGAIN);
        }
    }

    /// Puts one where it belongs; aside, when that is not wanted any more.
    fn put(&self, place: Digest, prepared: Prepared) {
        let mut shelves = self.shelves();
        let Shelves { all, discarded } = &mut *shelves;
        match all.iter_mut().find(|s| s.place == place) {
            Some(shelf) => shelf.ready.push_back(prepared),
            None => discarded.push(prepared),
        }
        self.count(&shelves);
    }

    /// Until there is something to do by itself: one has waited too long, or may be tried again.
    fn next(&self) -> Duration {
        let (shelves, now) = (self.shelves(), Instant::now());
        let oldest = shelves.all.iter().filter_map(|s| s.ready.front());
        let oldest = oldest.map(|p| p.made_at + AGE);
        let again = shelves.all.iter().filter_map(|s| s.not_before);
        let next = oldest.chain(again.filter(|at| *at > now)).min();
        // Never quite nothing: what is due is done first.
        let wait = next.map_or(AGE, |at| at.saturating_duration_since(now));
        wait.max(Duration::from_millis(1))
    }
}

impl Prepared {
    async fn make(kernel: &Kernel, spec: &LaunchSpec) -> Result<Self, StartError> {
        let work = spec.dir.parent().unwrap_or(&spec.dir);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = work.join(format!(".warm-{}-{number}", std::process::id()));
        let spec = LaunchSpec {
            dir: dir.clone(),
            ..spec.clone()
        };
        // Looked at before it is shown: what is replaced meanwhile is found out.
        let late = || StartError::failed("look at what is shown")(io::ErrorKind::TimedOut.into());
        let shows = look(kernel, &spec).await.ok_or_else(late)?;
        job::make_dir(&dir, &spec).map_err(StartError::failed("make a directory"))?;
        let stands = async {
            let namespaces = Namespaces::make(kernel, &spec, None).await?;
            let mounts = namespaces.mounts();
            // Dropped when there are none: then it ends.
            Ok((
                mounts.map_err(StartError::failed("look at its mounts"))?,
                namespaces,
            ))
        };
        match stands.await {
            Ok((mounts, namespaces)) => Ok(Self {
                mounts,
                namespaces,
                dir,
                shows,
                made_at: Instant::now(),
            }),
            Err(e) => {
                let _ = remove_dir(&dir);
                Err(e)
            }
        }
    }

    /// Whether it is what would be made now.
    async fn is_sound(&self, kernel: &Kernel, spec: &LaunchSpec) -> bool {
        self.made_at.elapsed() < AGE
            && self.namespaces.is_whole()
            && self.mounts.are_the_same()
            && look(kernel, spec).await.is_some_and(|now| now == self.shows)
    }

    async fn end(mut self) {
        // Which would hold them after their end.
        drop(self.mounts);
        let ended = self.namespaces.end().await;
        if let Err(error) = ended.and_then(|()| remove_dir(&self.dir)) {
            tracing::warn!(%error, "a prepared sandbox could not be removed; the next start does");
        }
    }
}

/// On a thread that may wait: a path of the profile may lie on a file system that does not answer. `None` when it does
/// not in time.
async fn look(kernel: &Kernel, spec: &LaunchSpec) -> Option<Vec<Shown>> {
    if spec.read_only.is_empty() && spec.read_write.is_empty() && spec.devices.is_empty() {
        return Some(shown(spec));
    }
    let (threads, spec) = (kernel.openers.clone(), spec.clone());
    let bound = Timer::after(kernel.zygote.bound);
    let looked = async move {
        // A thread that hangs keeps its place, so that there are never more of them than there are places.
        let place = threads.acquire_owned().await;
        let looking = tokio::task::spawn_blocking(move || {
            let _place = place;
            shown(&spec)
        });
        looking.await.ok()
    };
    tokio::select! {
        looked = looked => looked,
        () = expiry(&bound) => None,
    }
}

fn shown(spec: &LaunchSpec) -> Vec<Shown> {
    let of_host = SHOWN.iter().chain(&ETC).copied();
    let of_profile = spec.read_only.iter().chain(&spec.read_write).chain(&spec.devices);
    let of_profile = of_profile.map(String::as_str);
    let id = |meta: io::Result<std::fs::Metadata>| meta.ok().map(|m| (m.dev(), m.ino()));
    let look = |path: &str| Shown {
        path: path.to_owned(),
        entry: id(std::fs::symlink_metadata(path)),
        target: id(std::fs::metadata(path)),
    };
    of_host.chain(of_profile).map(look).collect()
}

/// That a box was taken: the next one is made when this is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<Kernel>);

impl Taken {
    /// A box that is the plan's place, over the plan's directory; `None` when none waits.
    pub(super) async fn out_of(kernel: &Arc<Kernel>, spec: &LaunchSpec) -> Option<(Namespaces, Self)> {
        let mut prepared = kernel.warm.pop(spec)?;
        while !prepared.is_sound(kernel, spec).await {
            kernel.warm.shelves().discarded.push(prepared);
            kernel.warm.taken.notify_one();
            prepared = kernel.warm.pop(spec)?;
        }
        let taken = Self(kernel.clone());
        // What is mounted inside is the directory, whatever it is called.
        match rustix::fs::renameat_with(CWD, &prepared.dir, CWD, &spec.dir, RenameFlags::NOREPLACE) {
            Ok(()) => Some((prepared.namespaces, taken)),
            Err(error) => {
                tracing::warn!(%error, "a prepared sandbox could not be used");
                kernel.warm.shelves().discarded.push(prepared);
                None
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.warm.taken.notify_one();
    }
}

/// Keeps as many boxes waiting as the profiles ask for, with directories in `work`; ends them all when nobody can
/// change what is wanted any more.
pub(crate) async fn keep_warm(kernel: Arc<Kernel>, work: PathBuf, mut wanted: watch::Receiver<Vec<Profile>>) {
    let warm = &kernel.warm;
    let mut changed = true;
    loop {
        if changed {
            arrange(&kernel, &work, &wanted.borrow_and_update());
        }
        for prepared in warm.sort_out() {
            prepared.end().await;
        }
        let wait = match warm.lacking() {
            None => warm.next(),
            Some((place, spec)) => match Prepared::make(&kernel, &spec).await {
                Ok(prepared) => {
                    warm.put(place, prepared);
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!(error = error.refusal().message, "a sandbox could not be prepared");
                    warm.put_off(place);
                    Duration::ZERO
                }
            },
        };
        changed = match wanted.has_changed() {
            Err(_) => break,
            Ok(changed) => changed,
        };
        if changed || wait.is_zero() {
            continue;
        }
        let wait = Timer::after(wait);
        tokio::select! {
            told = wanted.changed() => match told {
                Ok(()) => changed = true,
                Err(_) => break,
            },
            () = warm.taken.notified() => {}
            () = expiry(&wait) => {}
        }
    }
    warm.arrange(Vec::new());
    for prepared in warm.sort_out() {
        prepared.end().await;
    }
}

fn arrange(kernel: &Kernel, work: &Path, profiles: &[Profile]) {
    let sandbox = kernel.sandbox_user();
    let mut places = Vec::new();
    for profile in profiles.iter().filter(|p| p.warm > 0) {
        // The name stands for those that they will have; only where it lies counts.
        match place_of((profile, Backend::Bubblewrap), &work.join("any"), &sandbox) {
            Ok(spec) => places.push((spec, profile.warm as usize)),
            Err(refusal) => tracing::warn!(
                error = refusal.message,
                "a profile's sandboxes cannot be prepared"
            ),
        }
    }
    kernel.warm.arrange(places);
}
