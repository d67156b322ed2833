//! All processes of one job, however they were made.
//!
//! Three nets, any of which is enough: the keeper's descendants (it is a subreaper, so orphans stay below it), the
//! job's cgroup, and in a namespaced sandbox the first process of its pid namespace, whose end is everybody's.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lictor_proto::doc::Usage;
use rustix::process::Signal;

use super::cgroup::Cgroup;
use super::process;
use super::suspend::Held;
use crate::handle::ProcessId;

/// Where a job's processes are found.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The keeper, while it has this job; itself not a process of the job. Locked while what is below it is listed,
    /// so that it takes no other job meanwhile.
    pub(crate) keeper: Mutex<Option<ProcessId>>,
    /// First process of the job's pid namespace; itself not a process of the job.
    pub(crate) init: Option<ProcessId>,
    /// Who passes signals on to the job, whose processes are none of the host's.
    pub(crate) speaker: Option<ProcessId>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    /// Whether the job has a terminal.
    pub(crate) at_terminal: bool,
    /// How it is held, while it is suspended.
    pub(super) held: Mutex<Option<Held>>,
}

impl Tree {
    /// Every live process of the job.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let mut found = BTreeMap::new();
        let mut add = |p: ProcessId| {
            found.insert(p.pid, p);
        };
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = *keeper
            && process::is_alive(keeper)
        {
            process::descendants(keeper.pid).into_iter().for_each(&mut add);
        }
        drop(keeper);
        if let Some(init) = self.init
            && process::is_alive(init)
        {
            process::descendants(init.pid).into_iter().for_each(&mut add);
        }
        if let Some(cgroup) = &self.cgroup {
            let alive = |p: &ProcessId| process::is_alive(*p);
            cgroup
                .pids()
                .into_iter()
                .filter_map(process::identify)
                .filter(alive)
                .for_each(&mut add);
        }
        found.into_values().collect()
    }

    /// The keeper, while it has this job.
    pub(crate) fn keeper(&self) -> Option<ProcessId> {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its keeper is about to take another job.
    pub(crate) fn forget_keeper(&self) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether nothing of the job runs any more, given that the keeper has nobody left.
    pub(crate) fn is_gone(&self) -> bool {
        match (self.init, &self.cgroup) {
            (Some(init), _) => !process::is_alive(init),
            (None, Some(cgroup)) => !cgroup.is_populated(),
            (None, None) => true,
        }
    }

    /// Whether nobody is in the job's box but its first process, given that the keeper has nobody left. By the kernel's
    /// own counts: looking at each process is for when there are some.
    pub(crate) fn is_deserted(&self) -> bool {
        let in_cgroup = self.cgroup.as_ref().is_some_and(|c| c.is_populated());
        let below = self.init.is_some_and(|init| process::has_children(init.pid));
        !in_cgroup && !below
    }

    /// Signals every process of the job.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.speaker {
            Some(speaker) if signal != Signal::KILL => process::signal(speaker, signal),
            _ => process::signal_all(self.processes(), signal),
        }
    }

    /// Asks every process of the job to end; one that is held, too, which then goes on.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        let mut deaf = Vec::new();
        if self.at_terminal {
            // Interactive shells ignore TERM; at a terminal that hangs up they end, and tell their children.
            deaf = self.processes();
            deaf.retain(|p| process::ignores(p.pid, Signal::TERM));
        }
        let asked = self.signal(Signal::TERM);
        let hung_up = process::signal_all(deaf, Signal::HUP);
        asked.and(hung_up).and(self.resume())
    }

    /// Kills every process of the job. Processes may be made meanwhile: whoever calls looks again.
    pub(crate) fn kill(&self) -> io::Result<()> {
        // All of them, whatever becomes of one: a job of root can take its cgroup away.
        let init = self.init.map_or(Ok(()), |p| process::signal(p, Signal::KILL));
        let cgroup = self.cgroup.as_ref().map_or(Ok(()), |c| c.kill());
        let each = self.signal(Signal::KILL);
        // What a cgroup of version 1 holds does not even end.
        let let_go = self.resume();
        init.and(cgroup).and(each).and(let_go)
    }

    /// What live processes have used so far.
    pub(crate) fn usage(&self) -> Usage {
        let (mut user, mut system, mut peak) = (0, 0, 0);
        // Clock ticks as user space sees them are always 1/100 s.
        for s in self
            .processes()
            .iter()
            .filter_map(|p| Some((p, process::stat(p.pid)?)))
        {
            user += s.1.user_ticks * 10_000;
            system += s.1.system_ticks * 10_000;
            peak = process::peak_memory(s.0.pid).map_or(peak, |p: u64| p.max(peak));
        }
        if let Some((u, s)) = self.cgroup.as_ref().and_then(|c| c.cpu()) {
            (user, system) = (u, s);
        }
        Usage {
            cpu_user_us: user,
            cpu_system_us: system,
            max_rss_bytes: peak,
            memory_peak_bytes: self.cgroup.as_ref().and_then(|c| c.memory_peak()),
            ..Usage::default()
        }
    }
}
