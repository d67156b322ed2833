//! Rulesets: what a job may reach, as rules over open descriptors, never over paths looked up again.
//!
//! What is the same for all jobs is opened once. For each job it is looked whether the path still leads there, which is
//! a fifth of the system calls that opening it again takes.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreated, RulesetError, Scope, make_bitflags,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::linux::kernel::Kernel;
use crate::linux::paths;
use crate::linux::remove::link_of;
use crate::linux::shown::{ETC, SHOWN};
use crate::linux::supervisor::{Timer, expiry};
use crate::plan::LaunchSpec;

/// The first ABI that keeps signals and abstract sockets inside.
const LEAST: ABI = ABI::V6;
/// Rulesets from the newest on; what a kernel does not know, it refuses.
const ABIS: [ABI; 4] = [ABI::V9, ABI::V8, ABI::V7, LEAST];
/// Devices that every program may expect.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// Further files that programs read, besides those of every sandbox.
const READ: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/hosts", "/proc"];
/// The terminal of whoever opens it, where there is one; pagers and questions for passwords do.
const TERMINAL: &str = "/dev/tty";
/// All that there is to do with a device or a terminal.
const WHOLE_FILE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
/// What is shown with everything below it, first of all.
const WHOLE: &str = "/usr";

/// What every job may reach, held open.
#[derive(Debug, Default)]
pub(in crate::linux) struct Reach(Mutex<Vec<Held>>);

/// A path, and what it led to when it was looked at last.
#[derive(Debug)]
struct Held {
    path: &'static str,
    kind: Kind,
    found: Option<Found>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Device,
    Terminal,
}

#[derive(Debug)]
struct Found {
    at: OwnedFd,
    stat: Stat,
    /// Whether it lies below what is shown as a whole, so that it needs no rule of its own.
    is_within: bool,
}

impl Reach {
    fn all(&self) -> MutexGuard<'_, Vec<Held>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            let read = SHOWN.into_iter().chain(ETC).chain(READ);
            let read = read.map(|path| (path, Kind::Read));
            let devices = DEVICES.map(|path| (path, Kind::Device));
            let paths = read.chain(devices).chain([(TERMINAL, Kind::Terminal)]);
            all.extend(paths.map(|(path, kind)| Held {
                path,
                kind,
                found: None,
            }));
        }
        all
    }
}

impl Held {
    /// What the path leads to now; nothing when it is not there.
    fn look(&mut self) -> io::Result<Option<&Found>> {
        let stat = match rustix::fs::stat(self.path) {
            Err(Errno::NOENT) => {
                self.found = None;
                return Ok(None);
            }
            other => other?,
        };
        // The number of an open file is given to no other, so it is the same file.
        let same = |found: &Found| (found.stat.st_dev, found.stat.st_ino) == (stat.st_dev, stat.st_ino);
        if !self.found.as_ref().is_some_and(same) {
            self.found = None;
            let (at, stat) = open(Path::new(self.path))?;
            let real = std::fs::read_link(link_of(&at))?;
            let is_within = self.kind == Kind::Read && self.path != WHOLE && real.starts_with(WHOLE);
            self.found = Some(Found { at, stat, is_within });
        }
        Ok(self.found.as_ref())
    }
}

fn open(path: &Path) -> io::Result<(OwnedFd, Stat)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let at = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&at)?;
    Ok((at, stat))
}

/// What a profile names.
type Named = Vec<(OwnedFd, Stat, BitFlags<AccessFs>)>;

/// Opens what the profile names.
fn open_named(spec: &LaunchSpec, abi: ABI) -> io::Result<Named> {
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let devices = spec.devices.iter().map(|path| (path, WHOLE_FILE));
    let read_only = spec.read_only.iter().map(|path| (path, read));
    let read_write = spec.read_write.iter().map(|path| (path, all));
    let named = devices.chain(read_only).chain(read_write);
    let open = |(path, access): (&String, _)| {
        let at = paths::open(path).map_err(|e| paths::named(path, e))?;
        let stat = rustix::fs::fstat(&at)?;
        Ok((at, stat, access))
    };
    named.map(open).collect()
}

/// The same on a thread that may wait: a file system that does not answer holds up nobody else.
async fn open_in_time(kernel: &Kernel, spec: &LaunchSpec, abi: ABI) -> io::Result<Named> {
    if spec.devices.is_empty() && spec.read_only.is_empty() && spec.read_write.is_empty() {
        return Ok(Named::new());
    }
    let bound = Timer::after(kernel.zygote.bound);
    let (asked, threads) = (spec.clone(), kernel.openers.clone());
    let open = async move {
        // A thread that hangs keeps its place, so that there are never more of them than there are places.
        let place = threads.acquire_owned().await;
        let open = move || {
            let _place = place;
            open_named(&asked, abi)
        };
        tokio::task::spawn_blocking(open).await
    };
    tokio::select! {
        opened = open => opened.map_err(io::Error::other).flatten(),
        () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a job may reach. No TCP rule at all: nothing can be bound or connected.
pub(super) async fn ruleset(kernel: &Kernel, spec: &LaunchSpec) -> io::Result<OwnedFd> {
    let named = open_in_time(kernel, spec, newest_known().map_err(io::Error::other)?).await?;
    let (abi, empty) = newest().map_err(io::Error::other)?;
    let ruleset: Option<OwnedFd> = empty.into();
    let ruleset = ruleset.ok_or(io::ErrorKind::Unsupported)?;
    let rules = Rules {
        abi,
        ruleset: ruleset.as_fd(),
    };
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    for held in kernel.reach.all().iter_mut() {
        let kind = held.kind;
        if let Some(found) = held.look()?.filter(|f| !f.is_within) {
            let access = match kind {
                Kind::Read => read,
                Kind::Device => AccessFs::ReadFile | AccessFs::WriteFile,
                Kind::Terminal => WHOLE_FILE,
            };
            rules.allow(&found.at, &found.stat, access)?;
        }
    }
    for (at, stat, access) in &named {
        rules.allow(at, stat, *access)?;
    }
    if spec.program.is_own {
        // No path that the profile shows leads to it.
        for file in spec.program.files.iter().filter_map(|f| f.copy.as_ref()) {
            add(
                ruleset.as_fd(),
                file.as_fd(),
                AccessFs::Execute | AccessFs::ReadFile,
            )?;
        }
    }
    rules.allow_path(&spec.dir, all)?;
    if spec.workspace() != spec.dir {
        rules.allow_path(&spec.workspace(), all)?;
    }
    Ok(ruleset)
}

/// A ruleset that takes rules.
struct Rules<'a> {
    abi: ABI,
    ruleset: BorrowedFd<'a>,
}

impl Rules<'_> {
    fn allow_path(&self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let (at, stat) = open(path)?;
        self.allow(&at, &stat, access)
    }

    fn allow(&self, at: &OwnedFd, stat: &Stat, access: BitFlags<AccessFs>) -> io::Result<()> {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let access = if is_directory {
            access
        } else {
            access & AccessFs::from_file(self.abi)
        };
        add(self.ruleset, at.as_fd(), access)
    }
}

/// Adds a job's own terminal to what it may open, and no other.
pub(in crate::linux) fn allow_terminal(ruleset: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> io::Result<()> {
    add(ruleset, terminal, WHOLE_FILE)
}

fn add(ruleset: BorrowedFd<'_>, at: BorrowedFd<'_>, access: BitFlags<AccessFs>) -> io::Result<()> {
    /// The kernel's `landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Rule {
        allowed: u64,
        parent: i32,
    }
    const PATH_BENEATH: i32 = 1;
    let rule = Rule {
        allowed: access.bits(),
        parent: at.as_raw_fd(),
    };
    // SAFETY: `rule` has the kernel's layout and outlives the call; both descriptors are open.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// An empty ruleset of the newest ABI that works here.
fn newest() -> Result<(ABI, RulesetCreated), RulesetError> {
    /// The kernel stays the same one.
    static KNOWN: OnceLock<ABI> = OnceLock::new();
    if let Some(abi) = KNOWN.get() {
        return empty(*abi).map(|r| (*abi, r));
    }
    let mut made = empty(LEAST).map(|r| (LEAST, r));
    for abi in ABIS {
        if let Ok(ruleset) = empty(abi) {
            made = Ok((abi, ruleset));
            break;
        }
    }
    let (abi, ruleset) = made?;
    let _ = KNOWN.set(abi);
    Ok((abi, ruleset))
}

fn empty(abi: ABI) -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()
}

fn newest_known() -> Result<ABI, RulesetError> {
    newest().map(|(abi, _)| abi)
}

/// The newest ABI that works here, for people, or why none does.
pub(in crate::linux) fn newest_abi() -> Result<i32, String> {
    newest_known()
        .map(|abi| abi as i32)
        .map_err(|_| without(oldest()))
}

/// A ruleset of the first ABI there was.
fn oldest() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .create()
}

fn without(oldest: Result<RulesetCreated, RulesetError>) -> String {
    if oldest.is_ok() {
        let least = LEAST as i32;
        return format!(
            "this kernel's Landlock lets signals and abstract sockets out: it is older than ABI {least}"
        );
    }
    "this kernel has no Landlock, or was started without it".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_leads_to_is_looked_at_again_for_every_job() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        std::fs::write(&path, "old").expect("written");
        let path: &'static str = String::leak(path.to_str().expect("text").to_owned());
        let mut held = Held {
            path,
            kind: Kind::Read,
            found: None,
        };
        let mut inode = || {
            held.look()
                .expect("looked")
                .map(|f| (f.at.as_raw_fd(), f.stat.st_ino))
        };
        let first = inode().expect("there");
        assert_eq!(inode(), Some(first), "the same file is not opened again");
        std::fs::write(dir.path().join("new"), "new").expect("written");
        std::fs::rename(dir.path().join("new"), path).expect("replaced");
        let second = inode().expect("there");
        assert_ne!(second.1, first.1, "what has replaced it");
        std::fs::remove_file(path).expect("removed");
        assert_eq!(inode(), None);
    }

    #[test]
    fn only_what_lies_below_a_whole_directory_needs_no_rule() {
        let reach = Reach::default();
        let mut all = reach.all();
        for held in all.iter_mut() {
            let path = Path::new(held.path);
            let real = path.canonicalize();
            let Some(found) = held.look().expect("looked") else {
                continue;
            };
            let within = path != Path::new(WHOLE) && real.is_ok_and(|r| r.starts_with(WHOLE));
            assert_eq!(found.is_within, within, "{}", path.display());
        }
    }
}
