//! Cgroup directories and the small files in them, the same in both versions.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::linux::process;

const PREFIX: &str = "lictor-";

/// What this process calls its directory in each hierarchy.
pub(super) fn agent_name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Whether this is the directory of an agent that is gone.
fn is_left(dir: &Path) -> bool {
    let name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let pid = name.strip_prefix(PREFIX).and_then(|p| p.parse::<u32>().ok());
    pid.is_some_and(|p| process::stat(p).is_none())
}

/// Removes what agents that are gone have left below `own`. The kernel refuses whatever still holds a process; that
/// is found again through its job's handle.
pub(super) fn sweep(own: &Path) {
    for dir in subdirectories(own).into_iter().filter(|dir| is_left(dir)) {
        let _ = remove_below(&dir);
    }
}

/// The directory of the job called `name` that an agent which is gone has made below `own`.
pub(super) fn left_behind(own: &Path, name: &OsStr) -> Option<PathBuf> {
    let agents = subdirectories(own).into_iter().filter(|dir| is_left(dir));
    agents.map(|dir| dir.join(name)).find(|dir| dir.is_dir())
}

/// Makes it unless it is there.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

pub(super) fn write(dir: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    fs::write(dir.join(file), value.to_string())
}

/// For files that not every kernel has.
pub(super) fn write_if_there(dir: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    match write(dir, file, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Its content without the end of the line; nothing when it cannot be read.
pub(super) fn read(dir: &Path, file: &str) -> Option<String> {
    let page = process::read_page(&dir.join(file)).ok()?;
    Some(String::from_utf8(page).ok()?.trim_end().to_owned())
}

/// The number after `key` in a file of lines `key number`.
pub(super) fn counter(dir: &Path, file: &str, key: &str) -> Option<u64> {
    value_of(&read(dir, file)?, key)
}

/// The same, of its text.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.find(|(k, _)| *k == key)?.1.trim().parse().ok()
}

/// A file that is one number.
pub(super) fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file)?.parse().ok()
}

/// Pids in it, those in cgroups that the job made below it included.
pub(super) fn pids(dir: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(list.lines().filter_map(|l| l.parse::<u32>().ok()));
        open.extend(subdirectories(&dir));
    }
    found
}

pub(super) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let entries = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    entries.map(|e| e.path()).collect()
}

/// Removes it and whatever cgroups the job made below it. It must be empty.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    remove_below(dir)?;
    let agent = dir
        .parent()
        .filter(|p| p.file_name() != Some(OsStr::new(&agent_name())));
    if let Some(agent) = agent {
        // The last job of an agent that is gone takes the agent's directory along; a live agent's is refused only
        // while other jobs are in it, so it is made again when needed.
        let _ = fs::remove_dir(agent);
    }
    Ok(())
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
