//! Watches one job to its end: time limit, stop, grace, what is left behind, usage.
//!
//! # Invariants
//! - The result does not wait for anybody but the main process: what it leaves behind is killed, not awaited.
//! - Every wait is bounded. What survives SIGKILL (a process stuck in the kernel) is logged, and the job ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::Timestamp;
use lictor_proto::doc::{Exit, LimitHit, Usage};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::cgroup::Cgroup;
use super::gvisor::Report;
use super::keeper::Keeper;
use super::kept::Growth;
use super::process;
use super::quota;
use super::ready;
use super::table::{EMPTY, MAIN_ENDED, RawUsage};
use super::tree::Tree;
use super::zygote::Zygote;
use crate::running::{Cause, Ended, StopReason};

/// How often a tree is looked at again while it is being ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often it is looked whether the kernel has killed a process after it said that memory is out.
const KILLED_SOON: u32 = 200;
/// How long SIGKILL may take.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// Drives one job.
#[derive(Debug)]
pub(crate) struct Supervisor {
    keeper: Keeper,
    zygote: Arc<Zygote>,
    tree: Arc<Tree>,
    timeout: Duration,
    grace: Duration,
    stop: watch::Sender<Option<StopReason>>,
    /// Readable when the tree's memory may be out and the kernel ends one process only.
    memory: Option<AsyncFd<OwnedFd>>,
    ended: watch::Sender<bool>,
    /// What the job's own kernel tells about its end, of which the host sees nothing.
    report: Option<Report>,
    /// Where what the job may write is limited.
    disk: Option<PathBuf>,
    /// What must not grow without end.
    growth: Option<Growth>,
}

/// What is known of the end so far.
#[derive(Debug, Default)]
struct Seen {
    exit: Option<Exit>,
    usage: RawUsage,
    leftovers: u32,
    killed: bool,
    /// No child of the keeper is left, or the keeper itself is gone.
    empty: bool,
}

impl Supervisor {
    pub(crate) fn new(
        (zygote, keeper): (Arc<Zygote>, Keeper),
        tree: Arc<Tree>,
        (timeout, grace): (Duration, Duration),
        memory: Option<AsyncFd<OwnedFd>>,
        ended: watch::Sender<bool>,
    ) -> Self {
        Self {
            keeper,
            zygote,
            tree,
            timeout,
            grace,
            stop: watch::Sender::new(None),
            memory,
            ended,
            report: None,
            disk: None,
            growth: None,
        }
    }

    /// Ends the job when this is over.
    pub(crate) fn with_growth(self, growth: Option<Growth>) -> Self {
        Self { growth, ..self }
    }

    /// Looks at the end whether this is full.
    pub(crate) fn with_disk(self, disk: Option<PathBuf>) -> Self {
        Self { disk, ..self }
    }

    pub(crate) fn with_report(self, report: Option<Report>) -> Self {
        Self { report, ..self }
    }

    pub(crate) fn stop_sender(&self) -> watch::Sender<Option<StopReason>> {
        self.stop.clone()
    }

    /// Waits for the end.
    pub(crate) async fn wait(mut self, started_at: Timestamp) -> Ended {
        let mut seen = Seen::default();
        let cause = self.until_end_or_stop(&mut seen).await;
        match cause {
            Cause::Exited => {}
            // It would go on writing through its grace.
            Cause::OutOfRoom => seen.killed = true,
            Cause::TimedOut | Cause::Stopped(_) => self.terminate(&mut seen).await,
        }
        self.clear(&mut seen).await;
        self.ended.send_replace(true);
        if let Some(report) = &self.report {
            // Who is killed with the kernel that it runs on has nobody to tell.
            let (status, left) = report.end().unwrap_or((libc::SIGKILL, 0));
            seen.exit = Some(exit_of(status));
            seen.leftovers = left;
        }
        let usage = self.usage(&seen.usage);
        let limits_hit = self.limits_hit(cause, seen.exit);
        // From here on what is below the keeper is another job's.
        self.tree.forget_keeper();
        self.zygote.give_back(self.keeper);
        Ended {
            exit: seen.exit,
            cause,
            usage,
            limits_hit,
            leftovers: seen.leftovers,
            killed: seen.killed,
            started_at,
            finished_at: Timestamp::now(),
        }
    }

    async fn until_end_or_stop(&mut self, seen: &mut Seen) -> Cause {
        let mut stop = self.stop.subscribe();
        let limit = Timer::after(self.timeout);
        let growth = self.growth.take();
        let mut over = pin!(is_over(growth.as_ref()));
        loop {
            tokio::select! {
                biased;
                () = note(&mut self.keeper, seen) => if seen.exit.is_some() || seen.empty {
                    return Cause::Exited;
                },
                // Its kernel is not waited for.
                () = told(self.report.as_ref()) => return Cause::Exited,
                () = expiry(&limit) => return Cause::TimedOut,
                () = &mut over => return Cause::OutOfRoom,
                Ok(reason) = stop.wait_for(Option::is_some) => {
                    return reason.map_or(Cause::TimedOut, Cause::Stopped);
                }
                () = out_of_memory(self.memory.as_ref(), &self.tree) => self.kill(),
            }
        }
    }

    fn kill(&self) {
        if let Err(error) = self.tree.kill() {
            tracing::warn!(%error, "cannot kill every process of a job");
        }
    }

    /// TERM, then up to the grace for everybody to go.
    async fn terminate(&mut self, seen: &mut Seen) {
        if let Err(error) = self.tree.terminate() {
            tracing::warn!(%error, "cannot signal every process of a job");
        }
        let grace = Timer::after(self.grace);
        loop {
            if seen.empty && self.tree.processes().is_empty() {
                return;
            }
            let look_again = Timer::after(LOOK_AGAIN);
            tokio::select! {
                () = note(&mut self.keeper, seen), if !seen.empty => {}
                () = expiry(&grace) => break,
                () = expiry(&look_again), if seen.empty => {}
            }
        }
        seen.killed = true;
    }

    /// Nothing of the job is left after this.
    async fn clear(&mut self, seen: &mut Seen) {
        let in_box = self.tree.init.is_some();
        if !seen.killed && (seen.leftovers > 0 || in_box && !(seen.empty && self.tree.is_deserted())) {
            seen.leftovers = u32::try_from(self.tree.processes().len()).unwrap_or(u32::MAX);
        }
        if in_box && seen.empty && seen.exit.is_some() && seen.leftovers == 0 && !seen.killed {
            // Nobody is left who could start anybody: the box's first process only waits. Taking the box down is
            // `destroy`'s.
            return;
        }
        if seen.empty && self.tree.is_gone() {
            return;
        }
        let init = self
            .tree
            .init
            .and_then(|p| ready::watch(process::open(p).ok()?).ok());
        let bound = Timer::after(KILL_BOUND);
        while !(seen.empty && self.tree.is_gone()) {
            self.kill();
            let look_again = Timer::after(LOOK_AGAIN);
            tokio::select! {
                biased;
                () = note(&mut self.keeper, seen), if !seen.empty => {}
                () = end_of(init.as_ref()), if seen.empty => {}
                () = expiry(&look_again) => {}
                () = expiry(&bound) => {
                    tracing::error!(left = ?self.tree.processes(), "processes survive SIGKILL");
                    return;
                }
            }
        }
    }

    fn usage(&self, raw: &RawUsage) -> Usage {
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let (mut user, mut system) = (number(raw.user_us), number(raw.system_us));
        // The keeper counts whom it waits for; the cgroup also those that reaped themselves.
        if let Some((u, s)) = self.tree.cgroup.as_ref().and_then(|c| c.cpu()) {
            (user, system) = (user.max(u), system.max(s));
        }
        let (mut read, mut written) = (number(raw.read_blocks) * 512, number(raw.written_blocks) * 512);
        if let Some((r, w)) = self.tree.cgroup.as_ref().and_then(|c| c.io()) {
            (read, written) = (read.max(r), written.max(w));
        }
        Usage {
            cpu_user_us: user,
            cpu_system_us: system,
            max_rss_bytes: number(raw.max_rss_kib) * 1024,
            read_bytes: Some(read),
            written_bytes: Some(written),
            memory_peak_bytes: self.tree.cgroup.as_ref().and_then(|c| c.memory_peak()),
        }
    }

    fn limits_hit(&self, cause: Cause, exit: Option<Exit>) -> Vec<LimitHit> {
        let mut hit = Vec::new();
        if cause == Cause::TimedOut {
            hit.push(LimitHit::WallTime);
        }
        let cgroup = self.tree.cgroup.as_deref();
        if cgroup.is_some_and(Cgroup::out_of_memory) {
            hit.push(LimitHit::Memory);
        }
        if cgroup.is_some_and(Cgroup::out_of_pids) {
            hit.push(LimitHit::Pids);
        }
        if cause == Cause::OutOfRoom || self.disk.as_deref().is_some_and(quota::is_full) {
            hit.push(LimitHit::Disk);
        }
        if exit == Some(Exit::Signal(libc::SIGXCPU)) {
            hit.push(LimitHit::Cpu);
        }
        hit
    }
}

/// Takes in one record of the keeper.
async fn note(keeper: &mut Keeper, seen: &mut Seen) {
    match keeper.next().await {
        Ok(Some(record)) if record.kind == MAIN_ENDED => {
            seen.exit = Some(exit_of(record.a));
            seen.usage = record.usage;
            // How many is counted later, and only if there are any.
            seen.leftovers = u32::from(record.b != 0);
            seen.empty = record.b == 0;
        }
        Ok(Some(record)) if record.kind == EMPTY => {
            seen.usage = record.usage;
            seen.empty = true;
        }
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => seen.empty = true,
    }
}

/// Waits until a process was killed because the tree's own memory was out; for ever where the kernel ends all of it by
/// itself. The kernel tells before it kills, and also when memory is out further up, which is another's affair.
async fn out_of_memory(told: Option<&AsyncFd<OwnedFd>>, tree: &Tree) {
    let (Some(told), Some(cgroup)) = (told, &tree.cgroup) else {
        return std::future::pending().await;
    };
    loop {
        let Ok(mut ready) = told.readable().await else {
            return std::future::pending().await;
        };
        ready.clear_ready();
        let mut count = [0; 8];
        let _ = rustix::io::read(told, &mut count);
        for _ in 0..KILLED_SOON {
            if cgroup.out_of_memory() {
                return;
            }
            expiry(&Timer::after(LOOK_AGAIN)).await;
        }
    }
}

/// Waits until there is more than there may be; for ever where nobody says how much that is.
async fn is_over(growth: Option<&Growth>) {
    match growth {
        Some(growth) => growth.is_over().await,
        None => std::future::pending().await,
    }
}

/// Waits until the job's own kernel has told of its end; for ever when it has none.
async fn told(report: Option<&Report>) {
    match report {
        Some(report) => report.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of a namespace's first process; for ever when there is none.
async fn end_of(init: Option<&AsyncFd<OwnedFd>>) {
    match init {
        Some(fd) if fd.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Status(libc::WEXITSTATUS(status))
    }
}

/// A timer on the clock that goes on while the machine sleeps.
pub(super) struct Timer(io::Result<AsyncFd<OwnedFd>>, Duration);

impl Timer {
    pub(super) fn after(wait: Duration) -> Self {
        let make = || {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let fd = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
            let none = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let value = Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                // Zero would disarm it.
                tv_nsec: i64::from(wait.subsec_nanos().max(1)),
            };
            let spec = Itimerspec {
                it_interval: none,
                it_value: value,
            };
            rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::empty(), &spec)?;
            ready::watch(fd)
        };
        Self(make(), wait)
    }
}

pub(super) async fn expiry(timer: &Timer) {
    let by_descriptor = match &timer.0 {
        Ok(fd) => fd.readable().await.is_ok(),
        Err(_) => false,
    };
    if !by_descriptor {
        // No descriptor to be had: the other clock is better than none.
        tokio::time::sleep(timer.1).await;
    }
}
