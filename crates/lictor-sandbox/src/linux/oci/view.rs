//! What a container shows of the host.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::handle::ProcessId;
use crate::linux::kernel::Kernel;
use crate::linux::shown::{ETC, How, SHOWN, how};
use crate::linux::supervisor::{Timer, expiry};
use crate::plan::LaunchSpec;

/// A part of the host at its place in the container.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(super) source: Source,
    pub(super) at: String,
    pub(super) is_dir: bool,
    pub(super) access: Access,
}

/// What is shown.
#[derive(Debug)]
pub(super) enum Source {
    /// Root's own.
    Path(String),
    /// What was there when no link was followed on the way, and that path.
    Held(OwnedFd, String),
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
    pub(super) mounts: Vec<Mount>,
}

impl View {
    /// The host's programs and the little of `/etc` that they need.
    pub(crate) fn of_host() -> Self {
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

    /// That, what the profile names, and the job's own directory. It may take as long as a file system takes to answer.
    fn of_job(spec: &LaunchSpec) -> io::Result<Self> {
        let mut view = Self::of_host();
        let mut named: Vec<(&String, Access)> = Vec::new();
        named.extend(spec.read_only.iter().map(|p| (p, Access::Read)));
        named.extend(spec.read_write.iter().map(|p| (p, Access::Write)));
        // What lies in another one is mounted after it, which would cover it.
        named.sort_by_key(|(path, _)| Path::new(path).components().count());
        let devices = spec.devices.iter().map(|p| (p, Access::Device));
        for (path, access) in devices.chain(named) {
            view.hold(path, path, access)
                .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
        }
        let dir = spec.workspace();
        let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let real = above.canonicalize()?.join(name);
        let real = real.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        view.hold(real, "/workspace", Access::Write)?;
        Ok(view)
    }

    /// The same on a thread that may wait, and within the time that a start may take.
    pub(crate) async fn open(kernel: &Kernel, spec: &LaunchSpec) -> io::Result<Self> {
        let bound = Timer::after(kernel.zygote.bound);
        let (asked, threads) = (spec.clone(), kernel.openers.clone());
        let open = async move {
            // A thread that hangs keeps its place, so that there are never more of them than there are places.
            let place = threads.acquire_owned().await;
            let open = move || {
                let _place = place;
                Self::of_job(&asked)
            };
            tokio::task::spawn_blocking(open).await
        };
        tokio::select! {
            opened = open => opened.map_err(io::Error::other).flatten(),
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Shows something of the agent's own.
    pub(crate) fn add(&mut self, source: &Path, at: &str, access: Access) -> io::Result<()> {
        let source = source.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        self.mount(source, at, access)
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
            if let Source::Held(held, path) = &mount.source
                && place_of(held)? != place_of(&at)?
            {
                let problem = format!("{path}: something else was put in its place meanwhile");
                return Err(io::Error::other(problem));
            }
        }
        Ok(())
    }

    /// Whether nobody but root can put something else in the place of what is shown.
    ///
    /// # Errors
    /// Says of what somebody else can.
    pub(crate) fn is_roots(&self) -> io::Result<()> {
        for mount in &self.mounts {
            if let Source::Held(_, path) = &mount.source {
                for above in Path::new(path).ancestors().skip(1) {
                    let meta = fs::symlink_metadata(above)?;
                    let sticky = meta.mode() & libc::S_ISVTX != 0;
                    if meta.uid() != 0 || (meta.mode() & 0o022 != 0 && !sticky) {
                        let problem = format!("{path}: others than root can put something else in its place");
                        return Err(io::Error::other(problem));
                    }
                }
            }
        }
        Ok(())
    }

    fn mount(&mut self, source: &str, at: &str, access: Access) -> io::Result<()> {
        let is_dir = fs::metadata(source)?.is_dir();
        self.mounts.push(Mount {
            source: Source::Path(source.to_owned()),
            at: at.to_owned(),
            is_dir,
            access,
        });
        Ok(())
    }

    fn hold(&mut self, source: &str, at: &str, access: Access) -> io::Result<()> {
        let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let held = match rustix::fs::openat2(CWD, source, flags, Mode::empty(), no_links) {
            Err(Errno::LOOP) => {
                let problem =
                    "a link leads there, and links are not followed; name the real path in the profile";
                return Err(io::Error::other(problem));
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&held)?;
        self.mounts.push(Mount {
            source: Source::Held(held, source.to_owned()),
            at: at.to_owned(),
            is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            access,
        });
        Ok(())
    }
}

/// Device and inode.
fn place_of(file: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}
