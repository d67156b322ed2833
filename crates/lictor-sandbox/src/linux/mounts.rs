//! Taking away what a job has mounted below its directory.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::remove::link_of;

/// Detaches everything that is mounted at `dir` or below it.
///
/// # Errors
/// When nothing is, or when the system refuses.
pub(super) fn detach_below(dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The kernel tells mounts by real paths.
    let dir = parent.canonicalize()?.join(name);
    // Of this thread: threads can be in mount namespaces of their own.
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mut points: Vec<PathBuf> = table.lines().filter_map(mount_point).collect();
    points.retain(|p| p.starts_with(&dir));
    points.sort();
    if points.is_empty() {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let mut above: Option<&PathBuf> = None;
    for point in &points {
        // Outermost first: what is mounted in a mount goes with it. The same path again is one under the other.
        if above.is_some_and(|a| a != point && point.starts_with(a)) {
            continue;
        }
        detach(point)?;
        tracing::warn!(at = %point.display(), "a job has left something mounted; it is detached");
        above = Some(point);
    }
    Ok(())
}

fn detach(point: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Whoever owns a directory on the way could put a link in its place.
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mount = rustix::fs::openat2(CWD, point, flags, Mode::empty(), no_links)?;
    let mount = link_of(&mount);
    // A copy of a shared mount shares what is mounted below it with the original, and so would the end of that: to
    // detach a recursive bind of `/` would take away the host's own `/proc`.
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(&mount, apart)?;
    Ok(rustix::mount::unmount(&mount, UnmountFlags::DETACH)?)
}

/// Where a line of mountinfo says that something is mounted, and with what rights.
pub(super) fn point_and_rights(line: &str) -> Option<(PathBuf, &str)> {
    Some((mount_point(line)?, line.split(' ').nth(5)?))
}

/// A line of mountinfo.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) id: u64,
    pub(super) point: PathBuf,
    /// Of the file system: its number, its kind, and which part of it is mounted.
    pub(super) device: String,
    pub(super) kind: String,
    pub(super) root: String,
}

impl Mounted {
    pub(super) fn of(line: &str) -> Option<Self> {
        let field = |n: usize| line.split(' ').nth(n).map(str::to_owned);
        let (_, after) = line.split_once(" - ")?;
        Some(Self {
            id: field(0)?.parse().ok()?,
            point: mount_point(line)?,
            device: field(2)?,
            kind: after.split(' ').next()?.to_owned(),
            root: field(3)?,
        })
    }

    /// Which part of its file system is mounted.
    pub(super) fn root_path(&self) -> PathBuf {
        unescaped(&self.root)
    }
}

/// Where a line of mountinfo says that something is mounted.
fn mount_point(line: &str) -> Option<PathBuf> {
    line.split(' ').nth(4).map(unescaped)
}

/// A path as mountinfo writes it: space, tab, newline and backslash are octal.
fn unescaped(field: &str) -> PathBuf {
    let field = field.as_bytes();
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (byte, octal) {
            (b'\\', Some(value)) => {
                path.push(value);
                rest = &after[3..];
            }
            _ => {
                path.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    #[test]
    fn reads_mount_points_with_spaces_in_them() {
        let line = r"36 35 98:0 /mnt1 /mnt\040a\134b rw,noatime shared:1 - ext3 /dev/root rw";
        assert_eq!(super::mount_point(line), Some(PathBuf::from(r"/mnt a\b")));
        let mounted = super::Mounted::of(line).expect("a line");
        assert_eq!(mounted.point, PathBuf::from(r"/mnt a\b"));
        assert_eq!(
            [&mounted.device, &mounted.root, &mounted.kind],
            ["98:0", "/mnt1", "ext3"]
        );
        let line = r"36 35 98:0 /a\040b /mnt rw - ext3 /dev/root rw";
        let mounted = super::Mounted::of(line).expect("a line");
        assert_eq!((mounted.id, mounted.root_path()), (36, PathBuf::from("/a b")));
    }
}
