//! One cgroup per job: limits over its whole tree, and ending, freezing and counting it in one step.
//!
//! ```text
//!   version 2 (unified)   kill, freeze, CPU time always; memory, pids, cpu, io where they are delegated
//!   version 1 (legacy)    memory, pids, cpu where version 2 does not have them; a directory only for a limit that is set
//! ```
//!
//! Both may be in use at once. A job's first process is born in the directory of version 2 and joins those of version
//! 1 before it does anything else, so that none of the job is ever outside. Nothing but directories below the agent's
//! own cgroups is touched.

mod delegation;
mod files;
mod freezer;
mod legacy;
mod place;
#[cfg(test)]
mod tests;
mod unified;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

pub(crate) use self::delegation::Delegation;
pub(crate) use self::freezer::Freezer;
use self::place::Places;
use crate::capability::Capability;

/// Microseconds over which CPU time is given out.
const PERIOD: u64 = 100_000;

/// What can be limited for a whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
    Io,
}

impl Controller {
    /// `memory` first: it is refused where nothing can be passed on, the others not everywhere.
    pub(crate) const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Io];

    /// The kernel's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }

    const fn capability(self) -> Capability {
        match self {
            Self::Memory => Capability::MemoryOfTree,
            Self::Pids => Capability::Pids,
            Self::Cpu => Capability::CpuOfTree,
            Self::Io => Capability::IoOfTree,
        }
    }
}

/// What a tree may use; what is `None` is not limited.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
    /// Thousandths of a processor.
    pub(crate) cpu_millis: Option<u64>,
    /// Of each disk.
    pub(crate) read_bytes_per_s: Option<u64>,
    /// Of each disk.
    pub(crate) write_bytes_per_s: Option<u64>,
}

impl Bounds {
    /// What is set and read back in order to find out what is held.
    const PROBE: Self = Self {
        memory: Some(64 << 20),
        pids: Some(64),
        cpu_millis: Some(500),
        read_bytes_per_s: Some(64 << 20),
        write_bytes_per_s: Some(64 << 20),
    };

    /// Microseconds in each period.
    fn cpu_quota(&self) -> Option<u64> {
        self.cpu_millis.map(|m| m.saturating_mul(PERIOD / 1000))
    }

    fn limits(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory.is_some(),
            Controller::Pids => self.pids.is_some(),
            Controller::Cpu => self.cpu_millis.is_some(),
            Controller::Io => self.read_bytes_per_s.or(self.write_bytes_per_s).is_some(),
        }
    }
}

/// The directories below which jobs get theirs.
#[derive(Debug)]
pub(crate) struct Cgroups {
    unified: Option<unified::Root>,
    legacy: Vec<legacy::Root>,
    /// Where version 2 is not there to hold a job.
    freezer: Option<legacy::Root>,
}

impl Cgroups {
    /// Makes them where they can be made. May move this process into a cgroup below its own; so it comes before
    /// anything is forked.
    pub(crate) fn make() -> Self {
        let places = Places::look();
        let unified = places.unified().and_then(|own| unified::Root::make(&own));
        let missing = Controller::ALL.into_iter().filter(|c| {
            let here = unified.as_ref().is_some_and(|u| u.controllers.contains(c));
            !here
        });
        let legacy = missing.filter_map(|c| legacy::Root::make(c, &places.legacy(c.name())?));
        let legacy = legacy.collect();
        let freezer = || legacy::Root::freezer(&places.legacy("freezer")?);
        Self {
            freezer: if unified.is_none() { freezer() } else { None },
            unified,
            legacy,
        }
    }

    /// Below which directory of version 2 jobs get theirs.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_ref().map(unified::Root::dir)
    }

    /// By what right it passes on its controllers, or why it cannot.
    pub(crate) fn delegation(&self) -> Delegation {
        Delegation::of(Places::look().unified().as_deref())
    }

    /// Whether this is limited for a whole tree here.
    pub(crate) fn holds(&self, controller: Controller) -> bool {
        let unified = self.unified.as_ref().map_or(&[][..], |u| &u.controllers);
        unified.contains(&controller) || self.legacy.iter().any(|l| l.controller == Some(controller))
    }

    /// Whether a whole job can be made to stand still by its cgroup.
    pub(crate) fn can_hold_still(&self) -> bool {
        self.unified.is_some() || self.freezer.is_some()
    }

    /// What of it a profile may ask for.
    pub(crate) fn capabilities(&self) -> Vec<Capability> {
        let held = Controller::ALL.into_iter().filter(|c| self.holds(*c));
        let mut found: Vec<_> = held.map(Controller::capability).collect();
        found.extend(self.unified.as_ref().map(|_| Capability::Cgroup));
        found
    }

    /// One job's own, with those of its bounds that are held here; `None` when it has neither.
    pub(crate) fn job(&self, name: &str, bounds: &Bounds) -> io::Result<Option<Cgroup>> {
        let mut job = Cgroup::default();
        match self.fill(&mut job, name, bounds) {
            Ok(()) => Ok((job.unified.is_some() || !job.legacy.is_empty()).then_some(job)),
            Err(e) => {
                let _ = job.remove();
                Err(e)
            }
        }
    }

    fn fill(&self, job: &mut Cgroup, name: &str, bounds: &Bounds) -> io::Result<()> {
        if let Some(root) = &self.unified {
            let dir = job.unified.insert(root.job(name)?);
            for controller in &root.controllers {
                unified::limit(*controller, dir, bounds)?;
            }
            job.controllers = root.controllers.clone();
        }
        for root in self.legacy.iter().chain(&self.freezer) {
            let limit = root.controller;
            if limit.is_none_or(|c| bounds.limits(c)) {
                let dir = root.job(name)?;
                job.legacy.push((limit, dir.clone()));
                limit.map_or(Ok(()), |c| legacy::limit(c, &dir, bounds))?;
            }
        }
        Ok(())
    }
}

/// A name that no job's directory has.
fn probe_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(".probe-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The cgroups of the job called `name` that an agent which is gone has made: of version 2, of version 1.
pub(crate) fn left_behind(name: &OsStr) -> (Option<PathBuf>, Vec<PathBuf>) {
    let places = Places::look();
    let unified = places.unified().map(|own| delegation::base(&own));
    let unified = unified.and_then(|base| files::left_behind(&base, name));
    let names = Controller::ALL.iter().map(|c| c.name()).chain(["freezer"]);
    let own = names.filter_map(|name| places.legacy(name));
    let legacy = own.filter_map(|own| files::left_behind(&own, name));
    (unified, legacy.collect())
}

/// One job's.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    unified: Option<PathBuf>,
    /// What version 2 limits in it.
    controllers: Vec<Controller>,
    /// What each limits: nothing the freezer's, and unknown of an earlier agent process's.
    legacy: Vec<(Option<Controller>, PathBuf)>,
}

impl Cgroup {
    /// Those of an earlier agent process that are still there.
    pub(crate) fn left(unified: Option<PathBuf>, legacy: Vec<PathBuf>) -> Option<Self> {
        let legacy: Vec<_> = legacy.into_iter().map(|dir| (None, dir)).collect();
        (unified.is_some() || !legacy.is_empty()).then_some(Self {
            unified,
            controllers: Vec::new(),
            legacy,
        })
    }

    /// The directory of version 2.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Those of version 1.
    pub(crate) fn legacy(&self) -> impl Iterator<Item = &Path> {
        self.legacy.iter().map(|(_, dir)| dir.as_path())
    }

    fn of_legacy(&self, controller: Controller) -> Option<&Path> {
        let mut own = self.legacy.iter().filter(|(c, _)| *c == Some(controller));
        own.next().map(|(_, dir)| dir.as_path())
    }

    /// For `CLONE_INTO_CGROUP`.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |dir: &PathBuf| Ok(rustix::fs::open(dir, flags, Mode::empty())?);
        self.unified.as_ref().map(open).transpose()
    }

    /// What the job's first process writes "0" to.
    pub(crate) fn gates(&self) -> io::Result<Vec<OwnedFd>> {
        let limits = self.legacy.iter().filter(|(c, _)| c.is_some());
        limits.map(|(_, dir)| legacy::gate(dir)).collect()
    }

    /// Readable when its memory may be out, where nobody but the agent can end the whole tree then.
    pub(crate) fn watch_memory(&self) -> io::Result<Option<OwnedFd>> {
        self.of_legacy(Controller::Memory)
            .map(legacy::watch_memory)
            .transpose()
    }

    /// Kills everything in it, in one step, where that is possible.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.unified.as_deref().map_or(Ok(()), unified::kill)
    }

    /// What holds it, where something does.
    pub(crate) fn freezer(&self) -> Option<Freezer<'_>> {
        let unified = self.unified.as_deref().map(Freezer::Unified);
        unified.or_else(|| self.legacy().find_map(Freezer::legacy))
    }

    /// Whether a live process is in it or below it.
    pub(crate) fn is_populated(&self) -> bool {
        self.unified.as_deref().is_some_and(unified::is_populated)
            || self.legacy().any(|dir| !files::pids(dir).is_empty())
    }

    /// Pids in it, those in cgroups that the job made below it included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let dirs = self.unified.as_deref().into_iter().chain(self.legacy());
        dirs.flat_map(files::pids).collect()
    }

    /// CPU time in user mode and in the kernel, in microseconds.
    pub(crate) fn cpu(&self) -> Option<(u64, u64)> {
        unified::cpu(self.unified.as_deref()?)
    }

    /// The most memory that the tree had at once, in bytes.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        let legacy = self.of_legacy(Controller::Memory);
        let peak = legacy.and_then(|dir| files::number(dir, "memory.max_usage_in_bytes"));
        let has_memory = self.controllers.contains(&Controller::Memory);
        let unified = self.unified.as_deref().filter(|_| has_memory);
        peak.or_else(|| files::number(unified?, "memory.peak"))
    }

    /// Bytes read from and written to disks.
    pub(crate) fn io(&self) -> Option<(u64, u64)> {
        let has_io = self.controllers.contains(&Controller::Io);
        unified::io(self.unified.as_deref().filter(|_| has_io)?)
    }

    /// Whether its memory limit was met and a process killed for that.
    pub(crate) fn out_of_memory(&self) -> bool {
        let unified = self.unified.as_deref();
        let unified = unified.filter(|_| self.controllers.contains(&Controller::Memory));
        unified.is_some_and(unified::out_of_memory)
            || self
                .of_legacy(Controller::Memory)
                .is_some_and(legacy::out_of_memory)
    }

    /// Whether a process was not made because there were too many.
    pub(crate) fn out_of_pids(&self) -> bool {
        let unified = self.unified.as_deref();
        let unified = unified.filter(|_| self.controllers.contains(&Controller::Pids));
        let dirs = unified.into_iter().chain(self.of_legacy(Controller::Pids));
        let mut refused = dirs.filter_map(|dir| files::counter(dir, "pids.events", "max"));
        refused.any(|n| n > 0)
    }

    /// Removes it and whatever cgroups the job made below it. It must be empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let dirs = self.unified.as_deref().into_iter().chain(self.legacy());
        dirs.map(files::remove).fold(Ok(()), Result::and)
    }
}
