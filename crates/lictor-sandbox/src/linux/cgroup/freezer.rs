//! Holding a tree by its cgroup: the processes cannot tell, and nobody but the agent can let them go.
//!
//! Version 2 ends what is frozen; version 1 ends it only once it is let go, so whoever kills lets go afterwards.

use std::io;
use std::path::Path;

use super::files;
use crate::handle::ProcessId;

const STATE: &str = "freezer.state";

/// What holds one job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Freezer<'a> {
    /// The directory that the job was born in.
    Unified(&'a Path),
    /// A directory that nobody is in until the job is held for the first time.
    Legacy(&'a Path),
}

impl<'a> Freezer<'a> {
    /// Of one directory of version 1, if it is of that hierarchy.
    pub(super) fn legacy(dir: &'a Path) -> Option<Self> {
        dir.join(STATE).exists().then_some(Self::Legacy(dir))
    }

    /// Brings in who is not yet in it; says whether there was anybody. Whoever is in it has children in it, so after
    /// one round without a new one there are no others.
    pub(crate) fn take_in(&self, processes: &[ProcessId]) -> io::Result<bool> {
        let Self::Legacy(dir) = self else {
            return Ok(false);
        };
        let inside = files::pids(dir);
        let mut outside = processes.iter().filter(|p| !inside.contains(&p.pid)).peekable();
        let any = outside.peek().is_some();
        for process in outside {
            match files::write(dir, "cgroup.procs", process.pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(any)
    }

    /// Begins to hold whoever is in it.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        match self {
            Self::Unified(dir) => files::write(dir, "cgroup.freeze", 1),
            Self::Legacy(dir) => files::write(dir, STATE, "FROZEN"),
        }
    }

    /// Whether all of them stand still.
    pub(crate) fn is_frozen(&self) -> bool {
        match self {
            Self::Unified(dir) => files::counter(dir, "cgroup.events", "frozen") == Some(1),
            Self::Legacy(dir) => files::read(dir, STATE).is_some_and(|s| s == "FROZEN"),
        }
    }

    /// Lets them go on. One that is gone holds nobody.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let written = match self {
            Self::Unified(dir) => files::write(dir, "cgroup.freeze", 0),
            Self::Legacy(dir) => files::write(dir, STATE, "THAWED"),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }
}
