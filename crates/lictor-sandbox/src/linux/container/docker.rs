//! Containers made by a Docker daemon, which is asked from outside this crate.
//!
//! ```text
//!   agent -> daemon: a container of nothing that shows one directory of the bundle, with our first process
//!         -> that process, nobody's child here: waits at a FIFO of the bundle, which only the agent holds open
//!         -> looked at from outside; then the agent gives it its root (see `oci::root`), and its job users of its own
//! ```
//!
//! The daemon is told nothing of what a job sees and is trusted with nothing of it: it gives namespaces and a `/proc`. Its
//! containers have the host's users, so each job gets a user namespace of its own.
//!
//! # Invariants
//! - A process is taken for the first one only if it runs the very file of this bundle: a daemon in other namespaces, or
//!   one that lies, names somebody else.
//! - The daemon is not needed to end anything: the first process ends with the agent, or is killed by it.
//! - A container whose bundle is gone is one that nobody has. Each start removes such ones when there may be any.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lictor_proto::Digest;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::first::{self, By, First};
use crate::backend::StartError;
use crate::engine::{ContainerDaemon, Wanted};
use crate::handle::ProcessId;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{self, Bundle, INIT, Ids, NewRoot, View};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::{facts, idmap, process, ready};

mod looked_at;

/// What the first process is started as.
const FIRST: [&str; 4] = ["/.lictor/init", "hold", "/.lictor/hold", "/.lictor/told"];
/// How long a daemon may take to remove a container whose process has ended; nothing waits for that but tidiness.
const REMOVAL: Duration = Duration::from_secs(10);

/// A daemon that makes containers.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    daemon: Arc<dyn ContainerDaemon>,
    /// Whether it may have containers that nobody has: of earlier agents, or of starts that were given up.
    untidy: Arc<AtomicBool>,
}

/// What is to be remembered of a container of a daemon's.
#[derive(Debug)]
pub(super) struct InDocker {
    docker: Docker,
    name: String,
    /// The job's users.
    pub(super) users: OwnedFd,
}

impl Docker {
    pub(super) fn by(daemon: Arc<dyn ContainerDaemon>) -> Self {
        Self {
            daemon,
            untidy: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Has a container made, and gives it its root.
    pub(super) async fn start(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        (ids, view): (Ids, &View),
    ) -> Result<First, StartError> {
        let failed = StartError::failed;
        let mounts = bundle.lay(view).map_err(failed("write the bundle"))?;
        let own = Own::lay(bundle, ids.root).map_err(failed("write the bundle"))?;
        let wanted = wanted(kernel, bundle, ids).map_err(failed("write the bundle"))?;
        let root = NewRoot::of(bundle, view, &mounts).map_err(failed("make the container"))?;
        let mut asked = Asked(Some(self));
        let made = async {
            self.tidy(kernel).await;
            let (id, fd) = own.first_process(&*self.daemon, &wanted, ids.root).await?;
            let users = own.make_ready(kernel, (ids, root), &fd).await?;
            Ok((id, fd, users))
        };
        let made = within(kernel.zygote.bound, made).await;
        let (id, fd, users) = made.map_err(failed("make the container"))?;
        asked.is_had();
        Ok(First {
            id,
            fd,
            _hold: own.hold,
            keeper: None,
            by: By::Docker(InDocker {
                docker: self.clone(),
                name: wanted.name,
                users,
            }),
        })
    }

    /// Removes what nobody has. A daemon that does not do so is asked again the next time.
    async fn tidy(&self, kernel: &Kernel) {
        if !self.untidy.swap(false, Ordering::AcqRel) {
            return;
        }
        let node = node(kernel);
        let all = async {
            for left in self.daemon.left(&node).await? {
                if left.bundle.starts_with(&kernel.config.runtime_dir) && !left.bundle.exists() {
                    self.daemon.remove(&left.name).await?;
                }
            }
            Ok(())
        };
        if let Err(error) = within(REMOVAL, all).await {
            self.untidy.store(true, Ordering::Release);
            tracing::warn!(%error, "containers that nobody has may be left at the daemon");
        }
    }
}

impl InDocker {
    /// Has the daemon remove it, whose first process was killed.
    pub(super) async fn end(&self, kernel: &Kernel, first: &OwnedFd) -> io::Result<()> {
        let ended = ready::watch(first.try_clone()?)?;
        within(kernel.zygote.kill_bound(), async {
            ended.readable().await.map(drop)
        })
        .await?;
        // Nothing of it runs any more, so a daemon that does not answer keeps nobody waiting.
        if let Err(error) = within(REMOVAL, self.docker.daemon.remove(&self.name)).await {
            self.docker.untidy.store(true, Ordering::Release);
            tracing::warn!(%error, "a container that has ended may be left at the daemon");
        }
        Ok(())
    }
}

/// That there may be a container that nobody has.
struct Asked<'a>(Option<&'a Docker>);

impl Asked<'_> {
    fn is_had(&mut self) {
        self.0 = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(docker) = self.0 {
            docker.untidy.store(true, Ordering::Release);
        }
    }
}

async fn within<T>(bound: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let bound = Timer::after(bound);
    tokio::select! {
        done = what => done,
        () = expiry(&bound) => Err(io::Error::new(io::ErrorKind::TimedOut, "it takes longer than it may")),
    }
}

fn wanted(kernel: &Kernel, bundle: &Bundle, ids: Ids) -> io::Result<Wanted> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or(io::ErrorKind::InvalidInput)
    };
    let own = process::identify(std::process::id()).ok_or(io::ErrorKind::NotFound)?;
    Ok(Wanted {
        name: bundle.id().to_owned(),
        node: node(kernel),
        agent: format!("{}.{}", own.pid, own.start),
        bundle: text(bundle.dir())?,
        own: text(&bundle.dir().join(OWN))?,
        at: oci::PLACE.to_owned(),
        first: FIRST.map(str::to_owned).to_vec(),
        user: (ids.root, ids.root),
    })
}

/// Which agent's a container is, whatever process that is at the moment: somebody in another pid namespace, or with
/// another directory, has bundles that cannot be seen from here.
fn node(kernel: &Kernel) -> String {
    let pids = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let words = [
        facts::fingerprint().to_string().into_bytes(),
        pids.into_os_string().into_encoded_bytes(),
        kernel.config.runtime_dir.as_os_str().as_encoded_bytes().to_vec(),
    ];
    Digest::of(&words.join(&0)).to_string()
}

/// A user namespace with the two users of a container.
fn users_of_its_own(ids: Ids) -> io::Result<OwnedFd> {
    let map = |user: u32| format!("0 {} 1\n1000 {user} 1\n", ids.root);
    idmap::mapped(&map(ids.user.0), &map(ids.user.1))
}

/// The directory of the bundle that the container shows until it has its root.
const OWN: &str = "own";

/// What the first process needs. No job ever sees it.
struct Own {
    program: OwnedFd,
    hold: OwnedFd,
    told: OwnedFd,
}

impl Own {
    fn lay(bundle: &Bundle, root: u32) -> io::Result<Self> {
        let dir = bundle.dir().join(OWN);
        fs::DirBuilder::new().mode(0o755).create(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        let path = dir.join("init");
        let mut options = OpenOptions::new();
        let mut program = options.write(true).create_new(true).mode(0o755).open(&path)?;
        program.set_permissions(Permissions::from_mode(0o755))?;
        program.write_all(INIT.ok_or(io::ErrorKind::Unsupported)?)?;
        // What is open for writing cannot be run.
        drop(program);
        let fifo = |name: &str| {
            let path = dir.join(name);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            // For both, so that it neither waits for the other side nor ends before there was one.
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty())?;
            chown(&path, Some(root), Some(root))?;
            Ok::<_, io::Error>(opened)
        };
        let (hold, told) = (fifo("hold")?, fifo("told")?);
        Ok(Self {
            program: File::open(&path)?.into(),
            hold,
            told,
        })
    }

    /// Asks for it and waits until it runs; that it is the one that the daemon names, and what it should be.
    async fn first_process(
        &self,
        daemon: &dyn ContainerDaemon,
        wanted: &Wanted,
        root: u32,
    ) -> io::Result<(ProcessId, OwnedFd)> {
        let pid = daemon.start(wanted).await?;
        let id = process::identify(pid).ok_or_else(strange)?;
        let fd = process::open(id).map_err(|_| strange())?;
        let ended = ready::watch(fd.try_clone()?)?;
        tokio::select! {
            heard = first::heard(self.told.try_clone()?) => heard?,
            _ = ended.readable() => return Err(io::Error::other("the first process has ended before it began")),
        }
        let runs = fs::metadata(format!("/proc/{pid}/exe")).map_err(|_| strange())?;
        let ours = rustix::fs::fstat(&self.program)?;
        if (runs.dev(), runs.ino()) != (ours.st_dev, ours.st_ino) {
            return Err(strange());
        }
        looked_at::is_confined(id, root)?;
        Ok((id, fd))
    }

    /// Gives the container its root; returns the users of its job.
    async fn make_ready(
        &self,
        kernel: &Kernel,
        (ids, root): (Ids, NewRoot),
        first: &OwnedFd,
    ) -> io::Result<OwnedFd> {
        let (first, program) = (first.try_clone()?, self.program.try_clone()?);
        // A thread that hangs keeps its place, so that there are never more of them than there are places.
        let threads = kernel.openers.clone();
        let ready = async move {
            let place = threads.acquire_owned().await;
            let ready = move || {
                let _place = place;
                root.put_in_place(first.as_fd(), &program)?;
                users_of_its_own(ids)
            };
            tokio::task::spawn_blocking(ready)
                .await
                .map_err(io::Error::other)
                .flatten()
        };
        within(kernel.zygote.bound, ready).await
    }
}

fn strange() -> io::Error {
    io::Error::other("the process that the daemon names is not the first one of this container on this host")
}
