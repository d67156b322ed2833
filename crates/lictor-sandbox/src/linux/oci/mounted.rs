//! That nothing is mounted in a container but what is to be: an engine may have more to show than it was asked for, by
//! settings of the site or of its own.
//!
//! ```text
//!   /proc/FIRST/mountinfo, each line is
//!     a place of the view                its own file there, as it was found
//!     below such a place                 what is mounted at that place outside: the same part of the same file system
//!     a cover                            mounted by us, and looked at by itself
//!     a file of the bundle's             at the one place where it belongs
//!     the container's own                of a closed list, each a file system that the agent has not mounted itself
//! ```
//!
//! # Invariants
//! - What is none of these is an error, whoever has mounted it and whatever it is.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, major, minor};

use super::Bundle;
use super::root::DEVICES;
use super::view::{Source, View, place_of};
use crate::handle::ProcessId;
use crate::linux::mounts::Mounted;

/// File systems that a container has of its own, and of which kind each is.
const OWN: [(&str, &str); 8] = [
    ("/proc", "proc"),
    ("/dev", "tmpfs"),
    ("/dev/pts", "devpts"),
    ("/dev/shm", "tmpfs"),
    ("/dev/mqueue", "mqueue"),
    ("/tmp", "tmpfs"),
    ("/sys", "tmpfs"),
    ("/sys/fs/cgroup", "tmpfs"),
];
/// What runtimes mount on parts of the kernel's files: nothing, or the same read-only.
const KERNELS: [&str; 2] = ["/proc", "/sys"];
/// Files of the bundle, as far below it as they lie.
const FILES: [(&str, &str); 6] = [
    ("/etc/passwd", "/passwd"),
    ("/etc/group", "/group"),
    ("/etc/hosts", "/hosts"),
    ("/etc/hostname", "/userdata/hostname"),
    ("/etc/resolv.conf", "/userdata/resolv.conf"),
    ("/run/.containerenv", "/userdata/.containerenv"),
];

impl View {
    /// Whether nothing else is mounted in the container of this first process, for which `bundle` was made.
    ///
    /// # Errors
    /// Names something that is.
    pub(crate) fn is_all_that_is_mounted(&self, first: ProcessId, bundle: &Bundle) -> io::Result<()> {
        let own = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let outside = self.laid_out().unwrap_or(&own);
        let shown = self.shown_below(outside);
        let known: HashSet<String> = all(&own).map(|mounted| mounted.device).collect();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{}/root", first.pid), flags, Mode::empty())?;
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", first.pid))?;
        for mounted in all(&table) {
            let is_so = self.is_shown_there(&root, &mounted)?
                || shown.contains(&(
                    mounted.point.clone(),
                    mounted.device.clone(),
                    mounted.root.clone(),
                ))
                || is_a_file_of(bundle, &mounted)
                || is_a_device(&root, &mounted.point)?
                || (is_its_own(&mounted) && !known.contains(&mounted.device));
            if !is_so {
                let at = mounted.point.display();
                let why = format!("the engine has mounted something at {at} that it was not asked for");
                return Err(io::Error::other(why));
            }
        }
        Ok(())
    }

    /// What is mounted below what is shown, by where it is inside.
    fn shown_below(&self, outside: &str) -> HashSet<(PathBuf, String, String)> {
        let outside: Vec<Mounted> = all(outside).collect();
        let mut below = HashSet::new();
        for mount in &self.mounts {
            for mounted in &outside {
                match mounted.point.strip_prefix(mount.source()) {
                    Ok(rest) if rest != Path::new("") => {
                        let at = Path::new(&mount.at).join(rest);
                        below.insert((at, mounted.device.clone(), mounted.root.clone()));
                    }
                    _ => {}
                }
            }
        }
        below
    }

    /// Whether it is the root, a place of the view with what belongs there, or a cover.
    fn is_shown_there(&self, root: &OwnedFd, mounted: &Mounted) -> io::Result<bool> {
        let Some(at) = mounted.point.to_str() else {
            return Ok(false);
        };
        // A root that could be written to is refused before; what is hidden or held is looked at there, too.
        if at == "/" || self.covers.all.iter().any(|c| c.at == at) {
            return Ok(true);
        }
        // Of several the last one is seen.
        let Some(mount) = self.mounts.iter().rev().find(|mount| mount.at == at) else {
            return Ok(false);
        };
        match &mount.source {
            Source::Held(..) | Source::New(..) => Ok(true), // compared by who looks at what is shown
            Source::Path(path) => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let wanted = rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty())?;
                Ok(place_of(&wanted)? == place_of(&inside(root, &mounted.point)?)?)
            }
        }
    }
}

fn all(table: &str) -> impl Iterator<Item = Mounted> {
    table.lines().filter_map(Mounted::of)
}

fn inside(root: &OwnedFd, at: &Path) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, at, flags, Mode::empty(), how)?)
}

/// An engine's own copy of something of the site's lies below the bundle as well, elsewhere.
fn is_a_file_of(bundle: &Bundle, mounted: &Mounted) -> bool {
    let mut parts = bundle
        .dir()
        .components()
        .rev()
        .map(|part| part.as_os_str().to_string_lossy());
    let (Some(own), Some(agent)) = (parts.next(), parts.next()) else {
        return false;
    };
    let below = format!("/{agent}/{own}/");
    let is_it = |(at, end): &(&str, &str)| mounted.point == Path::new(at) && mounted.root.ends_with(end);
    mounted.root.contains(&below) && FILES.iter().any(is_it)
}

/// One of the devices that every container has, whatever file stands for it.
fn is_a_device(root: &OwnedFd, at: &Path) -> io::Result<bool> {
    let number = |(name, major, minor): &(&str, u32, u32)| {
        (at == Path::new("/dev").join(name)).then_some((*major, *minor))
    };
    let Some(number) = DEVICES.iter().find_map(number) else {
        return Ok(false);
    };
    let stat = rustix::fs::fstat(inside(root, at)?)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    Ok(is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == number)
}

fn is_its_own(mounted: &Mounted) -> bool {
    let is = |(at, kind): &(&str, &str)| mounted.point == Path::new(at) && mounted.kind == *kind;
    let is_kernels = KERNELS.iter().any(|top| mounted.point.starts_with(top));
    OWN.iter().any(is) || (is_kernels && matches!(mounted.kind.as_str(), "proc" | "tmpfs"))
}
