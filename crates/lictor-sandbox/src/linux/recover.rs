//! Taking up what an earlier agent process left: waiting for it, ending it, removing it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::cgroup::{self, Cgroup};
use super::remove::remove_dir;
use super::supervisor::{Timer, expiry};
use super::{keeper, process};
use crate::backend::RecoverError;
use crate::handle::{Handle, ProcessId};

const LOOK_AGAIN: Duration = Duration::from_millis(10);
const ROUNDS: u32 = 500;

/// What is left of one job.
#[derive(Debug)]
pub(crate) struct Recovered {
    handle: Handle,
    cgroup: Option<Cgroup>,
}

impl Recovered {
    /// Takes up a handle written down by an earlier agent process.
    pub(crate) fn take_up(handle: Handle) -> Result<Self, RecoverError> {
        // Pids of another boot name strangers; its cgroups are gone. Its directory may still be there.
        let same_boot = handle.boot_id == process::boot_id();
        let handle = Handle {
            roots: if same_boot { handle.roots } else { Vec::new() },
            cgroup: handle.cgroup.filter(|dir| same_boot && dir.is_dir()),
            cgroups_v1: left_of(handle.cgroups_v1, same_boot),
            ..handle
        };
        let cgroup = Cgroup::left(handle.cgroup.clone(), handle.cgroups_v1.clone());
        let recovered = Self { handle, cgroup };
        if recovered.processes().is_empty() && recovered.cgroup.is_none() && !recovered.handle.dir.exists() {
            return Err(RecoverError::Gone);
        }
        Ok(recovered)
    }

    /// The roots that live.
    fn roots(&self) -> Vec<ProcessId> {
        let roots = self.handle.roots.iter().copied();
        roots.filter(|p| process::is_alive(*p)).collect()
    }

    /// What is below the roots, and what is in the cgroup.
    fn below(&self) -> Vec<ProcessId> {
        let mut found: Vec<_> = self
            .roots()
            .into_iter()
            .flat_map(|p| process::descendants(p.pid))
            .collect();
        if let Some(cgroup) = &self.cgroup {
            found.extend(cgroup.pids().into_iter().filter_map(process::identify));
        }
        found
    }

    /// What a job with this directory has left, as far as it can be told without anything written down: the keeper
    /// is called after the directory from before the start until nobody is left, and so is the cgroup.
    pub(crate) fn look_for(backend: &str, dir: &Path) -> Handle {
        let (cgroup, cgroups_v1) = dir.file_name().map(cgroup::left_behind).unwrap_or_default();
        Handle {
            backend: backend.to_owned(),
            boot_id: process::boot_id(),
            roots: keeper::name_for(dir).map_or_else(|_| Vec::new(), |n| process::own_called(n.as_bytes())),
            cgroup,
            cgroups_v1,
            dir: dir.to_owned(),
        }
    }

    pub(crate) async fn wait(&mut self) {
        while !self.processes().is_empty() {
            expiry(&Timer::after(LOOK_AGAIN)).await;
        }
    }

    fn processes(&self) -> Vec<ProcessId> {
        let mut found = self.below();
        found.extend(self.roots());
        found
    }

    /// The roots come last: while a keeper lives, whoever is made meanwhile is found below it.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let below = self.below();
            let left = if below.is_empty() { self.roots() } else { below };
            if left.is_empty() {
                return Ok(());
            }
            if let Some(cgroup) = &self.cgroup {
                let _ = cgroup.kill();
            }
            process::signal_all(left, Signal::KILL)?;
            if let Some(freezer) = self.cgroup.as_ref().and_then(Cgroup::freezer) {
                let _ = freezer.thaw();
            }
            expiry(&Timer::after(LOOK_AGAIN)).await;
        }
        Err(io::Error::other("processes survive SIGKILL"))
    }

    pub(crate) async fn destroy(&mut self) -> io::Result<()> {
        self.kill().await?;
        if let Some(cgroup) = &self.cgroup {
            removed(cgroup).await?;
        }
        if std::fs::remove_dir(&self.handle.dir).is_ok() {
            return Ok(());
        }
        // What a job leaves may be large, or on a file system that does not answer: others must not wait for it.
        let dir = self.handle.dir.clone();
        tokio::task::spawn_blocking(move || remove_dir(&dir))
            .await
            .map_err(io::Error::other)?
    }
}

/// Whoever was killed is still counted for a moment after nobody finds him any more.
async fn removed(cgroup: &Cgroup) -> io::Result<()> {
    for _ in 0..ROUNDS {
        match cgroup.remove() {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => expiry(&Timer::after(LOOK_AGAIN)).await,
            other => return other,
        }
    }
    cgroup.remove()
}

fn left_of(dirs: Vec<PathBuf>, same_boot: bool) -> Vec<PathBuf> {
    let mut dirs = dirs;
    dirs.retain(|dir| same_boot && dir.is_dir());
    dirs
}
