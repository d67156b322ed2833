//! Who can change what a path leads to: the file, its directories, and every link on the way.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::users::User;

/// Most links in one path, as the kernel has it.
const MOST_LINKS: u32 = 40;

/// What could become of a path between one look and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// Whether the run-as user could change the file or what leads to it.
    pub(super) writable: bool,
    /// Whether anybody but root could make the path lead to another file.
    pub(super) loose: bool,
}

impl Reach {
    /// Follows `asked`, which led to `real` when it was opened, both as seen in the root directory `base`. In doubt,
    /// everybody can do everything.
    pub(super) fn of(base: &Path, (asked, real): (&Path, &Path), user: &User) -> Self {
        let everybody = Self {
            writable: true,
            loose: true,
        };
        match places(base, asked) {
            Ok((places, end)) if end == real => Self {
                writable: user.uid == 0 || places.iter().any(|(p, m)| may_write(p, m, user)),
                loose: places.iter().any(|(_, m)| is_loose(m)),
            },
            Ok(_) | Err(_) => everybody,
        }
    }
}

/// Whether anybody but root can write into a file.
pub(super) fn is_changeable(file: &Metadata) -> bool {
    file.uid() != 0 || file.mode() & 0o022 != 0
}

/// Every place that following a path passes, from the root on, as the host calls it; and where it ends inside.
fn places(base: &Path, asked: &Path) -> io::Result<(Vec<(PathBuf, Metadata)>, PathBuf)> {
    let look = |path: &Path| {
        let path = base.join(path.strip_prefix("/").unwrap_or(path));
        path.symlink_metadata().map(|meta| (path, meta))
    };
    let mut at = PathBuf::from("/");
    let mut found = vec![look(&at)?];
    let mut ahead = Vec::new();
    let mut links = 0;
    put(&mut ahead, asked);
    while let Some(next) = ahead.pop() {
        if next == ".." {
            at.pop();
            continue;
        }
        let inside = at.join(next);
        let (path, meta) = look(&inside)?;
        if meta.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = std::fs::read_link(&path)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            put(&mut ahead, &target);
        } else {
            at = inside;
        }
        found.push((path, meta));
    }
    Ok((found, at))
}

/// Puts a path before what is ahead, its first component last.
fn put(ahead: &mut Vec<OsString>, path: &Path) {
    let names = path.components().rev().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    ahead.extend(names);
}

/// Whether somebody else than root can put another entry in the place of one. In a directory with the sticky bit only
/// an entry's owner can.
fn is_loose(place: &Metadata) -> bool {
    let open_to_all = place.is_dir() && place.mode() & 0o022 != 0 && place.mode() & 0o1000 == 0;
    place.uid() != 0 || open_to_all
}

fn may_write(path: &Path, meta: &Metadata, user: &User) -> bool {
    if meta.uid() == user.uid {
        return true; // an owner can always give itself the right
    }
    if meta.is_symlink() {
        return false; // cannot be written, only replaced, and that is the directory's matter
    }
    if meta.is_dir() && meta.mode() & 0o1000 != 0 {
        return false; // with the sticky bit an entry is its owner's alone, and who owns it is looked at there
    }
    let group_bit = meta.mode() & 0o020 != 0;
    let member = user.gid == meta.gid() || user.groups.contains(&meta.gid());
    meta.mode() & 0o002 != 0 || group_bit && (member || has_acl(path))
}

/// With an access list the group bits are its mask, and stand for users that mode bits cannot name.
fn has_acl(path: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut none).is_ok_and(|n| n > 0)
}
