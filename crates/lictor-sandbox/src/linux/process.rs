//! Single processes: who they are, who their children are, and signals that reach nobody else.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::handle::ProcessId;

/// A line of `/proc/PID/stat`, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
    pub(crate) start: u64,
}

/// A file of the kernel's, which fits into one page, in one read: asking for its size first is in vain.
pub(crate) fn read_page(path: &Path) -> io::Result<Vec<u8>> {
    let mut page = vec![0; 4096];
    let read = fs::File::open(path)?.read(&mut page)?;
    page.truncate(read);
    Ok(page)
}

/// Reads it; `None` when there is no such process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let text = read_page(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    // The name stands in parentheses and may hold anything, parentheses included.
    let after = text.iter().rposition(|b| *b == b')')? + 2;
    let text = std::str::from_utf8(text.get(after..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f: &&str| f.parse::<u64>().ok());
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: u32::try_from(number(1)?).ok()?,
        user_ticks: number(11)?,
        system_ticks: number(12)?,
        start: number(19)?,
    })
}

/// The process with this number now.
pub(crate) fn identify(pid: u32) -> Option<ProcessId> {
    stat(pid).map(|s| ProcessId { pid, start: s.start })
}

/// See the public function of this name.
pub(crate) fn cgroup_of(process: ProcessId) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", process.pid))?;
    if identify(process.pid) != Some(process) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let unified = text.lines().find_map(|l| l.strip_prefix("0::"));
    Ok(unified.map_or_else(|| text.trim().replace('\n', ", "), str::to_owned))
}

/// Whether it runs (a zombie does not).
pub(crate) fn is_alive(process: ProcessId) -> bool {
    stat(process.pid).is_some_and(|s| s.start == process.start && !matches!(s.state, b'Z' | b'X'))
}

/// Children of all of its threads.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    lists
        .flat_map(|l| {
            l.split_ascii_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether its first thread has any, zombies included. For processes of one thread.
pub(crate) fn has_children(pid: u32) -> bool {
    let children = read_page(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
    children.is_ok_and(|list| !list.trim_ascii().is_empty())
}

/// Everything below `root`, parents first, zombies left out; `root` itself is not among them.
pub(crate) fn descendants(root: u32) -> Vec<ProcessId> {
    let mut found = Vec::new();
    let mut open = children(root);
    while let Some(pid) = open.pop() {
        let Some(s) = stat(pid) else { continue };
        open.extend(children(pid));
        if !matches!(s.state, b'Z' | b'X') {
            found.push(ProcessId { pid, start: s.start });
        }
    }
    found
}

/// Every live process called `name` of the agent's own user; others may call themselves what they like.
pub(crate) fn own_called(name: &[u8]) -> Vec<ProcessId> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let there = pids.filter(|pid| {
        let called = read_page(Path::new(&format!("/proc/{pid}/comm"))).unwrap_or_default();
        called.trim_ascii_end() == name && is_own(*pid)
    });
    there.filter_map(identify).filter(|p| is_alive(*p)).collect()
}

/// Whether it runs as the agent's user. Its status says so also when it may not be traced, and its files below
/// `/proc` then belong to root.
fn is_own(pid: u32) -> bool {
    let status = read_page(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let ids = status.lines().find_map(|l| l.strip_prefix("Uid:"));
    let effective = ids.and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse::<u32>().ok());
    effective == Some(rustix::process::geteuid().as_raw())
}

/// A descriptor for exactly this process.
pub(crate) fn open(process: ProcessId) -> io::Result<OwnedFd> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(gone)?;
    let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    // Looked at after opening: a descriptor never changes whom it names, so if the start time is right now, it
    // names the right process.
    if stat(process.pid).is_none_or(|s| s.start != process.start) {
        return Err(gone());
    }
    Ok(fd)
}

/// Signals exactly this process; one that has ended already is no error.
pub(crate) fn signal(process: ProcessId, signal: Signal) -> io::Result<()> {
    match open(process) {
        Ok(fd) => match rustix::process::pidfd_send_signal(&fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        },
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Signals each of them, whatever becomes of one; the first error.
pub(crate) fn signal_all(processes: Vec<ProcessId>, with: Signal) -> io::Result<()> {
    let results = processes.into_iter().map(|p| signal(p, with));
    results.fold(Ok(()), Result::and)
}

/// Whether it has said that it ignores a signal.
pub(crate) fn ignores(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.is_some_and(|m| m & (1 << (signal.as_raw() - 1)) != 0)
}

/// Largest resident set so far, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> String {
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    };
    ID.get_or_init(read).clone()
}
