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
            moving.retain(|p| !is_stopped(*p));
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

fn is_stopped(process: ProcessId) -> bool {
    process::stat(process.pid)
        .is_none_or(|s| s.start != process.start || matches!(s.state, b'T' | b't' | b'Z' | b'X'))
}
