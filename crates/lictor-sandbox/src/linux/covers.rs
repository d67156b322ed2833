//! What lies in the paths that a sandbox shows and is hidden, or stays as it is, all the same.
//!
//! What is mounted on a file or directory goes with it wherever it is moved inside, and cannot be removed or replaced.
//! So what a pattern of `deny` is about when the sandbox is made stays hidden. What `protect` is about is a name, so the
//! directories above it are mounted on themselves: what is a mount point cannot be renamed either.
//!
//! # Invariants
//! - Nothing is looked up through a link, and what cannot be held is an error: a link that is denied or protected, a
//!   name that is no UTF-8, more than can be looked through.

mod placeholder;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use lictor_trust::profiles::matches;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub(super) use self::placeholder::Placeholder;
use self::placeholder::Record;
pub(crate) use self::placeholder::remove_left;
use super::entry;

/// Most entries that are looked through for one sandbox, and directories above one.
const ENTRIES: usize = 100_000;
const DEPTH: usize = 64;
/// Most of them that are hidden.
const HIDDEN: usize = 512;

/// What takes the place of a path inside.
#[derive(Debug)]
pub(super) enum Cover {
    /// An empty directory.
    Empty,
    /// Something that cannot be opened.
    Nothing,
    /// Itself, read-only.
    ReadOnly(OwnedFd),
    /// Itself, so that it cannot be renamed.
    Itself(OwnedFd),
}

/// One path inside, and what takes its place.
#[derive(Debug)]
pub(super) struct Covered {
    pub(super) at: String,
    pub(super) by: Cover,
}

impl Covered {
    /// Whether it hides what a sandbox shows there or below, or keeps that as it is.
    fn prevails(&self) -> bool {
        !matches!(self.by, Cover::Itself(_))
    }

    fn depth(&self) -> usize {
        depth(&self.at)
    }
}

/// How far below the root a path is.
pub(super) fn depth(path: &str) -> usize {
    Path::new(path).components().count()
}

/// All covers of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Covers {
    pub(super) all: Vec<Covered>,
    pub(super) placeholders: Vec<Placeholder>,
    /// Where it is written down what is made, before it is.
    record: Option<Arc<Record>>,
    pinned: BTreeSet<String>,
    seen: usize,
}

fn cannot(at: &str, why: &str) -> io::Error {
    io::Error::other(format!("{at}: {why}"))
}

fn open(above: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let here = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(above, name, flags | OFlags::CLOEXEC, Mode::empty(), here)
}

fn kind_of(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

impl Covers {
    /// Those of a job with this directory.
    pub(super) fn of_job(dir: &Path) -> Self {
        Self {
            record: Record::beside(dir).map(Arc::new),
            ..Self::default()
        }
    }

    /// Sorts out who prevails, when everything that is shown is known: each path, and whether it is writable. Covers are
    /// in the order of mounting after that, outermost first.
    ///
    /// What is hidden or protected stays so whatever else is shown there or below: such paths are not shown at all, and
    /// are returned. A directory that is only kept in its place is what is shown there, and no more: to mount it as the
    /// path above has it would take away from what a path in between says.
    pub(super) fn settle(&mut self, shown: &[(String, bool)]) -> Vec<usize> {
        let below = |at: &str, covered: &Covered| Path::new(at).starts_with(&covered.at);
        let is_hidden = |at: &str| self.all.iter().any(|c| c.prevails() && below(at, c));
        let hidden: Vec<usize> = (0..shown.len()).filter(|n| is_hidden(&shown[*n].0)).collect();
        let nearest = |at: &str| {
            let above = shown.iter().enumerate();
            let above = above.filter(|(n, (path, _))| !hidden.contains(n) && Path::new(at).starts_with(path));
            above.max_by_key(|(_, (path, _))| depth(path))
        };
        let empty: Vec<String> = self
            .all
            .iter()
            .filter(|c| matches!(c.by, Cover::Empty))
            .map(|c| c.at.clone())
            .collect();
        let mut seen = BTreeSet::new();
        self.all.sort_by_key(|c| {
            (
                c.depth(),
                c.prevails(),
                matches!(c.by, Cover::Empty | Cover::Nothing),
            )
        });
        self.all.retain(|c| {
            let is_in_empty = empty
                .iter()
                .any(|e| c.at != *e && Path::new(&c.at).starts_with(e));
            let is_of_use = match nearest(&c.at) {
                Some((_, (path, writable))) => c.prevails() || (*writable && *path != c.at),
                None => c.prevails(),
            };
            !is_in_empty && is_of_use && seen.insert((c.at.clone(), c.prevails()))
        });
        hidden
    }

    /// Hides what patterns are about below a path that is shown.
    pub(super) fn hide(&mut self, shown: &str, root: &OwnedFd, patterns: &[String]) -> io::Result<()> {
        if patterns.is_empty() || kind_of(root)? != FileType::Directory {
            return Ok(());
        }
        let mut ahead: Vec<Vec<String>> = vec![Vec::new()];
        while let Some(names) = ahead.pop() {
            let inside = names.join("/");
            let inside = if inside.is_empty() { "." } else { &inside };
            let dir = open(root, inside, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| cannot(&format!("{shown}/{inside}"), &e.to_string()))?;
            for entry in Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                self.seen += 1;
                if self.seen > ENTRIES || names.len() >= DEPTH {
                    return Err(cannot(
                        shown,
                        "it holds too much to look through it for what is denied",
                    ));
                }
                let mut path: Vec<&[u8]> = names.iter().map(|n| n.as_bytes()).collect();
                path.push(name.to_bytes());
                let is_denied = patterns.iter().any(|p| matches(p, &path));
                let kind = entry::kind(&dir, name, entry.file_type())
                    .map_err(|e| cannot(shown, &format!("what {name:?} in it is cannot be told: {e}")))?;
                if !is_denied && kind != FileType::Directory {
                    continue;
                }
                let text = name
                    .to_str()
                    .map_err(|_| cannot(shown, "it holds a name that is no UTF-8"))?;
                let mut names = names.clone();
                names.push(text.to_owned());
                match is_denied {
                    true => self.hide_one(format!("{shown}/{}", names.join("/")), kind)?,
                    false => ahead.push(names),
                }
            }
        }
        Ok(())
    }

    fn hide_one(&mut self, at: String, kind: FileType) -> io::Result<()> {
        let by = match kind {
            FileType::Directory => Cover::Empty,
            FileType::Symlink => {
                return Err(cannot(
                    &at,
                    "it is denied and a link; what it leads to cannot be hidden by its name",
                ));
            }
            _ => Cover::Nothing,
        };
        self.all.push(Covered { at, by });
        if self.all.len() > HIDDEN {
            return Err(cannot("deny", "it is about more than can be hidden"));
        }
        Ok(())
    }

    /// Keeps a name below a path that is shown writable as it is: what it means now, or that it means nothing.
    pub(super) fn protect(&mut self, shown: &str, root: &OwnedFd, path: &str) -> io::Result<()> {
        if kind_of(root)? != FileType::Directory {
            return Ok(());
        }
        let is_directory = path.ends_with('/');
        let names: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let mut above = open(root, ".", OFlags::PATH)?;
        let mut at = shown.to_owned();
        for (n, name) in names.iter().enumerate() {
            at = format!("{at}/{name}");
            let is_last = n + 1 == names.len();
            match open(&above, name, OFlags::PATH) {
                Ok(here) => {
                    let goes_on = !is_last && kind_of(&here)? == FileType::Directory;
                    if !goes_on {
                        let shared = Placeholder::of_another(&above, name, &here);
                        let shared = shared.map_err(|e| cannot(&at, &e.to_string()))?;
                        self.placeholders.extend(shared);
                        let by = Cover::ReadOnly(here);
                        self.all.push(Covered { at, by });
                        return Ok(());
                    }
                    if self.pinned.insert(at.clone()) {
                        let by = Cover::Itself(open(&above, name, OFlags::PATH)?);
                        self.all.push(Covered { at: at.clone(), by });
                    }
                    above = here;
                }
                Err(Errno::NOENT) => return self.keep_absent(above, name, at, !is_last || is_directory),
                Err(Errno::LOOP) => {
                    return Err(cannot(&at, "it is protected and a link, which cannot be held"));
                }
                Err(e) => return Err(cannot(&at, &e.to_string())),
            }
        }
        Ok(())
    }

    /// Makes something with nothing in it that a cover can be mounted on, and takes it away again later.
    fn keep_absent(&mut self, above: OwnedFd, name: &str, at: String, directory: bool) -> io::Result<()> {
        let wrong = |e: Errno| {
            cannot(
                &at,
                &format!("it is protected, and its place cannot be kept: {e}"),
            )
        };
        let record = self.record.clone();
        if let Some(record) = &record {
            record.add(&at, directory)?;
        }
        if directory {
            rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)).map_err(wrong)?;
        } else {
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&above, name, new, Mode::from_raw_mode(0o644)).map_err(wrong)?;
            File::from(file).write_all(placeholder::content(&at))?;
        }
        let made = open(&above, name, OFlags::PATH).map_err(wrong)?;
        self.placeholders
            .push(Placeholder::of_its_own(above, name, directory, record)?);
        let by = Cover::ReadOnly(made);
        self.all.push(Covered { at, by });
        Ok(())
    }

    /// Hides what is the agent's own, by one of its names (`own`), where a path shows it.
    pub(super) fn hide_own(&mut self, shown: &str, writable: bool, own: &Path) -> io::Result<()> {
        if Path::new(shown).starts_with(own) {
            return Err(cannot(
                shown,
                "it is in the agent's own directory, which no job sees",
            ));
        }
        let Ok(inside) = own.strip_prefix(shown) else {
            return Ok(());
        };
        let Some(is_dir) = is_dir_there(own, writable).map_err(|e| cannot(shown, &e.to_string()))? else {
            return Ok(()); // nothing is there
        };
        let text = |p: &Path| {
            p.to_str()
                .map(str::to_owned)
                .ok_or_else(|| cannot(shown, "no UTF-8"))
        };
        let mut at = Path::new(shown).to_owned();
        let names: Vec<_> = inside.components().collect();
        for name in names.iter().take(names.len().saturating_sub(1)) {
            at.push(name);
            let place = text(&at)?;
            if writable && self.pinned.insert(place.clone()) {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let here = rustix::fs::openat2(rustix::fs::CWD, &at, flags, Mode::empty(), no_links)?;
                let by = Cover::Itself(here);
                self.all.push(Covered { at: place, by });
            }
        }
        let by = match is_dir {
            true => Cover::Empty,
            false => Cover::Nothing,
        };
        let at = text(own)?;
        self.all.push(Covered { at, by });
        Ok(())
    }
}

/// Whether the agent's own is a directory; `None` when it is not there. Where a job could make it in its stead, it is made:
/// who comes first says what is in it.
fn is_dir_there(own: &Path, writable: bool) -> io::Result<Option<bool>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let look = || rustix::fs::openat2(rustix::fs::CWD, own, flags, Mode::empty(), no_links);
    match look() {
        Ok(found) => Ok(Some(kind_of(&found)? == FileType::Directory)),
        Err(Errno::NOENT | Errno::NOTDIR) if !writable => Ok(None),
        Err(Errno::NOENT) => {
            let mut made = DirBuilder::new();
            match made.recursive(true).mode(0o711).create(own) {
                Ok(()) => Ok(Some(kind_of(&look()?)? == FileType::Directory)),
                // Nor can a job, which has no rights that the agent has not.
                Err(e) if matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(None),
                Err(e) => Err(e),
            }
        }
        Err(e) => Err(e.into()),
    }
}
