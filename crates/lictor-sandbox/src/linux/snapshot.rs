//! Snapshots of what a kept sandbox holds: copies beside it, whole or not at all.
//!
//! ```text
//!   KEY/snapshots/.new  --copied--> KEY/snapshots/NAME
//!   KEY/.restored       --copied--> KEY/workspace, in one step, and what that was is removed
//! ```
//!
//! # Invariants
//! - Nothing is copied while a process of the job lives, and the lock on the sandbox is held until the copy is in place.
//! - Every step names an entry of a directory that is held open, and no link is followed.
//! - What gets its name is on the disk already: a copy that a power loss could cut short never takes another's place.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lictor_proto::Name;
use lictor_proto::doc::GitCommit;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::job::Job;
use super::remove::remove_dir;
use crate::backend::Snapshot;

/// Directories in directories that are copied.
const DEPTH: u32 = 200;
/// Bytes of the disk that copies leave free.
const RESERVE: u64 = 256 << 20;
/// Snapshots of one sandbox.
const SNAPSHOTS: usize = 16;

/// How much one copy may be.
#[derive(Debug, Clone, Copy)]
struct Budget {
    entries: u64,
    bytes: u64,
}

const MOST: Budget = Budget {
    entries: 1_000_000,
    bytes: 64 << 30,
};

impl Budget {
    fn take(&mut self, stat: &Stat) -> io::Result<()> {
        let too_much = || io::Error::new(io::ErrorKind::QuotaExceeded, "more than a snapshot may hold");
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let bytes = if is_file { stat.st_size } else { 0 };
        self.entries = self.entries.checked_sub(1).ok_or_else(too_much)?;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_much)?;
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Job {
    async fn snapshot(&self, name: &Name) -> io::Result<()> {
        let name = name.clone();
        self.with_kept(move |dir| save(dir, &name)).await
    }

    async fn restore(&self, name: &Name) -> io::Result<()> {
        if !self.has_started() {
            // Its place shows what there is now.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let name = name.clone();
        self.with_kept(move |dir| load(dir, &name)).await
    }

    async fn remove(&self) -> io::Result<()> {
        if !self.has_started() || !self.is_still() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let claim = self.plan.claimed().ok_or(io::ErrorKind::Unsupported)?;
        let aside = claim.give_up()?;
        let removed = tokio::task::spawn_blocking(move || remove_dir(&aside));
        removed.await.map_err(io::Error::other)?
    }

    async fn clear(&self) -> io::Result<()> {
        let claim = self.plan.claimed().ok_or(io::ErrorKind::Unsupported)?;
        if !claim.was_empty() {
            return Ok(());
        }
        self.with_kept(empty).await
    }

    fn cloned(&self, git: &GitCommit) {
        if let Some(claim) = self.plan.claimed() {
            claim.cloned(git);
        }
    }
}

impl Job {
    /// Snapshots, of a job that works in a kept sandbox.
    pub(super) fn snapshots(&self) -> Option<&dyn Snapshot> {
        self.plan.claimed().map(|_| self as &dyn Snapshot)
    }

    /// Whether no process of it lives.
    fn is_still(&self) -> bool {
        !self.tree().is_ok_and(|t| !t.processes().is_empty())
    }

    async fn with_kept(&self, work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let claim = self.plan.claimed().ok_or(io::ErrorKind::Unsupported)?;
        if !self.is_still() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let (dir, lock): (PathBuf, _) = claim.share();
        let done = tokio::task::spawn_blocking(move || {
            // Whoever asked may go; nobody else has the sandbox before this is done.
            let _lock = lock;
            work(&dir)
        });
        done.await.map_err(io::Error::other)?
    }
}

/// Makes a snapshot of a kept sandbox whose lock the caller holds.
pub(super) fn save(sandbox: &Path, name: &Name) -> io::Result<()> {
    let all = sandbox.join("snapshots");
    if let Err(e) = private(&all)
        && e.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(e);
    }
    if names(sandbox).iter().filter(|other| *other != name).count() >= SNAPSHOTS {
        let why = format!("there are {SNAPSHOTS} snapshots already; make this one under the name of another");
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
    }
    replace(
        &sandbox.join("workspace"),
        &all.join(".new"),
        &all.join(name.as_str()),
    )
}

/// Puts one in the place of what such a sandbox holds.
pub(super) fn load(sandbox: &Path, name: &Name) -> io::Result<()> {
    let from = sandbox.join("snapshots").join(name.as_str());
    replace(&from, &sandbox.join(".restored"), &sandbox.join("workspace"))
}

/// Takes away all that it holds.
fn empty(sandbox: &Path) -> io::Result<()> {
    let (new, workspace) = (sandbox.join(".restored"), sandbox.join("workspace"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    remove_dir(&new)?;
    private(&new)?;
    let was = rustix::fs::open(&workspace, flags, Mode::empty())?;
    dress(
        &rustix::fs::open(&new, flags, Mode::empty())?,
        &rustix::fs::fstat(&was)?,
    )?;
    rustix::fs::renameat_with(CWD, &new, CWD, &workspace, RenameFlags::EXCHANGE)?;
    remove_dir(&new)
}

/// A directory that nobody else gets into.
fn private(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)
}

/// The snapshots of a kept sandbox.
pub(super) fn names(sandbox: &Path) -> Vec<Name> {
    let entries = std::fs::read_dir(sandbox.join("snapshots"));
    let names = entries.into_iter().flatten().flatten();
    let mut names: Vec<Name> = names
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}

/// Puts a copy of `from` in the place of `to`, by way of `new`.
fn replace(from: &Path, new: &Path, to: &Path) -> io::Result<()> {
    remove_dir(new)?;
    let made = copy(from, new, MOST).and_then(|()| {
        if to.exists() {
            rustix::fs::renameat_with(CWD, new, CWD, to, RenameFlags::EXCHANGE)?;
            return Ok(());
        }
        std::fs::rename(new, to)
    });
    // What was there before, or what was copied of it.
    remove_dir(new).and(made)
}

fn copy(from: &Path, to: &Path, budget: Budget) -> io::Result<()> {
    let mut budget = budget;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::open(from, flags, Mode::empty())?;
    // Until it is complete nobody else sees it, whoever its entries belong to.
    private(to)?;
    let to = rustix::fs::open(to, flags, Mode::empty())?;
    copy_directory(&from, &to, &mut budget, DEPTH)?;
    dress(&to, &rustix::fs::fstat(&from)?)?;
    Ok(rustix::fs::syncfs(&to)?)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, budget: &mut Budget, depth: u32) -> io::Result<()> {
    let depth = depth.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        budget.take(&stat)?;
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = read | OFlags::DIRECTORY;
                let inner = rustix::fs::openat(from, name, flags, Mode::empty())?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_directory(&inner, &made, budget, depth)?;
                dress(&made, &stat)?;
            }
            FileType::RegularFile => {
                let source = rustix::fs::openat(from, name, read, Mode::empty())?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?;
                // Where the file system shares blocks nothing is read.
                if rustix::fs::ioctl_ficlone(&made, &source).is_err() {
                    copy_file(source, &made, &stat)?;
                }
                dress(&made, &stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
                let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Sockets and pipes are somebody's who is gone.
            _ => {}
        }
    }
    Ok(())
}

/// What is in a file. Holes stay holes: a file of a job may say that it is larger than its file system.
fn copy_file(source: OwnedFd, made: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).map_err(io::Error::other)?;
    rustix::fs::ftruncate(made, size)?;
    let mut reads = File::from(source);
    let mut writes = File::from(made.try_clone()?);
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&reads, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(&reads, SeekFrom::Hole(data))?;
        has_room(made, end.saturating_sub(data))?;
        io::Seek::seek(&mut reads, io::SeekFrom::Start(data))?;
        io::Seek::seek(&mut writes, io::SeekFrom::Start(data))?;
        io::copy(&mut io::Read::take(&mut reads, end - data), &mut writes)?;
        at = end;
    }
    Ok(())
}

/// Whether so much fits, and leaves to others what they need: [`RESERVE`], or a tenth of a small file system.
fn has_room(on: &OwnedFd, bytes: u64) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(on)?;
    let reserve = RESERVE.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 10);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match free >= bytes.saturating_add(reserve) {
        true => Ok(()),
        false => Err(io::ErrorKind::StorageFull.into()),
    }
}

/// Owner, mode and times.
fn dress(made: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(made, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    Ok(rustix::fs::futimens(made, &times)?)
}

#[cfg(test)]
mod tests {
    use super::{Budget, MOST, copy, empty, load, names, save};

    #[test]
    fn holes_stay_holes_and_nobody_else_gets_to_the_copies() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let place = tempfile::tempdir().expect("a directory");
        let work = place.path().join("workspace");
        std::fs::create_dir(&work).expect("made");
        let sparse = std::fs::File::create(work.join("sparse")).expect("made");
        sparse.set_len(8 << 30).expect("a hole");
        sparse.write_all_at(b"in the middle", 1 << 30).expect("written");
        drop(sparse);
        save(place.path(), &"one".parse().expect("a name")).expect("saved");
        let all = place.path().join("snapshots");
        assert_eq!(all.metadata().expect("there").mode() & 0o777, 0o700);
        let copy = std::fs::File::open(all.join("one/sparse")).expect("there");
        let mut text = [0; 13];
        copy.read_exact_at(&mut text, 1 << 30).expect("readable");
        assert_eq!(&text, b"in the middle");
        let meta = copy.metadata().expect("there");
        assert_eq!(meta.len(), 8 << 30);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    }

    #[test]
    fn what_a_clone_has_left_goes_and_the_place_stays_as_it_was() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let place = tempfile::tempdir().expect("a directory");
        let work = place.path().join("workspace");
        std::fs::create_dir_all(work.join(".git/objects")).expect("made");
        std::fs::write(work.join("half"), "of it").expect("written");
        std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o750)).expect("mode");
        empty(place.path()).expect("emptied");
        assert_eq!(std::fs::read_dir(&work).expect("there").count(), 0);
        assert_eq!(work.metadata().expect("there").mode() & 0o777, 0o750);
        assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 1);
    }

    #[test]
    fn copy_has_what_the_tree_has_and_ends_at_its_budget() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
        let place = tempfile::tempdir().expect("a directory");
        let from = place.path().join("from");
        std::fs::create_dir_all(from.join("a/b")).expect("made");
        std::fs::write(from.join("a/b/c"), "twelve bytes").expect("written");
        std::fs::set_permissions(from.join("a/b/c"), PermissionsExt::from_mode(0o640)).expect("mode");
        symlink("/nowhere", from.join("link")).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), rustix::fs::Mode::RUSR).expect("made");
        let to = place.path().join("to");
        copy(&from, &to, MOST).expect("copied");
        let file = to.join("a/b/c");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "twelve bytes");
        let (was, is) = (from.join("a/b/c").metadata(), file.metadata());
        let (was, is) = (was.expect("there"), is.expect("there"));
        assert_eq!(
            (was.mode(), was.mtime(), was.uid()),
            (is.mode(), is.mtime(), is.uid())
        );
        assert_eq!(
            std::fs::read_link(to.join("link")).expect("a link").to_str(),
            Some("/nowhere")
        );
        assert!(!to.join("pipe").exists());
        for (n, small) in [Budget { entries: 4, ..MOST }, Budget { bytes: 11, ..MOST }]
            .into_iter()
            .enumerate()
        {
            let error = copy(&from, &place.path().join(n.to_string()), small).expect_err("too much");
            assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
        }
    }

    #[test]
    fn full_disk_in_the_middle_of_a_copy_leaves_everything_as_it_was() {
        if !rustix::process::geteuid().is_root() {
            // A file system of a size takes root.
            return;
        }
        let disk = crate::linux::quota::make(1 << 20, 100).expect("a small disk");
        let sandbox = crate::linux::remove::link_of(&disk);
        let sandbox = std::path::Path::new(sandbox.as_str());
        let work = sandbox.join("workspace");
        std::fs::create_dir(&work).expect("made");
        let first = "first".parse().expect("a name");
        let write = |name: &str, bytes: usize| std::fs::write(work.join(name), vec![b'x'; bytes]);
        write("a", 100_000).expect("written");
        save(sandbox, &first).expect("there is room for it");
        write("b", 500_000).expect("written");
        let error = save(sandbox, &"second".parse().expect("a name")).expect_err("no room for all of it");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(names(sandbox), std::slice::from_ref(&first));
        // Nothing of it takes up room: as much can be written as before.
        let other = sandbox.join("other");
        let left = vec![b'y'; 300_000];
        std::fs::write(&other, &left).expect("what was copied is gone again");
        let error = load(sandbox, &first).expect_err("no room for that either");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        let size = |name: &str| work.join(name).metadata().expect("there").len();
        assert_eq!((size("a"), size("b")), (100_000, 500_000), "what was there");
        std::fs::remove_file(other).expect("removed");
        load(sandbox, &first).expect("restored");
        assert!(!work.join("b").exists());
        let mut left = std::fs::read_dir(sandbox).expect("readable").flatten();
        assert!(left.all(|e| !e.file_name().as_encoded_bytes().starts_with(b".")));
    }
}
