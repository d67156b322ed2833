//! What is hidden or stays as it is in a container. Where it could not be laid out before (a stage takes root), or an engine shows
//! nothing of what is mounted below a path, it is mounted from inside, when the container stands and before anything of the job is
//! in it. However it came there, it is looked at from outside.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxAttributes, StatxFlags,
};

use super::view::{View, place_of};
use crate::linux::covers::{Cover, Covered, Covers};
use crate::linux::spawn::LaunchCover;
use crate::linux::table::Over;

/// The null device: on a mount without devices it cannot be opened.
const NULL: (u32, u32) = (1, 3);
const TMPFS_MAGIC: i64 = 0x0102_1994;

impl View {
    /// What is to be mounted inside, outermost first.
    ///
    /// # Errors
    /// When what stays as it is cannot be told from something else.
    pub(crate) fn covers_inside(&self) -> io::Result<Vec<LaunchCover>> {
        self.covers.all.iter().map(launched).collect()
    }

    /// Refuses what was not laid out, for engines that show it as it lies.
    ///
    /// # Errors
    /// When there is something to cover.
    pub(super) fn is_covered(&self) -> io::Result<()> {
        match self.stage().is_some() || self.covers.all.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other(
                "what is hidden in it takes a root agent, or podman",
            )),
        }
    }

    /// Whether each of these lies where it is to lie in a container with this root.
    ///
    /// # Errors
    /// Says of what that is not so.
    pub(super) fn has_its_covers(&self, root: &OwnedFd) -> io::Result<()> {
        // An inner one of two at the same place is seen no more.
        let all = self.covers.all.iter().enumerate();
        let seen = all.filter(|(n, covered)| self.covers.all[n + 1..].iter().all(|c| c.at != covered.at));
        for (_, covered) in seen {
            let problem = |why: String| io::Error::other(format!("{}: {why}", covered.at));
            let is_so = lies(root, covered).map_err(|e| problem(e.to_string()))?;
            if !is_so {
                return Err(problem("it is not hidden or held as it should be".to_owned()));
            }
        }
        Ok(())
    }

    /// With one cover of each kind over what every host has and no first process needs, to see whether they can be made.
    ///
    /// # Errors
    /// When this host has it not.
    pub(crate) fn with_covers_to_try(mut self) -> io::Result<Self> {
        let library = "/usr/lib";
        let held = || rustix::fs::openat(CWD, library, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let over = |at: &str, by: Cover| Covered {
            at: at.to_owned(),
            by,
        };
        let mut covers = Covers::default();
        covers.all = vec![
            over("/usr/bin", Cover::Empty),
            over("/etc/passwd", Cover::Nothing),
            over(library, Cover::Itself(held()?)),
            over(library, Cover::ReadOnly(held()?)),
        ];
        self.covers = covers;
        Ok(self)
    }
}

fn launched(covered: &Covered) -> io::Result<LaunchCover> {
    let (over, place) = match &covered.by {
        Cover::Empty => (Over::Empty, (0, 0)),
        Cover::Nothing => (Over::Nothing, (0, 0)),
        Cover::ReadOnly(held) => (Over::ReadOnly, place_of(held)?),
        Cover::Itself(held) => (Over::Itself, place_of(held)?),
    };
    let at = CString::new(covered.at.as_str())?;
    Ok(LaunchCover { at, over, place })
}

/// Whether what is seen at its place is a mount of what is to be there.
fn lies(root: &OwnedFd, covered: &Covered) -> io::Result<bool> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let at = rustix::fs::openat2(root, covered.at.as_str(), flags, Mode::empty(), inside)?;
    let has = rustix::fs::fstatvfs(&at)?.f_flag;
    let sealed = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    let is_mounted = is_a_mount(&at)?;
    Ok(is_mounted
        && match &covered.by {
            Cover::Empty => has.contains(sealed) && is_empty_memory(&at)?,
            Cover::Nothing => has.contains(sealed) && (is_null(&at)? || is_closed(&at)?),
            Cover::ReadOnly(held) => has.contains(sealed) && place_of(held)? == place_of(&at)?,
            Cover::Itself(held) => place_of(held)? == place_of(&at)?,
        })
}

/// Whether it is where a mount begins, and not only something in one.
fn is_a_mount(at: &OwnedFd) -> io::Result<bool> {
    let found = rustix::fs::statx(at, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let begins = StatxAttributes::MOUNT_ROOT;
    Ok(found.stx_attributes_mask.contains(begins) && found.stx_attributes.contains(begins))
}

fn is_empty_memory(at: &OwnedFd) -> io::Result<bool> {
    if rustix::fs::fstatfs(at)?.f_type as i64 != TMPFS_MAGIC {
        return Ok(false);
    }
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(rustix::fs::openat(at, c".", directory, Mode::empty())?)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether it is the stage's file that nobody can open.
fn is_closed(at: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(at)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let is_empty = stat.st_size == 0 && stat.st_mode & 0o7777 == 0 && stat.st_uid == 0;
    Ok(is_file && is_empty && rustix::fs::fstatfs(at)?.f_type as i64 == TMPFS_MAGIC)
}

fn is_null(at: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(at)?;
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && number == NULL)
}
