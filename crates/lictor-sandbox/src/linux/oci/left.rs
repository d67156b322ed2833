//! Taking a container's remains away without the runtime: its first process, its cgroups, its files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde::Deserialize;

use crate::handle::ProcessId;
use crate::linux::process;
use crate::linux::remove::remove_dir;

/// What matters here of what a runtime writes down about a container: runc in `state.json`, crun in `status`.
#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default, alias = "pid")]
    init_process_pid: u32,
    #[serde(default, alias = "process-start-time")]
    init_process_start: u64,
    /// By controller.
    #[serde(default)]
    cgroup_paths: BTreeMap<String, PathBuf>,
}

impl State {
    /// Of the one container below the runtime's own directory; nothing of what is not there.
    fn read(state: &Path) -> Self {
        let dirs = fs::read_dir(state).into_iter().flatten().flatten();
        let files = dirs.flat_map(|entry| ["state.json", "status"].map(|name| entry.path().join(name)));
        let texts = files.filter_map(|file| fs::read(file).ok());
        let mut states = texts.filter_map(|text| serde_json::from_slice(&text).ok());
        states.next().unwrap_or_default()
    }
}

/// Removes a bundle, with the cgroups that the runtime has made for its container, and what still runs of that.
pub(super) fn remove(bundle: &Path) -> io::Result<()> {
    let state = State::read(&bundle.join("state"));
    let init = ProcessId {
        pid: state.init_process_pid,
        start: state.init_process_start,
    };
    // Everybody else in the container goes with it.
    process::signal(init, Signal::KILL)?;
    remove_cgroups(&state);
    remove_dir(bundle)
}

/// Ends what a process that is gone has left, and removes it.
pub(super) fn take_away(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        // The lock of whoever it was.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
            continue;
        }
        if let Err(error) = remove(&entry.path()) {
            tracing::warn!(at = %entry.path().display(), %error, "a container's remains stay");
        }
    }
    let _ = fs::remove_dir(place);
}

/// One that is not empty stays, and so would it if the runtime itself removed it.
fn remove_cgroups(state: &State) {
    for dir in state.cgroup_paths.values() {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(at = %dir.display(), %error, "a container's cgroup stays");
            }
            _ => {}
        }
    }
}
