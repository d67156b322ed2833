//! Controllers of cgroup version 1, one hierarchy each, for hosts whose version 2 has none.
//!
//! A job gets a directory only where it has a limit. Its first process writes itself into `tasks` before it does
//! anything else: for the writer alone, which has one thread, the kernel then takes no lock that costs milliseconds.
//!
//! Version 1 kills one process when memory is out. [`watch_memory`] tells, and the supervisor ends the tree, as
//! `memory.oom.group` of version 2 does.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::files;
use super::{Bounds, Controller, PERIOD};

/// How near to its limit a tree is when the kernel kills for it: what it asked for did not fit in.
const AT_THE_LIMIT: u64 = 128 << 10;

/// One hierarchy, and the directory below which jobs get theirs.
#[derive(Debug)]
pub(super) struct Root {
    /// Nothing for the freezer.
    pub(super) controller: Option<Controller>,
    dir: PathBuf,
}

impl Root {
    /// Makes it below this process's own cgroup; `None` when a limit cannot be set there.
    pub(super) fn make(controller: Controller, own: &Path) -> Option<Self> {
        let root = Self::below(Some(controller), own)?;
        root.holds(controller).then_some(root)
    }

    /// The one of the hierarchy that holds processes.
    pub(super) fn freezer(own: &Path) -> Option<Self> {
        Self::below(None, own)
    }

    fn below(controller: Option<Controller>, own: &Path) -> Option<Self> {
        files::sweep(own);
        let dir = own.join(files::agent_name());
        files::make(&dir).ok()?;
        Some(Self { controller, dir })
    }

    /// Whether a limit can be set, found out by setting one.
    fn holds(&self, controller: Controller) -> bool {
        let Ok(dir) = self.job(&super::probe_name()) else {
            return false;
        };
        let set = limit(controller, &dir, &Bounds::PROBE).is_ok();
        let held = match controller {
            Controller::Memory => {
                files::number(&dir, "memory.limit_in_bytes") == Bounds::PROBE.memory
                    && watch_memory(&dir).is_ok()
            }
            Controller::Pids => files::number(&dir, "pids.max") == Bounds::PROBE.pids,
            Controller::Cpu => files::number(&dir, "cpu.cfs_quota_us") == Bounds::PROBE.cpu_quota(),
            // Version 1 holds back direct writes only: the others are written later, by the kernel itself.
            Controller::Io => false,
        };
        let removed = fs::remove_dir(&dir).is_ok();
        set && held && removed
    }

    /// One job's directory.
    pub(super) fn job(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        match fs::create_dir(&dir) {
            // Another `Host` of this process has removed it with its last job.
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&dir)?,
            other => other?,
        }
        Ok(dir)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Refused by the kernel while a job's directory is in it; then that job's destroy takes it along.
        let _ = fs::remove_dir(&self.dir);
    }
}

pub(super) fn limit(controller: Controller, dir: &Path, bounds: &Bounds) -> io::Result<()> {
    match controller {
        Controller::Memory => bounds.memory.map_or(Ok(()), |n| {
            files::write(dir, "memory.limit_in_bytes", n)?;
            // Swap would turn the limit into a slow-down; without swap accounting, swappiness keeps out of it.
            files::write_if_there(dir, "memory.memsw.limit_in_bytes", n)?;
            files::write(dir, "memory.swappiness", 0)
        }),
        Controller::Pids => bounds.pids.map_or(Ok(()), |n| files::write(dir, "pids.max", n)),
        Controller::Cpu => bounds.cpu_quota().map_or(Ok(()), |quota| {
            files::write(dir, "cpu.cfs_period_us", PERIOD)?;
            files::write(dir, "cpu.cfs_quota_us", quota)
        }),
        Controller::Io => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What a process of the agent's own memory writes "0" to in order to be in it.
pub(super) fn gate(dir: &Path) -> io::Result<OwnedFd> {
    Ok(fs::File::options().write(true).open(dir.join("tasks"))?.into())
}

/// Readable when memory is out here or further up; see [`out_of_memory`] for which.
pub(super) fn watch_memory(dir: &Path) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a new descriptor is owned by nobody else.
    let event = unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    let control = fs::File::open(dir.join("memory.oom_control"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    files::write(dir, "cgroup.event_control", line)?;
    Ok(event)
}

/// Whether a process was killed because the job's own limit was met, not one further up. The kernel's count of refusals
/// (`failcnt`) does not tell: some versions no longer keep it.
pub(super) fn out_of_memory(dir: &Path) -> bool {
    let limit = files::number(dir, "memory.limit_in_bytes").unwrap_or(u64::MAX);
    let peaks = ["memory.max_usage_in_bytes", "memory.memsw.max_usage_in_bytes"];
    let mut peaks = peaks.iter().filter_map(|file| files::number(dir, file));
    peaks.any(|peak| peak.saturating_add(AT_THE_LIMIT) >= limit)
        && files::counter(dir, "memory.oom_control", "oom_kill").unwrap_or(0) > 0
}
