//! What is the agent's own, by every name that this host has for it: jobs see none of it.
//!
//! ```text
//!   what the configuration names             /home/me/.lictor, /run/user/1000/lictor, ...
//!     what is mounted there or right in it   where in which file system it lies: 8:1, /home/me/.lictor
//!       all mounts of these file systems     /srv/backup is 8:1 from /home on: /srv/backup/me/.lictor is it, too
//! ```
//!
//! # Invariants
//! - Names are those of the kernel's list of mounts, which says of each what part of which file system it is. A file system
//!   that shows another one by its own means (an overlay, FUSE, the network) is another one there.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lictor_trust::profiles::Backend;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags};

use super::mounts::Mounted;
use super::shown::{ETC, SHOWN};

/// Every name of what is the agent's own.
pub(crate) type Names = Arc<[PathBuf]>;

/// The names, looked up again only when something was mounted.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<Option<Seen>>);

#[derive(Debug)]
struct Seen {
    /// The kernel's list, which tells of every change since it was opened or asked last.
    mounts: File,
    own: Vec<PathBuf>,
    names: Names,
}

impl Own {
    /// Every name of `own` on this host, none below another one.
    ///
    /// # Errors
    /// When the kernel's list of mounts cannot be read.
    pub(super) fn names(&self, own: Vec<PathBuf>) -> io::Result<Names> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Out of its place first: the kernel tells of a change once, and if the next look fails, nothing known is left.
        let known = seen.take().filter(|s| s.own == own && is_the_same(&s.mounts));
        let known = match known {
            Some(known) => known,
            None => Seen::now(own)?,
        };
        Ok(seen.insert(known).names.clone())
    }
}

impl Seen {
    fn now(own: Vec<PathBuf>) -> io::Result<Self> {
        let mut mounts = File::open("/proc/self/mountinfo")?;
        let mut table = String::new();
        mounts.read_to_string(&mut table)?;
        let table: Vec<Mounted> = table.lines().filter_map(Mounted::of).collect();
        let real: Vec<PathBuf> = own.iter().map(|path| real(path)).collect();
        let names = every_name(&real, &table, mount_of).into();
        Ok(Self { mounts, own, names })
    }
}

fn is_the_same(mounts: &File) -> bool {
    let mut asked = [PollFd::new(mounts, PollFlags::PRI)];
    rustix::event::poll(&mut asked, Some(&Timespec::default())).is_ok_and(|changes| changes == 0)
}

/// A path without links; of one that is not there yet, where it will be made.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => real(above).join(name),
        _ => path.to_owned(),
    }
}

/// The number of the mount that a path lies on, or would.
fn mount_of(path: &Path) -> Option<u64> {
    let at = path.ancestors().find_map(|path| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()
    })?;
    told_of(&at)
}

fn told_of(file: &OwnedFd) -> Option<u64> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let number = told.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    number.trim().parse().ok()
}

/// A part of a file system.
struct Part<'a> {
    device: &'a str,
    path: PathBuf,
}

fn every_name(own: &[PathBuf], table: &[Mounted], mount_of: impl Fn(&Path) -> Option<u64>) -> Vec<PathBuf> {
    let mut names = own.to_vec();
    for path in own {
        for part in parts(path, table, &mount_of) {
            let mounts = table.iter().filter(|mounted| mounted.device == part.device);
            names.extend(mounts.filter_map(|mounted| name_in(mounted, &part.path)));
        }
    }
    names.sort();
    names.dedup();
    let all = names.clone();
    // What covers one covers what is below it.
    names.retain(|name| !all.iter().any(|other| other != name && name.starts_with(other)));
    names
}

/// Where something lies: what the path leads to, and what is mounted right in it. What is mounted further down is jobs'.
fn parts<'a>(path: &Path, table: &'a [Mounted], mount_of: impl Fn(&Path) -> Option<u64>) -> Vec<Part<'a>> {
    let here = mount_of(path).and_then(|id| table.iter().find(|mounted| mounted.id == id));
    let here = here.and_then(|mounted| {
        let inside = path.strip_prefix(&mounted.point).ok()?;
        Some(Part {
            device: &mounted.device,
            path: mounted.root_path().join(inside),
        })
    });
    let holds_it = |part: &Part<'_>| {
        let here = here.as_ref();
        here.is_some_and(|here| here.device == part.device && here.path.starts_with(&part.path))
    };
    let right_in_it = table.iter().filter(|m| m.point.parent() == Some(path));
    let mut parts: Vec<Part<'_>> = right_in_it
        .map(|mounted| Part {
            device: &mounted.device,
            path: mounted.root_path(),
        })
        // The whole host, mounted in the agent's directory, does not become the agent's by that.
        .filter(|part| !holds_it(part))
        .collect();
    parts.extend(here);
    parts
}

/// What a mount calls a part of its file system, or what of that it shows.
fn name_in(mounted: &Mounted, part: &Path) -> Option<PathBuf> {
    let root = mounted.root_path();
    match part.strip_prefix(&root) {
        Ok(inside) if inside == Path::new("") => Some(mounted.point.clone()),
        Ok(inside) => Some(mounted.point.join(inside)),
        Err(_) => root.starts_with(part).then(|| mounted.point.clone()),
    }
}

/// The first of these paths that is one of the agent's names, lies in one or leads to one.
pub(crate) fn leads_to_agent<'a>(
    mut shown: impl Iterator<Item = &'a str>,
    names: &[PathBuf],
) -> Option<&'a str> {
    let meets = |path: &Path| {
        names
            .iter()
            .any(|own| own.starts_with(path) || path.starts_with(own))
    };
    shown.find(|path| meets(Path::new(path)))
}

/// The same of what every sandbox with this view shows of the host.
pub(crate) fn always_leads_to_agent(backend: Backend, names: &[PathBuf]) -> Option<&'static str> {
    let fixed = SHOWN.into_iter().chain(ETC);
    leads_to_agent(fixed.filter(|_| backend.is_unprivileged()), names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shown_path_meets_the_agents_directory() {
        let shows = |path: &'static str, own: &str| {
            leads_to_agent([path].into_iter(), &[PathBuf::from(own)]).is_some()
        };
        assert!(!shows("/srv/data", "/nowhere/lictor/agent"));
        assert!(!shows("/nowhere/lictor-data", "/nowhere/lictor"));
        for path in [
            "/",
            "/nowhere",
            "/nowhere//lictor/",
            "/nowhere/./lictor/agent",
            "/nowhere/lictor/agent/work",
        ] {
            assert!(shows(path, "/nowhere/lictor/agent"), "{path}");
        }
        let own = [PathBuf::from("/usr/local/lictor")];
        for backend in [Backend::Landlock, Backend::Bubblewrap] {
            assert_eq!(
                always_leads_to_agent(backend, &own),
                Some("/usr"),
                "what is always shown counts too"
            );
        }
        assert_eq!(always_leads_to_agent(Backend::Host, &own), None);
    }

    /// Names of `/home/me/agent`, where mount 1 is the one of `/` and 2 that of `/home`.
    fn names(table: &[&str]) -> Vec<String> {
        let usual = [
            "1 0 8:1 / / rw - ext4 /dev/a rw",
            "2 1 8:2 / /home rw - ext4 /dev/b rw",
        ];
        let table = usual.iter().chain(table);
        let table: Vec<Mounted> = table.map(|line| Mounted::of(line).expect("a line")).collect();
        let names = every_name(&[PathBuf::from("/home/me/agent")], &table, |_| Some(2));
        let text = names.into_iter().map(|p| p.to_str().expect("text").to_owned());
        text.filter(|name| name != "/home/me/agent").collect()
    }

    #[test]
    fn mounts_of_the_directory_of_what_is_above_and_of_what_is_in_it_are_its_names() {
        let none: [&str; 0] = [];
        assert_eq!(names(&[]), none);
        let line = |root: &str, at: &str| format!("9 1 8:2 {root} {at} rw - ext4 /dev/b rw");
        let one = |root: &str| names(&[&line(root, "/mnt/x")]);
        assert_eq!(one("/me/agent"), ["/mnt/x"]);
        assert_eq!(one("/me"), ["/mnt/x/agent"]);
        assert_eq!(one("/"), ["/mnt/x/me/agent"]);
        assert_eq!(one("/me/agent/work"), ["/mnt/x"]);
        assert_eq!(one("/me/agent/identity.key"), ["/mnt/x"]);
        assert_eq!(one("/me/agent-data"), none);
        assert_eq!(one("/you"), none);
        assert_eq!(names(&["9 1 8:3 /me/agent /mnt/x rw - ext4 /dev/c rw"]), none);
        assert_eq!(names(&[&line("/me", r"/mnt/a\040b")]), ["/mnt/a b/agent"]);
        assert_eq!(
            names(&[&line("/me", "/mnt/x"), &line("/me/agent", "/mnt/x/agent")]),
            ["/mnt/x/agent"]
        );
    }

    #[test]
    fn what_is_mounted_right_in_it_is_the_agents_as_well_and_has_names_too() {
        let disk = "3 2 8:9 / /home/me/agent/work rw - ext4 /dev/d rw";
        assert_eq!(
            names(&[disk, "9 1 8:9 / /mnt/disk rw - ext4 /dev/d rw"]),
            ["/mnt/disk"]
        );
        let part = "3 2 8:9 /lictor /home/me/agent/work rw - ext4 /dev/d rw";
        assert_eq!(
            names(&[part, "9 1 8:9 / /mnt/disk rw - ext4 /dev/d rw"]),
            ["/mnt/disk/lictor"]
        );
        let none: [&str; 0] = [];
        let of_a_job = "3 2 8:9 / /home/me/agent/work/JOB/disk rw - ext4 /dev/d rw";
        assert_eq!(
            names(&[of_a_job, "9 1 8:9 / /mnt/disk rw - ext4 /dev/d rw"]),
            none
        );
        let all_of_it = "3 2 8:2 / /home/me/agent/home rw - ext4 /dev/b rw";
        assert_eq!(
            names(&[all_of_it]),
            none,
            "the directory in itself is below the directory"
        );
    }

    #[test]
    fn names_are_looked_up_again_when_something_was_mounted_and_for_others() {
        let own = Own::default();
        let dir = tempfile::tempdir().expect("a directory");
        let names = |path: &Path| own.names(vec![path.to_owned()]).expect("a list of mounts");
        let first = names(dir.path());
        assert!(first.contains(&dir.path().canonicalize().expect("there")));
        let missing = dir.path().join("no/such");
        assert!(names(&missing).iter().any(|name| name.ends_with("no/such")));
    }
}
