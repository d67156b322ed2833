//! Removing kept sandboxes whose time is over.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lictor_proto::Timestamp;

use super::about::{self, About, Lock, is_gone, lock, put_aside};
use crate::kept::PLACE;
use crate::linux::remove::remove_dir;

/// Removes what is over, once it has been found so for some time.
///
/// Times are those of a clock that may be wrong when a machine starts, and is put right later: so nothing goes at the first
/// look, unless the patience is none, and the time between two looks is another clock's.
#[derive(Debug)]
pub(crate) struct Sweep {
    patience: Duration,
    over_since: HashMap<PathBuf, Instant>,
}

impl Sweep {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            over_since: HashMap::new(),
        }
    }

    /// Looks at all of them, of which none is in use, and removes what is left of those before.
    pub(crate) fn run(&mut self, work: &Path, now: Timestamp) -> io::Result<()> {
        let place = work.join(PLACE);
        let entries = match fs::read_dir(&place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut result = Ok(());
        let mut over = HashMap::new();
        for entry in entries {
            let done = entry.and_then(|entry| {
                let dir = entry.path();
                match is_gone(&dir) {
                    true => remove_dir(&dir),
                    false => self.look_at(dir, now, &mut over),
                }
            });
            result = result.and(done);
        }
        self.over_since = over;
        // What is empty says nothing any more.
        let _ = fs::remove_dir(&place);
        result
    }

    fn look_at(&self, dir: PathBuf, now: Timestamp, over: &mut HashMap<PathBuf, Instant>) -> io::Result<()> {
        let Lock::Held(_lock) = lock(&dir)? else {
            return Ok(());
        };
        match About::read(&dir)? {
            Some(about) if !about.goes() && about.is_ahead_of(now) => {
                return about.not_ahead_of(now).write(&dir);
            }
            // Of a job that an agent was killed with: nobody comes for it, whatever the clock says.
            Some(about) if about.goes() => return remove_dir(&put_aside(&dir)?),
            Some(about) if !about.is_over(now) => return Ok(()),
            _ => {}
        }
        let since = self.over_since.get(&dir).copied().unwrap_or_else(Instant::now);
        if since.elapsed() < self.patience {
            over.insert(dir, since);
            return Ok(());
        }
        remove_dir(&put_aside(&dir)?)
    }
}

/// Keeps others out of the sandbox that a job had which has not been ended yet, by the name of the job's directory.
pub(crate) fn hold(work: &Path, job: &str) -> Option<OwnedFd> {
    let all = about::all(&work.join(PLACE)).ok()?;
    let is_its = |about: &Option<About>| about.as_ref().is_some_and(|a| a.holder.as_deref() == Some(job));
    let (dir, _) = all.into_iter().find(|(_, about)| is_its(about))?;
    match lock(&dir) {
        Ok(Lock::Held(lock)) => Some(lock),
        _ => None,
    }
}
