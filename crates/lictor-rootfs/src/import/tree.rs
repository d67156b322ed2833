//! The directory that an archive becomes.
//!
//! Nobody but this process's user can enter the directory above it meanwhile, so what a name leads to cannot change
//! between a look and the use. Links of the archive are followed as they will be inside: from the tree's own root,
//! never above it.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use lictor_proto::Digest;

use super::Limits;
use super::archive::{Kind, Member, Members, shown};
use super::stream::{Tarball, unreadable};
use crate::error::RootfsError;
use crate::store::remove_tree;

/// Most links in one path, as the kernel has it.
const MOST_LINKS: u32 = 40;
/// In a layer of an image: this name is taken away.
const WHITEOUT: &[u8] = b".wh.";
/// In a layer of an image: nothing of earlier layers is in this directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
const PAGE: u64 = 4096;

/// A tree on its way in.
pub(super) struct Tree {
    root: PathBuf,
    pub(super) limits: Limits,
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// Bytes of all layers so far, unpacked.
    pub(super) unpacked: u64,
    members: u64,
    pub(super) devices_left_out: u64,
    pub(super) set_ids_dropped: u64,
    /// What the layer that is being applied has made itself; `None` for a plain tarball.
    layer: Option<Made>,
}

/// Paths below the root that a layer has made, and the directories above them; each as a digest, which is short
/// whatever the path is.
#[derive(Debug, Default)]
struct Made {
    paths: HashSet<[u8; 32]>,
    /// Directories that nothing of earlier layers is in any more.
    emptied: HashSet<[u8; 32]>,
}

impl Made {
    fn insert(&mut self, path: &Path) {
        for part in path.ancestors() {
            self.paths.insert(key(part));
        }
    }

    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(&key(path))
    }
}

fn key(path: &Path) -> [u8; 32] {
    Digest::of(path.as_os_str().as_bytes()).0
}

/// What is done about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Make,
    Fail,
}

fn refused(name: &[u8], why: &str) -> RootfsError {
    RootfsError::Invalid(format!("{} {why}", shown(name)))
}

impl Tree {
    pub(super) fn new(root: PathBuf, limits: Limits) -> Self {
        Self {
            root,
            limits,
            bytes: 0,
            entries: 0,
            unpacked: 0,
            members: 0,
            devices_left_out: 0,
            set_ids_dropped: 0,
            layer: None,
        }
    }

    /// A plain tarball.
    pub(super) fn unpack(&mut self, tarball: &mut Tarball<'_>) -> Result<(), RootfsError> {
        let mut members = Members::new(tarball, self.limits);
        while let Some(member) = members.next()? {
            self.take(&member, &mut members)?;
        }
        Ok(())
    }

    /// A layer of an image, on top of what is there.
    pub(super) fn apply(&mut self, tarball: &mut Tarball<'_>) -> Result<(), RootfsError> {
        self.layer = Some(Made::default());
        let result = self.unpack(tarball);
        self.layer = None;
        result
    }

    fn take(&mut self, member: &Member, content: &mut impl Read) -> Result<(), RootfsError> {
        // Also what makes nothing takes time.
        self.members += 1;
        if self.members > self.limits.entries {
            let most = self.limits.entries;
            return Err(RootfsError::TooLarge(format!("it has more than {most} files")));
        }
        let names = self.names(&member.name)?;
        let Some((last, above)) = names.split_last() else {
            return Ok(()); // the root itself
        };
        let above = self.enter(above, &member.name, Absent::Make)?;
        let bytes = last.as_bytes();
        if self.layer.is_some() && bytes.starts_with(WHITEOUT) {
            return self.white_out(&above, bytes);
        }
        let path = above.join(last);
        if member.kind == Kind::Device {
            self.devices_left_out += 1;
            return self.remove(&path);
        }
        self.make_room(&path, &member.kind)?;
        match &member.kind {
            Kind::Directory => self.directory(&path, member.mode)?,
            Kind::File => self.file(&path, member, content)?,
            Kind::Symlink(target) => self.symlink(&path, target)?,
            Kind::HardLink(target) => self.hard_link(&path, target)?,
            Kind::Device => {}
        }
        if let Some(layer) = &mut self.layer {
            layer.insert(&path);
        }
        Ok(())
    }

    /// The parts of a name, none of which leads up.
    fn names<'a>(&self, name: &'a [u8]) -> Result<Vec<&'a OsStr>, RootfsError> {
        if name.len() > self.limits.name {
            return Err(refused(name, "is too long a name"));
        }
        if name.is_empty() || name.contains(&0) || name.starts_with(b"/") {
            return Err(refused(
                name,
                "is no name below a root: it is absolute, empty or has a NUL",
            ));
        }
        let mut names = Vec::new();
        for component in Path::new(OsStr::from_bytes(name)).components() {
            match component {
                Component::Normal(part) => names.push(part),
                Component::CurDir => {}
                _ => return Err(refused(name, "leads up, out of the root")),
            }
        }
        if names.len() > self.limits.depth {
            return Err(refused(name, "lies too deep"));
        }
        Ok(names)
    }

    /// The real place of a directory, below the root.
    fn enter(&mut self, names: &[&OsStr], asked: &[u8], absent: Absent) -> Result<PathBuf, RootfsError> {
        let mut at = PathBuf::new();
        let mut ahead: Vec<OsString> = names.iter().rev().map(|n| (*n).to_owned()).collect();
        let (mut links, mut depth) = (0, 0);
        while let Some(name) = ahead.pop() {
            if name == ".." {
                depth -= usize::from(at.pop());
                continue;
            }
            let next = at.join(&name);
            let full = self.root.join(&next);
            match fs::symlink_metadata(&full) {
                Ok(meta) if meta.is_dir() => (at, depth) = (next, depth + 1),
                Ok(meta) if meta.is_symlink() => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(refused(asked, "leads through too many links"));
                    }
                    let target = fs::read_link(&full).map_err(RootfsError::io("read the link", &full))?;
                    if target.is_absolute() {
                        (at, depth) = (PathBuf::new(), 0);
                    }
                    ahead.extend(ahead_of(&target));
                }
                Ok(_) => return Err(refused(asked, "lies below something that is no directory")),
                Err(e) if e.kind() == io::ErrorKind::NotFound && absent == Absent::Make => {
                    self.directory(&next, 0o755)?;
                    (at, depth) = (next, depth + 1);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(refused(asked, "lies in a directory that is not there"));
                }
                Err(e) => return Err(RootfsError::io("look at", &full)(e)),
            }
            if depth > self.limits.depth {
                return Err(refused(asked, "lies too deep"));
            }
        }
        Ok(at)
    }

    /// Counts one more file, directory or link, and so many bytes of content.
    fn count(&mut self, bytes: u64) -> Result<(), RootfsError> {
        let pages = bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(pages.max(PAGE));
        let (entries, most) = (self.limits.entries, self.limits.bytes);
        if self.entries > entries {
            return Err(RootfsError::TooLarge(format!("it has more than {entries} files")));
        }
        if self.bytes > most {
            return Err(RootfsError::TooLarge(format!("it takes more than {most} bytes")));
        }
        Ok(())
    }

    /// Takes away what a member replaces. A directory on a directory adds to it.
    fn make_room(&self, path: &Path, kind: &Kind) -> Result<(), RootfsError> {
        let full = self.root.join(path);
        match fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() && *kind == Kind::Directory => Ok(()),
            Ok(_) => self.remove(path),
            Err(_) => Ok(()), // whatever it is, making something there tells
        }
    }

    fn remove(&self, path: &Path) -> Result<(), RootfsError> {
        let full = self.root.join(path);
        let removed = match fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => remove_tree(&full),
            Ok(_) => fs::remove_file(&full),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        removed.map_err(RootfsError::io("remove", &full))
    }

    pub(super) fn directory(&mut self, path: &Path, mode: u32) -> Result<(), RootfsError> {
        self.count(0)?;
        let full = self.root.join(path);
        // Its owner is always let in, and nobody else may write: the tree is for reading, and is removed some day.
        let mode = mode & 0o755 | 0o700;
        match DirBuilder::new().mode(mode).create(&full) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootfsError::io("make", &full)(e));
            }
            _ => {}
        }
        // Whatever the umask says.
        let rights = fs::set_permissions(&full, Permissions::from_mode(mode));
        rights.map_err(RootfsError::io("set the rights of", &full))
    }

    fn file(&mut self, path: &Path, member: &Member, content: &mut impl Read) -> Result<(), RootfsError> {
        self.count(member.size)?;
        let full = self.root.join(path);
        let mut file = create(&full)?;
        copy(content, &mut file, &full)?;
        self.set_ids_dropped += u64::from(member.mode & 0o6000 != 0);
        let rights = Permissions::from_mode(member.mode & 0o755 | 0o400);
        let set = file.set_permissions(rights);
        // A time that the file system does not know is no reason to refuse the file.
        let _ = file.set_modified(member.modified);
        set.map_err(RootfsError::io("set the rights of", &full))
    }

    fn symlink(&mut self, path: &Path, target: &[u8]) -> Result<(), RootfsError> {
        self.count(0)?;
        if target.is_empty() || target.contains(&0) || target.len() > self.limits.name {
            return Err(refused(
                path.as_os_str().as_bytes(),
                "is a link to no name, or to too long a one",
            ));
        }
        let full = self.root.join(path);
        symlink(OsStr::from_bytes(target), &full).map_err(RootfsError::io("make", &full))
    }

    fn hard_link(&mut self, path: &Path, target: &[u8]) -> Result<(), RootfsError> {
        self.count(0)?;
        // Some archives write these from the root on.
        let name = target.strip_prefix(b"/").unwrap_or(target);
        let names = self.names(name)?;
        let Some((last, above)) = names.split_last() else {
            return Err(refused(target, "cannot be linked to"));
        };
        let above = self.enter(above, target, Absent::Fail)?;
        let target_path = self.root.join(above.join(last));
        match fs::symlink_metadata(&target_path) {
            Ok(meta) if meta.is_file() || meta.is_symlink() => {}
            _ => return Err(refused(target, "is linked to and is no file that is there")),
        }
        let full = self.root.join(path);
        // Of a link it makes another name of the link.
        fs::hard_link(&target_path, &full).map_err(RootfsError::io("link", &full))
    }

    fn white_out(&mut self, above: &Path, name: &[u8]) -> Result<(), RootfsError> {
        if name == OPAQUE {
            return self.empty_of_earlier(above);
        }
        let gone = &name[WHITEOUT.len()..];
        if gone.starts_with(WHITEOUT) {
            return Ok(()); // notes of a storage driver
        }
        if matches!(gone, b"" | b"." | b"..") {
            return Err(refused(name, "takes away no name"));
        }
        let path = above.join(OsString::from_vec(gone.to_vec()));
        if self.layer.as_ref().is_some_and(|l| l.contains(&path)) {
            // What this layer has made stays; what earlier ones have left in it goes, whatever came first.
            return match self.look(&path) {
                Some(meta) if meta.is_dir() => self.empty_of_earlier(&path),
                _ => Ok(()),
            };
        }
        self.remove(&path)
    }

    /// Removes everything below a directory that this layer has not made.
    fn empty_of_earlier(&mut self, dir: &Path) -> Result<(), RootfsError> {
        let is_new = self.layer.as_mut().is_some_and(|l| l.emptied.insert(key(dir)));
        let Some(layer) = self.layer.as_ref().filter(|_| is_new) else {
            return Ok(());
        };
        let mut ahead = vec![dir.to_owned()];
        while let Some(dir) = ahead.pop() {
            let full = self.root.join(&dir);
            for entry in fs::read_dir(&full).map_err(RootfsError::io("read", &full))? {
                let entry = entry.map_err(RootfsError::io("read", &full))?;
                let path = dir.join(entry.file_name());
                if !layer.contains(&path) {
                    self.remove(&path)?;
                } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    ahead.push(path);
                }
            }
        }
        Ok(())
    }

    /// The whole of a small file that a path leads to, in the root.
    pub(super) fn read(&mut self, path: &[u8], most: u64) -> Option<Vec<u8>> {
        let mut at = PathBuf::from(OsStr::from_bytes(path));
        for _ in 0..MOST_LINKS {
            let (above, last) = (at.parent()?.to_owned(), at.file_name()?.to_owned());
            let names: Vec<OsString> = ahead_of(&above).into_iter().rev().collect();
            let names: Vec<&OsStr> = names.iter().map(OsString::as_os_str).collect();
            let above = self.enter(&names, path, Absent::Fail).ok()?;
            let full = self.root.join(above.join(&last));
            let meta = fs::symlink_metadata(&full).ok()?;
            if meta.is_symlink() {
                let target = fs::read_link(&full).ok()?;
                at = Path::new("/").join(above).join(target);
            } else if meta.is_file() {
                let mut bytes = Vec::new();
                File::open(&full).ok()?.take(most).read_to_end(&mut bytes).ok()?;
                return Some(bytes);
            } else {
                return None;
            }
        }
        None
    }

    /// Puts a small file in the place of whatever is there.
    pub(super) fn put(&mut self, path: &Path, content: &[u8]) -> Result<(), RootfsError> {
        self.count(content.len() as u64)?;
        self.remove(path)?;
        let full = self.root.join(path);
        let mut file = create(&full)?;
        copy(&mut &*content, &mut file, &full)?;
        let set = file.set_permissions(Permissions::from_mode(0o644));
        set.map_err(RootfsError::io("set the rights of", &full))
    }

    pub(super) fn look(&self, path: &Path) -> Option<fs::Metadata> {
        fs::symlink_metadata(self.root.join(path)).ok()
    }
}

fn create(path: &Path) -> Result<File, RootfsError> {
    // A link that is there would not be followed: it is an error.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map_err(RootfsError::io("make", path))
}

/// Tells what cannot be read from what cannot be written.
fn copy(content: &mut impl Read, file: &mut File, path: &Path) -> Result<(), RootfsError> {
    let mut piece = vec![0; 128 * 1024];
    loop {
        let n = match content.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(unreadable(e)),
        };
        file.write_all(&piece[..n])
            .map_err(RootfsError::io("write", path))?;
    }
}

/// The parts of a path, the first of them last.
fn ahead_of(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}
