//! Cgroup version 2: one directory per job, whose tree is killed and frozen in one step and counted by the kernel.
//!
//! Works without any controller; those that are delegated hold limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::delegation;
use super::files;
use super::{Bounds, Controller, PERIOD};

/// The directory below which jobs get theirs.
#[derive(Debug)]
pub(super) struct Root {
    dir: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

impl Root {
    /// Makes it in this process's own cgroup or beside it; `None` where there is none to be had.
    pub(super) fn make(own: &Path) -> Option<Self> {
        let base = delegation::base(own);
        delegation::make_room(&base);
        files::sweep(&base);
        let dir = base.join(files::agent_name());
        files::make(&dir).ok()?;
        let mut root = Self {
            dir,
            controllers: Vec::new(),
        };
        if !(root.dir.join("cgroup.kill").exists() && root.dir.join("cgroup.events").exists()) {
            return None;
        }
        if delegation::can_pass_on(&base) {
            pass_on(&base);
            pass_on(&root.dir);
            root.controllers = root.held();
        }
        Some(root)
    }

    /// Where jobs get theirs.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which limits can be set, found out by setting them.
    fn held(&self) -> Vec<Controller> {
        let Ok(dir) = self.job(&super::probe_name()) else {
            return Vec::new();
        };
        let holds = |c: &Controller| limit(*c, &dir, &Bounds::PROBE).is_ok() && is_set(*c, &dir);
        let held = Controller::ALL.into_iter().filter(holds).collect();
        let _ = fs::remove_dir(&dir);
        held
    }

    /// One job's directory.
    pub(super) fn job(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        match fs::create_dir(&dir) {
            // Another `Host` of this process has removed it with its last job.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::make(&self.dir)?;
                pass_on(&self.dir);
                files::make(&dir)?;
            }
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

/// Gives `dir`'s children whatever controllers it has; each by itself, since one that is missing refuses them all.
fn pass_on(dir: &Path) {
    for controller in Controller::ALL {
        let _ = files::write(dir, "cgroup.subtree_control", format!("+{}", controller.name()));
    }
}

pub(super) fn limit(controller: Controller, dir: &Path, bounds: &Bounds) -> io::Result<()> {
    match controller {
        Controller::Memory => bounds.memory.map_or(Ok(()), |n| {
            files::write(dir, "memory.max", n)?;
            // Swap would turn the limit into a slow-down; without swap accounting there is nothing to switch off.
            files::write_if_there(dir, "memory.swap.max", 0)?;
            files::write(dir, "memory.oom.group", 1)
        }),
        Controller::Pids => bounds.pids.map_or(Ok(()), |n| files::write(dir, "pids.max", n)),
        Controller::Cpu => {
            let quota = bounds.cpu_quota();
            quota.map_or(Ok(()), |q| files::write(dir, "cpu.max", format!("{q} {PERIOD}")))
        }
        Controller::Io => limit_io(dir, bounds, &disks()),
    }
}

/// The same limit for each disk: the kernel knows no other.
pub(super) fn limit_io(dir: &Path, bounds: &Bounds, disks: &[String]) -> io::Result<()> {
    let mut rates = String::new();
    for (key, rate) in [
        ("rbps", bounds.read_bytes_per_s),
        ("wbps", bounds.write_bytes_per_s),
    ] {
        rates.extend(rate.map(|n| format!(" {key}={n}")));
    }
    if rates.is_empty() {
        return Ok(());
    }
    if disks.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // One line at a time: the kernel takes no more.
    let mut set = disks
        .iter()
        .map(|d| files::write(dir, "io.max", format!("{d}{rates}")));
    set.try_for_each(|result| result)
}

/// Whether the probe's limit is in force.
pub(super) fn is_set(controller: Controller, dir: &Path) -> bool {
    let probe = &Bounds::PROBE;
    match controller {
        Controller::Memory => files::number(dir, "memory.max") == probe.memory,
        Controller::Pids => files::number(dir, "pids.max") == probe.pids,
        Controller::Cpu => {
            let text = files::read(dir, "cpu.max").unwrap_or_default();
            text.split(' ').next().and_then(|q| q.parse().ok()) == probe.cpu_quota()
        }
        Controller::Io => is_io_set(dir, &disks()),
    }
}

pub(super) fn is_io_set(dir: &Path, disks: &[String]) -> bool {
    let text = files::read(dir, "io.max").unwrap_or_default();
    let rate = Bounds::PROBE.read_bytes_per_s;
    let rate = rate.map_or(String::new(), |n| format!(" rbps={n} "));
    disks.iter().all(|disk| {
        let mut lines = text.lines();
        lines.any(|l| l.starts_with(&format!("{disk} ")) && l.contains(&rate))
    })
}

/// `major:minor` of each disk at the bottom: not partitions, nor what is made of other disks, files or memory.
fn disks() -> Vec<String> {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let disks = disks.filter(|entry| {
        let name = entry.file_name();
        let virtual_ones = ["loop", "ram", "zram"];
        let is_virtual = virtual_ones.iter().any(|v| name.to_string_lossy().starts_with(v));
        let made_of = fs::read_dir(entry.path().join("slaves"));
        !is_virtual && made_of.map_or(true, |mut slaves| slaves.next().is_none())
    });
    disks
        .filter_map(|entry| files::read(&entry.path(), "dev"))
        .collect()
}

/// Kills everything in it, in one step. One that is gone holds nobody.
pub(super) fn kill(dir: &Path) -> io::Result<()> {
    match files::write(dir, "cgroup.kill", 1) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Whether a live process is in it or below it.
pub(super) fn is_populated(dir: &Path) -> bool {
    files::counter(dir, "cgroup.events", "populated") == Some(1)
}

/// CPU time in user mode and in the kernel, in microseconds.
pub(super) fn cpu(dir: &Path) -> Option<(u64, u64)> {
    let text = files::read(dir, "cpu.stat")?;
    let count = |key| files::value_of(&text, key);
    Some((count("user_usec")?, count("system_usec")?))
}

/// Bytes read from and written to disks, where the kernel counts them.
pub(super) fn io(dir: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(dir.join("io.stat")).ok()?;
    Some(sum_io(&text, &disks()))
}

fn sum_io(text: &str, disks: &[String]) -> (u64, u64) {
    let lines = text.lines().filter_map(|l| l.split_once(' '));
    let of_disks = lines.filter(|(device, _)| disks.iter().any(|d| d == device));
    of_disks.fold((0, 0), |(read, written), (_, counts)| {
        let count = |key: &str| {
            let mut words = counts.split(' ');
            let n = words.find_map(|w| w.strip_prefix(key)?.parse::<u64>().ok());
            n.unwrap_or(0)
        };
        (read + count("rbytes="), written + count("wbytes="))
    })
}

/// Whether a process was killed because the job's own limit was met, not one further up.
pub(super) fn out_of_memory(dir: &Path) -> bool {
    let count = |key| files::counter(dir, "memory.events", key).unwrap_or(0);
    count("oom") > 0 && count("oom_kill") > 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_each_byte_at_the_bottom_disk_only() {
        let text = "8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n\
                    253:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n\
                    8:16 \n";
        let disks = ["8:0".to_owned(), "8:16".to_owned()];
        assert_eq!(super::sum_io(text, &disks), (4096, 100));
    }
}
