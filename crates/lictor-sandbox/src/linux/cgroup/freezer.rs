//! Holding a tree by its cgroup: the processes cannot tell, and nobody but the agent can let them go.
//!
//! Version 2 ends what is frozen; version 1 ends it only once it is let go, so whoever kills lets go afterwards.

use std::io;
use std::path::Path;

use super::files;
use crate::handle::ProcessId;

const STATE: &str = "freezer.state";

/// What holds one job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Freezer<'a> {
    /// The directory that the job was born in.
    Unified(&'a Path),
    /// A directory that nobody is in until the job is held for the first time.
    Legacy(&'a Path),
}

impl<'a> Freezer<'a> {
    /// Of one directory of version 1, if it is of that hierarchy.
    pub(super) fn legacy(dir: &'a Path) -> Option<Self> {
        dir.join(STATE).exists().then_some(Self::Legacy(dir))
    }

    /// Brings in who is not yet in it; says whether there was anybody. Whoever is in it has children in it, so after
    /// one round without a new one there are no others.
    pub(crate) fn take_in(&self, processes: &[ProcessId]) -> io::Result<bool> {
        let Self::Legacy(dir) = self else {
            return Ok(false);
        };
        let inside = files::pids(dir);
        let mut outside = processes.iter().filter(|p| !inside.contains(&p.pid)).peekable();
        let any = outside.peek().is_some();
        for process in outside {
            match files::write(dir, "cgroup.procs", process.pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(any)
    }

    /// Begins to hold whoever is in it.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        match self {
            Self::Unified(dir) => files::write(dir, "cgroup.freeze", 1),
            Self::Legacy(dir) => files::write(dir, STATE, "FROZEN"),
        }
    }

    /// Whether all of them stand still.
    pub(crate) fn is_frozen(&self) -> bool {
        match self {
            Self::Unified(dir) => files::counter(dir, "cgroup.events", "frozen") == Some(1),
            Self::Legacy(dir) => files::read(dir, STATE).is_some_and(|s| s == "FROZEN"),
        }
    }

    /// Lets them go on. One that is gone holds nobody.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let written = match self {
            Self::Unified(dir) => files::write(dir, "cgroup.freeze", 0),
            Self::Legacy(dir) => files::write(dir, STATE, "THAWED"),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};

    use super::super::{Cgroup, legacy, place::Places};
    use crate::linux::process;
    use crate::linux::tree::Tree;

    /// A process with two children, as a keeper with a job.
    fn family(cgroup: Option<Cgroup>) -> (Child, Tree) {
        let line = "sleep 600 >&- & sleep 600 >&- & echo up; exec >&-; wait";
        let mut sh = Command::new("sh");
        let mut sh = sh
            .args(["-c", line])
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut said = String::new();
        sh.stdout
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("it says that it is up");
        let tree = Tree {
            speaker: None,
            keeper: Mutex::new(process::identify(sh.id())),
            init: None,
            cgroup: cgroup.map(Arc::new),
            at_terminal: false,
            held: Mutex::new(None),
        };
        assert_eq!(tree.processes().len(), 2);
        (sh, tree)
    }

    fn states(tree: &Tree) -> Vec<u8> {
        let processes = tree.processes();
        processes
            .iter()
            .filter_map(|p| Some(process::stat(p.pid)?.state))
            .collect()
    }

    #[tokio::test]
    async fn without_a_cgroup_every_process_is_stopped_by_signal() {
        let (mut sh, tree) = family(None);
        tree.suspend().await.expect("held");
        assert_eq!(states(&tree), b"TT");
        tree.resume().expect("let go");
        assert!(!states(&tree).contains(&b'T'));
        tree.suspend().await.expect("held again");
        tree.kill().expect("killed while it is held");
        sh.wait().expect("its children have ended");
    }

    #[tokio::test]
    async fn version_1_holds_and_lets_go_and_what_it_holds_can_be_killed() {
        // Only hosts without version 2 use it, few have it at all.
        let Some(own) = Places::look().legacy("freezer") else {
            return;
        };
        let Some(root) = legacy::Root::freezer(&own) else {
            return;
        };
        let dir = root.job("held").expect("made");
        let (mut sh, tree) = family(Cgroup::left(None, vec![dir.clone()]));
        tree.suspend().await.expect("held");
        let freezer = super::Freezer::Legacy(&dir);
        assert!(freezer.is_frozen());
        assert_eq!(super::files::pids(&dir).len(), 2, "nobody is outside");
        tree.resume().expect("let go");
        assert!(!freezer.is_frozen());
        tree.suspend().await.expect("held again");
        tree.kill().expect("killed while it is held");
        sh.wait().expect("its children have ended");
        super::files::remove(&dir).expect("empty");
    }
}
