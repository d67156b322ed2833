//! One job's life on this host, whatever is around it: its directory and cgroups, its start, its end.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lictor_proto::Timestamp;
use lictor_proto::doc::Usage;
use lictor_trust::profiles::Backend;
use rustix::process::{Resource, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::cgroup::{Bounds, Cgroup, Controller};
use super::gvisor::{Report, Starter};
use super::keeper::Keeper;
use super::kept::Growth;
use super::kernel::Kernel;
use super::overlay::Overlay;
use super::recover::Recovered;
use super::remove::remove_dir;
use super::spawn::{self, Launch, LaunchFile, Spawned};
use super::streams::Streams;
use super::supervisor::Supervisor;
use super::table::HostCgroups;
use super::tree::Tree;
use super::users::User;
use super::{keeper, landlock, process, quota, ready, secret, way_out};
use crate::backend::{RecoverError, StartError, Suspend};
use crate::handle::{Handle, ProcessId};
use crate::plan::{LaunchSpec, Plan};
use crate::program::ProgramFile;
use crate::running::{EgressEvents, Running};
use crate::terminal::Stdio;

/// One job: its directory and cgroup from `create` on, its tree from `exec` on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kernel: Arc<Kernel>,
    pub(super) plan: Plan,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    tree: Option<Arc<Tree>>,
    /// What the proxy says about it, until it runs.
    egress: Option<EgressEvents>,
    started: bool,
}

/// A job's cgroups, opened for its start.
#[derive(Debug, Default)]
struct Doors {
    unified: Option<OwnedFd>,
    gates: Vec<OwnedFd>,
    memory: Option<AsyncFd<OwnedFd>>,
}

impl Doors {
    fn open(cgroup: &Cgroup) -> io::Result<Self> {
        Ok(Self {
            unified: cgroup.open()?,
            gates: cgroup.gates()?,
            memory: cgroup.watch_memory()?.map(ready::watch).transpose()?,
        })
    }
}

/// Files of secrets for a job that sees the host's own tree, and where they are in mounts of its own.
struct Secrets(OwnedFd, CString);

impl Secrets {
    fn of(spec: &LaunchSpec) -> io::Result<Option<Self>> {
        // Elsewhere they come with what is shown.
        if spec.backend.is_namespaced() {
            return Ok(None);
        }
        let Some(files) = secret::files(spec)? else {
            return Ok(None);
        };
        let at = spec.secret_dir();
        fs::DirBuilder::new().mode(0o700).create(&at)?;
        Ok(Some(Self(
            files,
            CString::new(at.into_os_string().into_encoded_bytes())?,
        )))
    }

    fn mount(&self) -> (BorrowedFd<'_>, CString) {
        (self.0.as_fd(), self.1.clone())
    }
}

/// What a backend that isolates adds to a start.
#[derive(Debug, Default)]
pub(super) struct Inside<'a> {
    pub(super) namespaces: Option<BorrowedFd<'a>>,
    /// Users of its own, in place of those of the namespaces.
    pub(super) users: Option<BorrowedFd<'a>>,
    pub(super) init: Option<ProcessId>,
    /// Who it becomes there, by the ids of the namespaces; `None` when it is somebody before it enters.
    pub(super) user: Option<&'a User>,
    pub(super) filter: Option<&'a [libc::sock_filter]>,
    pub(super) ruleset: Option<BorrowedFd<'a>>,
    /// What is started in place of the program, and starts it.
    pub(super) starter: Option<Starter>,
    /// The root that it may write to.
    pub(super) overlay: Option<&'a Overlay>,
    /// More processes that hold the sandbox, for the handle.
    pub(super) roots: Vec<ProcessId>,
}

impl Job {
    /// Makes the job's directory and cgroup.
    pub(super) fn create(kernel: Arc<Kernel>, plan: Plan) -> Result<Self, StartError> {
        let mut plan = plan;
        plan.claim(Timestamp::now())?;
        make_dir(plan.dir(), plan.spec()).map_err(StartError::failed("make the job's directory"))?;
        if let Err(e) = quota::mount(plan.spec()) {
            let _ = remove_dir(plan.dir());
            return Err(StartError::failed("mount the job's disk")(e));
        }
        Self::create_in(kernel, plan)
    }

    /// Makes the cgroup of a job whose directory has been made.
    pub(super) fn create_in(kernel: Arc<Kernel>, plan: Plan) -> Result<Self, StartError> {
        let mut job = Self {
            kernel,
            plan,
            cgroup: None,
            tree: None,
            egress: None,
            started: false,
        };
        match job.make_cgroup() {
            Ok(cgroup) => job.cgroup = cgroup.map(Arc::new),
            Err(e) => {
                quota::unmount(job.plan.spec());
                let _ = remove_dir(job.plan.dir());
                return Err(StartError::failed("make the job's cgroup")(e));
            }
        }
        Ok(job)
    }

    fn make_cgroup(&self) -> io::Result<Option<Cgroup>> {
        let spec = self.plan.spec();
        let limits = &spec.limits;
        let bounds = Bounds {
            memory: limits.memory,
            pids: tasks(spec),
            cpu_millis: limits.cpu_millis,
            read_bytes_per_s: limits.read_bytes_per_s,
            write_bytes_per_s: limits.write_bytes_per_s,
        };
        let name = self.plan.dir().file_name().unwrap_or_default().to_string_lossy();
        self.kernel.cgroups.job(&name, &bounds)
    }

    /// Makes its way out, if its profile has one; see `way_out`.
    pub(super) async fn open_way_out(
        &mut self,
        inside: (BorrowedFd<'_>, Option<&User>, Option<BorrowedFd<'_>>),
    ) -> Result<(), StartError> {
        self.egress = way_out::make(&self.kernel, self.plan.spec(), inside).await?;
        Ok(())
    }

    /// Makes its way out by a listener that leads there, if its profile has one.
    pub(super) async fn open_way_out_by(&mut self, listener: OwnedFd) -> Result<(), StartError> {
        self.egress = way_out::serve(&self.kernel, self.plan.spec(), listener).await?;
        Ok(())
    }

    /// Ends what goes through it.
    pub(super) async fn close_way_out(&self) {
        let spec = self.plan.spec();
        if let (Some(proxy), Some(_)) = (&self.kernel.proxy, &spec.egress) {
            proxy.close(&self.kernel, &spec.job).await;
        }
    }

    /// Starts the plan's program, once.
    pub(super) async fn exec(&mut self, stdio: Stdio, inside: Inside<'_>) -> Result<Running, StartError> {
        if self.started {
            return Err(StartError::AlreadyStarted);
        }
        self.started = true;
        let spec = self.plan.spec();
        let ended = watch::Sender::new(false);
        let streams = Streams::open(stdio, spec, &ended).await?;
        if let (Some(ruleset), Some(terminal)) = (inside.ruleset, streams.terminal()) {
            // Opening it again is judged by its name.
            landlock::allow_terminal(ruleset, terminal).map_err(StartError::failed("show the terminal"))?;
        }
        let secrets = Secrets::of(spec).map_err(StartError::failed("hand over a secret"))?;
        let doors = self.cgroup.as_ref().map(|c| Doors::open(c)).transpose();
        let doors = doors.map_err(StartError::failed("open the job's cgroup"))?;
        let Doors {
            unified,
            gates,
            memory,
        } = doors.unwrap_or_default();
        let plain = match &inside.starter {
            Some(starter) => starter.launch(self.launch(spec, inside.overlay)?),
            None => self.launch(spec, inside.overlay)?,
        };
        let mut inherit = streams.inherit();
        if let Some(starter) = &inside.starter {
            let given = starter.give_input(&mut inherit);
            given.map_err(StartError::failed("open standard input"))?;
        }
        let launch = Launch {
            user: inside.user.or(plain.user),
            ids_inside: inside.user.is_some(),
            inherit,
            takes_terminal: streams.has_terminal(),
            cgroup: unified.as_ref().map(AsFd::as_fd),
            gates: gates.iter().map(AsFd::as_fd).collect(),
            namespaces: inside.namespaces,
            users: inside.users,
            // Who starts the program in its place does that there, and cannot do without them before.
            confine: inside.starter.is_none() && (inside.filter.is_some() || spec.drops_privileges()),
            ruleset: inside.ruleset,
            filter: inside.filter,
            mount: secrets.as_ref().map(Secrets::mount),
            ..plain
        };
        let started_at = Timestamp::now();
        let spawned = spawn::spawn(&self.kernel.zygote, &launch).await?;
        drop((unified, gates, secrets));
        let (keeper, speaker, report) = self.started(inside.starter, spawned).await?;
        let tree = Arc::new(Tree {
            keeper: Mutex::new(Some(keeper.id)),
            speaker,
            init: inside.init,
            cgroup: self.cgroup.clone(),
            at_terminal: streams.has_terminal(),
            held: Mutex::new(None),
        });
        self.tree = Some(tree.clone());
        let mut handle = self.handle();
        handle.roots.extend(inside.roots);
        let limits = (spec.timeout, spec.grace);
        let keeper = (self.kernel.zygote.clone(), keeper);
        let disk = quota::is_set(&spec.limits).then(|| spec.dir.clone());
        let supervisor = Supervisor::new(keeper, tree, limits, memory, ended)
            .with_report(report)
            .with_growth(growth(spec))
            .with_disk(disk);
        let running = Running::new(handle, started_at, streams.ours, supervisor);
        Ok(running.with_egress(self.egress.take()))
    }

    /// Waits until the program runs where something else is started in its place; then who looks after it, who passes signals
    /// on, and what will tell its end.
    async fn started(
        &self,
        starter: Option<Starter>,
        spawned: Spawned,
    ) -> Result<(Keeper, Option<ProcessId>, Option<Report>), StartError> {
        let mut keeper = spawned.keeper;
        let Some(starter) = starter else {
            return Ok((keeper, None, None));
        };
        match starter.started(&self.kernel, &mut keeper, spawned.main).await {
            Ok((speaker, report)) => Ok((keeper, speaker, Some(report))),
            Err(e) => {
                self.kernel.zygote.give_back(keeper);
                Err(e)
            }
        }
    }

    fn launch<'a>(&self, spec: &'a LaunchSpec, overlay: Option<&Overlay>) -> Result<Launch<'a>, StartError> {
        let text = |s: &str| CString::new(s).map_err(|e| StartError::failed("use a NUL byte")(e.into()));
        let file = |f: &'a ProgramFile| {
            Ok(LaunchFile {
                path: text(&f.path)?,
                identity: overlay.map_or(Ok(f.identity), |o| o.identity_of(f, spec))?,
                held_at: f.held_at,
                copy: f.copy.as_ref().map(|c| c.as_fd()),
            })
        };
        let first = spec.program.in_place_of_first.as_deref();
        let first = first.unwrap_or(spec.argv.get(..1).unwrap_or_default());
        let argv = first.iter().chain(spec.argv.iter().skip(1));
        Ok(Launch {
            exec_by: spec.program.exec_by,
            files: spec
                .program
                .files
                .iter()
                .map(file)
                .collect::<Result<_, StartError>>()?,
            argv: argv.map(|a| text(a)).collect::<Result<_, _>>()?,
            env: spec
                .env
                .iter()
                .map(|(k, v)| text(&format!("{k}={v}")))
                .collect::<Result<_, _>>()?,
            cwd: text(&spec.cwd)?,
            keeper_name: Some(
                keeper::name_for(&spec.dir).map_err(StartError::failed("find the job's directory"))?,
            ),
            cwd_before_ids: Path::new(&spec.cwd) == spec.workspace(),
            user: spec.changes_user.then_some(&spec.user),
            ids_inside: false,
            confine: false,
            filter: None,
            rlimits: self.rlimits(spec),
            umask: spec.umask,
            ignore_sigchld: false,
            die_with_keeper: false,
            ends_alone: false,
            takes_terminal: false,
            cgroups: HostCgroups::AsTheyAre,
            mount: None,
            inherit: Vec::new(),
            cgroup: None,
            namespaces: None,
            mounts: None,
            users: None,
            tightened: Vec::new(),
            covers: Vec::new(),
            ruleset: None,
            gates: Vec::new(),
            listen: None,
        })
    }

    pub(super) fn rlimits(&self, spec: &LaunchSpec) -> Vec<(u32, u64, u64)> {
        let limits = &spec.limits;
        let cgroups = &self.kernel.cgroups;
        let mut set = vec![(libc::RLIMIT_CORE, 0, 0)];
        let mut add = |kind: u32, resource: Resource, limit: Option<u64>| {
            // What the agent itself may not exceed, no job may; asking for more would only fail.
            let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            // At its soft limit of CPU time a process gets SIGXCPU, by which the limit can be told; at the hard one
            // SIGKILL, which could come from anybody.
            let room = u64::from(kind == libc::RLIMIT_CPU);
            set.extend(limit.map(|n| (kind, n.min(most), n.saturating_add(room).min(most))));
        };
        if !cgroups.holds(Controller::Memory) {
            add(libc::RLIMIT_AS, Resource::As, limits.memory);
        }
        if !cgroups.holds(Controller::Pids) && spec.backend != Backend::Gvisor {
            // Counted for each user in the sandbox's own user namespace. bwrap is one of the job's; a container's first
            // process is another user's.
            let others = u64::from(spec.backend == Backend::Bubblewrap);
            let most = limits.pids.map(|n| n.saturating_add(others));
            add(libc::RLIMIT_NPROC, Resource::Nproc, most);
        }
        add(libc::RLIMIT_CPU, Resource::Cpu, limits.cpu_seconds);
        add(libc::RLIMIT_FSIZE, Resource::Fsize, limits.file_size);
        add(libc::RLIMIT_NOFILE, Resource::Nofile, limits.open_files);
        set
    }

    fn handle(&self) -> Handle {
        let cgroup = self.cgroup.as_deref();
        Handle {
            backend: self.plan.backend().as_str().to_owned(),
            boot_id: process::boot_id(),
            roots: self.tree.iter().filter_map(|t| t.keeper()).collect(),
            cgroup: cgroup.and_then(|c| c.unified()).map(Path::to_owned),
            cgroups_v1: cgroup.map_or_else(Vec::new, |c| c.legacy().map(Path::to_owned).collect()),
            dir: self.plan.dir().to_owned(),
        }
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let tree = self.tree()?;
        let signal = Signal::from_named_raw(signal);
        tree.signal(signal.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?)
    }

    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    pub(super) fn tree(&self) -> io::Result<&Tree> {
        self.tree.as_deref().ok_or_else(nothing_runs)
    }

    pub(super) fn usage(&self) -> io::Result<Usage> {
        Ok(self.tree()?.usage())
    }

    /// Takes its disk away: it is memory, whatever else cannot be taken down.
    pub(super) fn unmount(&self) {
        quota::unmount(self.plan.spec());
    }

    /// Ends what runs, then removes cgroup and directory.
    pub(super) async fn destroy(&mut self) -> io::Result<()> {
        self.unmount();
        match Recovered::take_up(self.handle()) {
            Ok(mut left) => left.destroy().await?,
            Err(RecoverError::Gone) => {}
            Err(RecoverError::Io(e)) => return Err(e),
        }
        if let Some(claim) = self.plan.take_claim() {
            // It looks through all that is kept.
            let gone = tokio::task::spawn_blocking(move || claim.let_go());
            gone.await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Suspend for Job {
    async fn suspend(&self) -> io::Result<()> {
        self.tree()?.suspend().await
    }

    async fn resume(&self) -> io::Result<()> {
        self.tree()?.resume()
    }
}

/// How many of the host's tasks a job may have.
fn tasks(spec: &LaunchSpec) -> Option<u64> {
    /// Its own kernel has some for each of its processes (measured are 5) and for itself (48), and ends where it can have
    /// no more: so it has room, and holds the job to its limit by itself.
    const FOR_EACH: u64 = 8;
    const FOR_ITSELF: u64 = 1024;
    let room = |n: u64| n.saturating_mul(FOR_EACH).saturating_add(FOR_ITSELF);
    match spec.backend {
        Backend::Gvisor => spec.limits.pids.map(room),
        _ => spec.limits.pids,
    }
}

/// What a job fills that works in a kept sandbox of a size.
fn growth(spec: &LaunchSpec) -> Option<Growth> {
    let kept = spec.kept.as_ref()?;
    Some(Growth::new(kept.dir.clone(), kept.bound()?))
}

fn nothing_runs() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

/// Fails when it exists already: a directory of a job's own is nobody else's.
pub(super) fn make_dir(dir: &Path, spec: &LaunchSpec) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    if spec.changes_user
        && let Err(e) = chown(dir, Some(spec.user.uid), Some(spec.user.gid))
    {
        let _ = fs::remove_dir(dir);
        return Err(e);
    }
    Ok(())
}
