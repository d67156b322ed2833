//! What a container shows of the host, or of a root file system of the store.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::place::Place;
use super::stage::{self, Stage};
use crate::handle::ProcessId;
use crate::linux::covers::{Covers, Placeholder};
use crate::linux::entry;
use crate::linux::kernel::Kernel;
use crate::linux::paths::Paths;
use crate::linux::remove::link_of;
use crate::linux::secret;
use crate::linux::shown::{ETC, How, SHOWN, how};
use crate::linux::supervisor::{Timer, expiry};
use crate::plan::LaunchSpec;

/// A part of the host at its place in the container.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(super) source: Source,
    pub(crate) at: String,
    pub(super) is_dir: bool,
    pub(crate) access: Access,
}

impl Mount {
    /// Where it lies on the host.
    pub(crate) fn source(&self) -> &str {
        let (Source::Path(path) | Source::Held(_, path) | Source::New(_, path)) = &self.source;
        path
    }
}

/// What is shown.
#[derive(Debug)]
pub(super) enum Source {
    /// Root's own.
    Path(String),
    /// What was there when no link was followed on the way; and where the runtime finds it: that path, or where it is laid
    /// out.
    Held(OwnedFd, String),
    /// A file system of the container's own, mounted nowhere yet; and where it is laid out.
    New(OwnedFd, String),
}

/// What of the host may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Using it as a device.
    Device,
}

/// Links and mounts.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Path, target.
    pub(super) links: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    /// `/etc/passwd` and `/etc/group`, where they are those of a root file system.
    pub(super) users: Option<[Vec<u8>; 2]>,
    /// What of that is hidden or stays as it is.
    pub(super) covers: Covers,
    /// The mounts in which it is laid out.
    stage: Option<Stage>,
}

/// Most mounts that an engine is asked for: each is words of its command line.
const MOST_MOUNTS: usize = 1000;

/// What a container has of its own, whatever its root has there.
const OWN: [&str; 5] = ["dev", "proc", "sys", "tmp", "workspace"];

impl Mount {
    /// Something of root's own.
    pub(super) fn of(source: &Path, at: &str, access: Access) -> io::Result<Self> {
        Ok(Self {
            source: Source::Path(source.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned()),
            at: at.to_owned(),
            is_dir: fs::metadata(source)?.is_dir(),
            access,
        })
    }

    /// A file system of the container's own.
    fn new(made: OwnedFd, at: String) -> Self {
        Self {
            source: Source::New(made, String::new()),
            at,
            is_dir: true,
            access: Access::Read,
        }
    }

    fn held(file: OwnedFd, at: String, access: Access) -> io::Result<Self> {
        let path = fs::read_link(link_of(&file))?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Self {
            source: Source::Held(file, path.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned()),
            at,
            is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            access,
        })
    }
}

impl View {
    /// The host's programs alone, in mounts of their own as a job's are.
    pub(crate) fn to_try(kernel: &Kernel) -> io::Result<Self> {
        let mut view = Self::of_host();
        if rustix::process::geteuid().is_root() {
            let place = kernel.place().map(Place::stage)?;
            view.stage = Some(stage::lay_out(&place, &mut view.mounts, &[])?);
        }
        Ok(view)
    }

    /// The host's programs and the little of `/etc` that they need.
    fn of_host() -> Self {
        let mut view = Self::default();
        for path in SHOWN.iter().chain(&ETC) {
            match how(path) {
                Some(How::Link(target)) => view.links.push(((*path).to_owned(), target)),
                // A link that leads nowhere shows nothing.
                Some(How::Mount) => drop(view.mount(path, path, Access::Read)),
                None => {}
            }
        }
        view
    }

    /// What lies at the top of a root file system, each by itself: it has no places for what a container has of its own,
    /// and a runtime would make them.
    fn of_tree(root: &OwnedFd, tree: &Path) -> io::Result<Self> {
        let mut view = Self::default();
        let here = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(root, c".", here, Mode::empty())?;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let wrong = |_| io::Error::other("the root file system has a name at its top that is no UTF-8");
            let name = entry.file_name().to_str().map_err(wrong)?;
            let at = format!("/{name}");
            match entry::kind(&top, entry.file_name(), entry.file_type())? {
                _ if OWN.contains(&name) || matches!(name, "." | "..") => {}
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(root, name, Vec::new())?;
                    view.links
                        .push((at, target.into_string().map_err(io::Error::other)?));
                }
                FileType::Directory | FileType::RegularFile => {
                    view.mounts.push(Mount::of(&tree.join(name), &at, Access::Read)?);
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// The host's programs or a root file system, what the profile names, and the job's own directory. It may take as
    /// long as a file system takes to answer. What is held is laid out in `stage`, and what covers it; `None` when this agent
    /// cannot, and covers are mounted in the container.
    fn of_job(spec: &LaunchSpec, own: &[PathBuf], stage: Option<&Path>) -> io::Result<Self> {
        let paths = Paths::open(spec, own)?;
        let mut view = match (&paths.root, &spec.rootfs) {
            (Some(root), Some(tree)) => Self {
                users: Some(paths.users),
                ..Self::of_tree(root, tree)?
            },
            _ => Self::of_host(),
        };
        for device in &spec.devices {
            view.hold(device)
                .map_err(|e| io::Error::new(e.kind(), format!("{device}: {e}")))?;
        }
        for mount in paths.mounts {
            let access = match mount.is_writable() {
                true => Access::Write,
                false => Access::Read,
            };
            view.mounts.push(Mount::held(mount.from, mount.at, access)?);
        }
        let secrets = secret::files(spec)?;
        let at = spec.secret_dir().to_string_lossy().into_owned();
        view.mounts.extend(secrets.map(|made| Mount::new(made, at)));
        view.covers = paths.covers;
        if let Some(place) = stage {
            view.stage = Some(stage::lay_out(place, &mut view.mounts, &view.covers.all)?);
        }
        Ok(view)
    }

    /// Shows each entry of these directories of a root file system by itself, but for what somebody else mounts there: an
    /// engine that puts files of its own into them would make the places for that in the store.
    pub(crate) fn break_up(&mut self, directories: &[&str], others: &[&str]) -> io::Result<()> {
        if self.users.is_none() {
            return Ok(());
        }
        if let Some((link, _)) = self
            .links
            .iter()
            .find(|(at, _)| directories.contains(&at.as_str()))
        {
            let problem =
                format!("{link} of the root file system is a link, and the engine mounts something there");
            return Err(io::Error::other(problem));
        }
        let is_one =
            |mount: &mut Mount| matches!(mount.source, Source::Path(_)) && directories.contains(&&*mount.at);
        let whole: Vec<_> = self.mounts.extract_if(.., is_one).collect();
        for Mount { source, at, .. } in whole {
            let (Source::Path(dir) | Source::Held(_, dir) | Source::New(_, dir)) = source;
            self.show_each(Path::new(&dir), &at, others)?;
        }
        match self.mounts.len() {
            0..=MOST_MOUNTS => Ok(()),
            n => Err(io::Error::other(format!(
                "{n} mounts are more than an engine is asked for"
            ))),
        }
    }

    /// Without what something else is mounted on as a whole, for an engine that takes only one for each place.
    pub(crate) fn leave_out_covered(&mut self) {
        let places: Vec<String> = self.mounts.iter().map(|mount| mount.at.clone()).collect();
        let mut n = 0;
        self.mounts.retain(|mount| {
            n += 1;
            !places[n..].contains(&mount.at)
        });
    }

    fn show_each(&mut self, dir: &Path, above: &str, others: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let wrong = |_| io::Error::other("the root file system has a name that is no UTF-8");
            let at = format!("{above}/{}", entry.file_name().into_string().map_err(wrong)?);
            let kind = entry.file_type()?;
            if others.contains(&at.as_str()) {
                continue;
            }
            if kind.is_symlink() {
                let target = fs::read_link(entry.path())?.into_os_string().into_string();
                self.links.push((at, target.map_err(wrong)?));
            } else if kind.is_dir() || kind.is_file() {
                self.mounts.push(Mount::of(&entry.path(), &at, Access::Read)?);
            }
        }
        Ok(())
    }

    /// The same on a thread that may wait, and within the time that a start may take.
    pub(crate) async fn open(kernel: &Kernel, spec: &LaunchSpec) -> io::Result<Self> {
        let bound = Timer::after(kernel.zygote.bound);
        let (asked, threads, own) = (spec.clone(), kernel.openers.clone(), kernel.own()?);
        let is_root = rustix::process::geteuid().is_root();
        let stage: Option<PathBuf> = is_root.then(|| kernel.place().map(Place::stage)).transpose()?;
        let open = async move {
            // A thread that hangs keeps its place, so that there are never more of them than there are places.
            let place = threads.acquire_owned().await;
            let open = move || {
                let _place = place;
                Self::of_job(&asked, &own, stage.as_deref())
            };
            tokio::task::spawn_blocking(open).await
        };
        tokio::select! {
            opened = open => opened.map_err(io::Error::other).flatten(),
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Puts what is the host's own below `/etc` right into the container's root, where places for it are: a runtime that
    /// serves each mount by itself has one for all of it.
    pub(crate) fn settle(&mut self, root: &Path) -> io::Result<()> {
        let Some(stage) = &self.stage else {
            return Ok(());
        };
        let is_usual = |m: &Mount| matches!(m.source, Source::Path(_)) && m.at.starts_with("/etc/");
        let (settled, others) = std::mem::take(&mut self.mounts).into_iter().partition(is_usual);
        self.mounts = others;
        stage::settle(stage.mounts.as_fd(), root, &settled)
    }

    /// The mounts that a runtime is to be started in.
    pub(crate) fn stage(&self) -> Option<BorrowedFd<'_>> {
        self.stage.as_ref().map(|stage| stage.mounts.as_fd())
    }

    /// All that is mounted there.
    pub(super) fn laid_out(&self) -> Option<&str> {
        self.stage.as_ref().map(|stage| stage.table.as_str())
    }

    /// What was made of the host's to mount something on; it goes with these.
    pub(crate) fn placeholders(&mut self) -> Vec<Placeholder> {
        std::mem::take(&mut self.covers.placeholders)
    }

    /// Shows something of the agent's own.
    pub(crate) fn add(&mut self, source: &Path, at: &str, access: Access) -> io::Result<()> {
        self.mounts.push(Mount::of(source, at, access)?);
        Ok(())
    }

    /// Whether a container shows all of it, and as it should: what a runtime has looked up again by its path is what was
    /// found before, and nothing can be written to or used that must not be.
    ///
    /// # Errors
    /// Says of what that is not so.
    pub(crate) fn is_shown_by(&self, init: ProcessId) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{}/root", init.pid), flags, Mode::empty())?;
        let has = |fd: &OwnedFd, wanted| Ok::<_, Errno>(rustix::fs::fstatvfs(fd)?.f_flag.contains(wanted));
        if !has(&root, StatVfsMountFlags::RDONLY)? {
            return Err(io::Error::other("the container's root can be written to"));
        }
        for mount in &self.mounts {
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let at = rustix::fs::openat2(&root, &mount.at, flags, Mode::empty(), inside)?;
            let inert = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
            let wanted = match mount.access {
                Access::Read => StatVfsMountFlags::RDONLY | inert,
                Access::Write => inert,
                Access::Device => StatVfsMountFlags::empty(),
            };
            if !has(&at, wanted)? {
                let problem = format!(
                    "{}: the runtime shows it with more rights than it may have",
                    mount.at
                );
                return Err(io::Error::other(problem));
            }
            if let Source::Held(held, _) | Source::New(held, _) = &mount.source
                && place_of(held)? != place_of(&at)?
            {
                let problem = format!("{}: something else was put in its place meanwhile", mount.at);
                return Err(io::Error::other(problem));
            }
        }
        self.has_its_covers(&root)
    }

    /// What must not be done with what is shown and all that is mounted below, by the kernel's words for it.
    pub(crate) fn tightened(&self) -> io::Result<Vec<(CString, u64)>> {
        let inert = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        let held = self.mounts.iter().map(|mount| {
            let attributes = match mount.access {
                Access::Read => libc::MOUNT_ATTR_RDONLY | inert,
                Access::Write => inert,
                Access::Device => libc::MOUNT_ATTR_NOSUID,
            };
            Ok((CString::new(mount.at.as_str())?, attributes))
        });
        held.collect()
    }

    fn mount(&mut self, source: &str, at: &str, access: Access) -> io::Result<()> {
        self.mounts.push(Mount::of(Path::new(source), at, access)?);
        Ok(())
    }

    /// A device of the host.
    fn hold(&mut self, path: &str) -> io::Result<()> {
        let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let held = rustix::fs::openat2(CWD, path, flags, Mode::empty(), no_links)?;
        self.mounts
            .push(Mount::held(held, path.to_owned(), Access::Device)?);
        Ok(())
    }
}

/// Device and inode.
pub(super) fn place_of(file: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}
