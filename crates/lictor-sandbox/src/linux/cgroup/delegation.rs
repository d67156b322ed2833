//! Passing on the controllers of a delegated cgroup: version 2 lets only a cgroup without processes do so, so the
//! agent moves its own out of the way.
//!
//! ```text
//!   unit's cgroup (ours)          unit's cgroup, +memory +pids +cpu +io
//!     agent, zygote         -->     lictor-agent: agent, zygote, keepers
//!                                   lictor-PID:   one directory per job
//! ```
//!
//! # Invariants
//! - Processes are moved only out of a cgroup that is marked as delegated, or that holds nobody but this process and
//!   its descendants.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Controller;
use super::files;
use crate::linux::process;

/// Where the agent's own processes go. systemd can put them there itself (`DelegateSubgroup=`).
const LEAF: &str = "lictor-agent";
/// systemd marks what it has delegated; the older mark is for root alone.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];
/// More than that many times processes do not appear while others are moved.
const ROUNDS: u32 = 16;

/// The cgroup below which jobs get theirs: `own`, or the one above it when this process stands in its leaf.
pub(super) fn base(own: &Path) -> PathBuf {
    let in_leaf = own.file_name() == Some(OsStr::new(LEAF));
    let above = own.parent().filter(|_| in_leaf);
    above.unwrap_or(own).to_owned()
}

/// Whether this process's cgroup could pass on its controllers, and by what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delegation {
    /// There is no cgroup of version 2 to be seen.
    None,
    /// It is marked as delegated.
    Marked(PathBuf),
    /// It is not, and nobody else is in it.
    Alone(PathBuf),
    /// Others are in it.
    Shared(PathBuf),
}

impl Delegation {
    pub(super) fn of(own: Option<&Path>) -> Self {
        let Some(dir) = own.map(base) else {
            return Self::None;
        };
        match (is_marked(&dir), can_pass_on(&dir) || is_ours(&dir)) {
            (true, _) => Self::Marked(dir),
            (false, true) => Self::Alone(dir),
            (false, false) => Self::Shared(dir),
        }
    }
}

/// Moves the agent's own processes out of `base`, when that is what keeps it from passing on its controllers. Whatever
/// comes of it, jobs get theirs below the same cgroup.
pub(super) fn make_room(base: &Path) {
    if has_controllers(base)
        && !can_pass_on(base)
        && is_ours(base)
        && let Err(error) = move_into_leaf(base)
    {
        tracing::warn!(%error, "cannot make room for the cgroups of jobs");
    }
}

/// Whether its controllers can be passed on: the root of all, which has no type, always; others without processes.
pub(super) fn can_pass_on(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists() || own_pids(dir).is_empty()
}

fn has_controllers(dir: &Path) -> bool {
    let list = files::read(dir, "cgroup.controllers").unwrap_or_default();
    let mut list = list.split(' ');
    list.any(|name| Controller::ALL.iter().any(|c| c.name() == name))
}

/// Those in it alone, not further down.
fn own_pids(dir: &Path) -> Vec<u32> {
    let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|l| l.parse().ok()).collect()
}

fn is_ours(dir: &Path) -> bool {
    is_marked(dir) || {
        let own = std::process::id();
        let below = process::descendants(own);
        let ours = |pid: &u32| *pid == own || below.iter().any(|p| p.pid == *pid);
        own_pids(dir).iter().all(ours)
    }
}

fn is_marked(dir: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(dir, *mark, &mut value[..]);
        length.is_ok_and(|n| value.get(..n) == Some(b"1"))
    })
}

fn move_into_leaf(own: &Path) -> io::Result<()> {
    let leaf = own.join(LEAF);
    files::make(&leaf)?;
    let moved = move_all(own, &leaf);
    if moved.is_err() {
        let _ = move_all(&leaf, own);
        let _ = fs::remove_dir(&leaf);
    }
    moved
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let pids = own_pids(from);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            match files::write(to, "cgroup.procs", pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Err(io::Error::other("processes keep appearing"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::super::place::Places;
    use crate::linux::{process, ready};

    use super::{LEAF, base, files, is_ours, move_into_leaf, own_pids};

    /// A cgroup below this process's own; nothing on a host where none can be made.
    fn unit(name: &str) -> Option<PathBuf> {
        let own = Places::look().unified()?;
        let dir = own.join(format!("lictor-test-{name}-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        Some(dir)
    }

    fn remove(unit: &std::path::Path) {
        let _ = fs::remove_dir(unit.join(LEAF));
        fs::remove_dir(unit).expect("empty");
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().expect("runs")
    }

    #[test]
    fn processes_move_into_the_leaf_and_jobs_stay_beside_it() {
        let Some(unit) = unit("leaf") else { return };
        let mut child = sleeper();
        files::write(&unit, "cgroup.procs", child.id()).expect("moved");
        assert!(is_ours(&unit), "a descendant is ours");
        move_into_leaf(&unit).expect("room is made");
        let leaf = unit.join(LEAF);
        assert_eq!((own_pids(&unit), own_pids(&leaf)), (vec![], vec![child.id()]));
        assert_eq!(base(&leaf), unit);
        assert_eq!(base(&unit), unit);
        child.kill().expect("killed");
        child.wait().expect("ended");
        remove(&unit);
    }

    #[tokio::test]
    async fn a_cgroup_with_strangers_is_ours_only_when_it_is_marked() {
        let Some(unit) = unit("marked") else { return };
        let mut orphan = Command::new("sh");
        let mut orphan = orphan
            .args(["-c", "sleep 600 >&- & echo $!"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut pid = String::new();
        orphan
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut pid)
            .expect("a pid");
        orphan.wait().expect("its parent is gone");
        files::write(&unit, "cgroup.procs", pid.trim()).expect("moved");
        assert!(!is_ours(&unit));
        let mark = rustix::fs::setxattr(&unit, "user.delegate", b"1", rustix::fs::XattrFlags::empty());
        assert!(mark.is_err() || is_ours(&unit));
        let stranger = process::identify(pid.trim().parse().expect("a pid")).expect("it lives");
        let end = ready::watch(process::open(stranger).expect("it lives")).expect("watched");
        super::super::unified::kill(&unit).expect("killed");
        end.readable().await.expect("it has ended").retain_ready();
        remove(&unit);
    }
}
