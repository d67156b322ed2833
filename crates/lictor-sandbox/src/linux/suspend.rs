//! Holding a job and letting it go on: by its cgroup, else by stopping each process.
//!
//! ```text
//!   running --suspend--> held --resume--> running
//!                         '--TERM or KILL, by whatever ends the job--> let go with the signal pending
//! ```
//!
//! # Invariants
//! - `suspend` answers when every process stands still, or with an error after it has let all of them go again.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::process::Signal;

use super::cgroup::Freezer;
use super::process;
use super::supervisor::{Timer, expiry};
use super::tree::Tree;
use crate::handle::ProcessId;

const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long processes may take to stand still: one may be in the kernel, waiting for a disk.
const BOUND: Duration = Duration::from_secs(10);
/// Looks in a row that must find everybody stopped: whoever ran during the first may have let another one go.
const QUIET_LOOKS: u32 = 2;

/// How a tree is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    ByCgroup,
    BySignal,
}

impl Tree {
    /// Holds every process of the job.
    pub(super) async fn suspend(&self) -> io::Result<()> {
        let bound = Timer::after(BOUND);
        let hold = async {
            match self.freezer() {
                Some(freezer) => self.freeze(freezer).await,
                None => self.stop().await,
            }
        };
        let held = tokio::select! {
            held = hold => held,
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        };
        if held.is_err() {
            let _ = self.resume();
        }
        held
    }

    /// Lets it go on, if it is held.
    pub(super) fn resume(&self) -> io::Result<()> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        match held {
            None => Ok(()),
            Some(Held::ByCgroup) => self.freezer().map_or(Ok(()), |f| f.thaw()),
            Some(Held::BySignal) => self.signal(Signal::CONT),
        }
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        self.cgroup.as_ref()?.freezer()
    }

    fn set_held(&self, how: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }

    async fn freeze(&self, freezer: Freezer<'_>) -> io::Result<()> {
        while freezer.take_in(&self.running()?)? {}
        self.set_held(Held::ByCgroup);
        freezer.freeze()?;
        while !freezer.is_frozen() {
            self.running()?;
            expiry(&Timer::after(LOOK_AGAIN)).await;
        }
        Ok(())
    }

    /// Stops one after the other, until nobody is found that runs: children that are made meanwhile are found below
    /// their parents.
    async fn stop(&self) -> io::Result<()> {
        self.set_held(Held::BySignal);
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            let mut moving = self.running()?;
            let still = stand_still(&moving);
            moving.retain(|p| !still.contains(p));
            quiet = if moving.is_empty() { quiet + 1 } else { 0 };
            process::signal_all(moving, Signal::STOP)?;
            if quiet == 0 {
                expiry(&Timer::after(LOOK_AGAIN)).await;
            }
        }
        Ok(())
    }

    fn running(&self) -> io::Result<Vec<ProcessId>> {
        let found = self.processes();
        if found.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(found)
    }
}

/// Those of them that run nothing: stopped, or gone; or waiting in the kernel, as after vfork(2), until a child that is
/// stopped has begun its program. That one has its own stop before it, and the child cannot go on without being let.
fn stand_still(processes: &[ProcessId]) -> Vec<ProcessId> {
    let look = |p: &ProcessId| process::stat(p.pid).filter(|s| s.start == p.start);
    let seen: Vec<(ProcessId, Option<process::Stat>)> = processes.iter().map(|p| (*p, look(p))).collect();
    let is_stopped = |stat: &process::Stat| matches!(stat.state, b'T' | b't' | b'Z' | b'X');
    let has_stopped = |pid: u32| {
        let mut stats = seen.iter().filter_map(|(_, stat)| stat.as_ref());
        stats.any(|s| s.parent == pid && matches!(s.state, b'T' | b't'))
    };
    let is_still = |(process, stat): &&(ProcessId, Option<process::Stat>)| {
        let Some(stat) = stat else { return true };
        is_stopped(stat) || (stat.state == b'D' && has_stopped(process.pid))
    };
    seen.iter()
        .filter(is_still)
        .map(|(process, _)| *process)
        .collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    /// Spawns a program whose standard input is this pipe: the child waits for a writer before it has begun.
    const SPAWN: &str = "import os, sys
f = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]
os.waitpid(os.posix_spawn('/bin/true', ['true'], {}, file_actions=f), 0)";

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::yield_now();
        }
    }

    fn write_into(pipe: &Path) {
        drop(OpenOptions::new().write(true).open(pipe).expect("a reader waits"));
    }

    #[tokio::test]
    async fn who_waits_for_a_child_that_has_not_begun_its_program_is_held_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        let line = "/usr/bin/python3 -c \"$0\" \"$1\" & wait";
        let mut sh = Command::new("sh")
            .args(["-c", line, SPAWN, pipe.to_str().expect("text")])
            .spawn()
            .expect("runs");
        let tree = Tree {
            speaker: None,
            keeper: Mutex::new(process::identify(sh.id())),
            init: None,
            cgroup: None,
            at_terminal: false,
            held: Mutex::new(None),
        };
        let states = || -> Vec<u8> {
            let all = tree.processes();
            all.iter()
                .filter_map(|p| Some(process::stat(p.pid)?.state))
                .collect()
        };
        until("it waits for its child", || states() == b"DS");
        tree.suspend().await.expect("held");
        assert_eq!(states(), b"DT", "neither can go on");
        tree.resume().expect("let go");
        write_into(&pipe);
        assert!(sh.wait().expect("it ends").success());
    }
}
