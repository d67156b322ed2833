//! A cgroup v2 directory per job: one write ends the whole tree, and the kernel counts its CPU time.
//!
//! Works without any controller; `pids` and `memory` add limits where they are delegated. Nothing outside the
//! agent's own subtree is touched.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The directory below which jobs get theirs.
#[derive(Debug)]
pub(crate) struct CgroupRoot {
    dir: PathBuf,
    pub(crate) pids: bool,
    pub(crate) memory: bool,
}

impl CgroupRoot {
    /// Makes it below this process's own cgroup; `None` where there is none to be had.
    pub(crate) fn make() -> Option<Self> {
        let own = own_directory()?;
        // Delegated controllers only; a cgroup that holds processes cannot pass them on, and then there are none.
        let _ = fs::write(own.join("cgroup.subtree_control"), "+pids +memory");
        sweep(&own);
        let dir = own.join(format!("lictor-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let usable = dir.join("cgroup.kill").exists() && dir.join("cgroup.events").exists();
        let _ = fs::write(dir.join("cgroup.subtree_control"), "+pids +memory");
        let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |name: &str| enabled.split_ascii_whitespace().any(|c| c == name);
        let root = Self {
            pids: has("pids"),
            memory: has("memory"),
            dir,
        };
        usable.then_some(root)
    }

    /// One job's own.
    pub(crate) fn job(&self, name: &str) -> io::Result<Cgroup> {
        let dir = self.dir.join(name);
        match fs::create_dir(&dir) {
            // Another `Host` of this process has removed it with its last job.
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&dir)?,
            other => other?,
        }
        let limited = (self.memory, self.pids);
        Ok(Cgroup { dir, limited })
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        // Refused by the kernel while a job's directory is in it; then that job's destroy takes it along.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Removes what agents that are gone have left. The kernel refuses whatever still holds a process; that is found
/// again through its job's handle.
fn sweep(own: &Path) {
    for dir in subdirectories(own).into_iter().filter(|dir| is_left(dir)) {
        let _ = remove_below(&dir);
    }
}

/// The cgroup of the job called `name` that an agent which is gone has made.
pub(crate) fn left_behind(name: &std::ffi::OsStr) -> Option<PathBuf> {
    let agents = subdirectories(&own_directory()?);
    let left = agents
        .into_iter()
        .filter(|dir| is_left(dir))
        .map(|dir| dir.join(name));
    left.into_iter().find(|dir| dir.is_dir())
}

/// Whether this is the directory of an agent that is gone.
fn is_left(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let pid = name.strip_prefix("lictor-").and_then(|p| p.parse::<u32>().ok());
    pid.is_some_and(|p| super::process::stat(p).is_none())
}

fn own_directory() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (root, point) = (left.nth(3)?, left.next()?);
        right
            .starts_with("cgroup2 ")
            .then(|| (root.to_owned(), point.to_owned()))
    })?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroups.lines().find_map(|l| l.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(&mount.0).ok()?;
    Some(Path::new(&mount.1).join(below))
}

/// One job's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    /// Whether memory and pids can be limited in it.
    limited: (bool, bool),
}

impl Cgroup {
    /// One that an earlier agent process made.
    pub(crate) fn at(dir: PathBuf) -> Self {
        let limited = (true, true);
        Self { dir, limited }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// For `CLONE_INTO_CGROUP`.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.dir, flags, Mode::empty())?)
    }

    pub(crate) fn limit_pids(&self, most: u64) -> io::Result<()> {
        fs::write(self.dir.join("pids.max"), most.to_string())
    }

    pub(crate) fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.dir.join("memory.max"), bytes.to_string())?;
        // Swap would turn the limit into a slow-down; without a swap controller there is nothing to switch off.
        let _ = fs::write(self.dir.join("memory.swap.max"), "0");
        Ok(())
    }

    fn read(&self, file: &str) -> Option<String> {
        let page = super::process::read_page(&self.dir.join(file)).ok()?;
        String::from_utf8(page).ok()
    }

    /// Kills everything in it, in one step. One that is gone holds nobody.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match fs::write(self.dir.join("cgroup.kill"), "1") {
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Whether a live process is in it or below it.
    pub(crate) fn is_populated(&self) -> bool {
        let events = self.read("cgroup.events").unwrap_or_default();
        events.lines().any(|l| l == "populated 1")
    }

    /// Pids in it, those in cgroups that the job made below it included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut open = vec![self.dir.clone()];
        while let Some(dir) = open.pop() {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|l| l.parse::<u32>().ok()));
            open.extend(subdirectories(&dir));
        }
        found
    }

    /// CPU time in user mode and in the kernel, in microseconds.
    pub(crate) fn cpu(&self) -> Option<(u64, u64)> {
        let text = self.read("cpu.stat")?;
        Some((counter(&text, "user_usec")?, counter(&text, "system_usec")?))
    }

    /// How often a limit was met: memory (processes killed), pids (forks refused).
    pub(crate) fn limits_met(&self) -> (u64, u64) {
        let read = |file: &str, key: &str| {
            let text = self.read(file).unwrap_or_default();
            counter(&text, key).unwrap_or(0)
        };
        let (memory, pids) = self.limited;
        (
            if memory {
                read("memory.events", "oom_kill")
            } else {
                0
            },
            if pids { read("pids.events", "max") } else { 0 },
        )
    }

    /// Removes it and whatever cgroups the job made below it. It must be empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_below(&self.dir)?;
        if let Some(parent) = self.dir.parent() {
            // The last job of an agent that is gone takes the agent's directory along; a live agent's is refused
            // only while other jobs are in it, so it is made again when needed.
            if parent.file_name().is_some_and(|n| !is_own(n)) {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

fn is_own(name: &std::ffi::OsStr) -> bool {
    name.to_str() == Some(&format!("lictor-{}", std::process::id()))
}

fn counter(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let entries = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    entries.map(|e| e.path()).collect()
}

fn remove_below(dir: &Path) -> io::Result<()> {
    // Jobs seldom make cgroups of their own.
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for below in subdirectories(dir) {
        remove_below(&below)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
