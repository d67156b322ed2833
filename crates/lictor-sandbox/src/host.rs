//! The way in: what this machine offers for running jobs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::agent::{BackendReport, HostFacts};
use lictor_proto::code::Refusal;
use lictor_proto::{Digest, Name};
use lictor_rootfs::Store;
use lictor_trust::profiles::{Backend as BackendName, Profile};
use tokio::sync::watch;

use crate::backend::{Backend, ProbeError};
use crate::engine::{ContainerDaemon, ContainerEngine};
use crate::errand::{Errand, OnErrand};
use crate::handle::ProcessId;
use crate::helper::{Helped, Helper, HelperError};
use crate::imp;
use crate::kept::KeptBounds;
use crate::plan::Resolved;
use crate::work::Work;

/// What the agent's configuration says about running jobs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The unprivileged user of the host that namespaced jobs of a root agent run as.
    pub sandbox_uid: u32,
    /// Its group.
    pub sandbox_gid: u32,
    /// The `bwrap` program.
    pub bwrap: PathBuf,
    /// Who makes containers.
    pub container_engine: ContainerEngine,
    /// The OCI runtime of containers, a runc or a crun by its name; else those are taken that are at the usual places.
    pub oci_runtime: Option<PathBuf>,
    /// The `podman` program.
    pub podman: PathBuf,
    /// The Docker daemon that may make containers.
    pub docker: Option<Arc<dyn ContainerDaemon>>,
    /// The `runsc` program.
    pub runsc: PathBuf,
    /// Who root is in containers of a root agent: an id of the host that no user has, for both user and group.
    pub container_root: u32,
    /// Where OCI runtimes keep their files; others than the agent must be able to walk to it.
    pub runtime_dir: PathBuf,
    /// The arguments with which the agent's own program becomes the egress proxy, whose standard input is its control
    /// socket; without them nothing has a way out.
    pub egress_proxy: Option<Vec<String>>,
    /// Arguments of this program that make it carry files; the order is the next one.
    pub carrier: Vec<String>,
    /// The agent's own directory, which no job sees; by itself the one that the store of root file systems is in.
    pub node_dir: Option<PathBuf>,
    /// Files, directories and sockets that are the agent's own besides that and `runtime_dir`; no job sees these either.
    pub own: Vec<PathBuf>,
    /// How much is kept of sandboxes that jobs name.
    pub kept: KeptBounds,
    /// How long a start may take. One that takes longer (a file system that does not answer, a process that another
    /// one of the same user keeps stopping) is given up.
    pub start_bound: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sandbox_uid: 65_534,
            sandbox_gid: 65_534,
            bwrap: PathBuf::from("/usr/bin/bwrap"),
            container_engine: ContainerEngine::Auto,
            oci_runtime: None,
            podman: PathBuf::from("/usr/bin/podman"),
            docker: None,
            runsc: PathBuf::from("/usr/bin/runsc"),
            container_root: 2_147_418_112,
            runtime_dir: imp::runtime_dir(),
            egress_proxy: None,
            carrier: vec![crate::carry::CARRY_FILES.to_owned()],
            node_dir: None,
            own: Vec::new(),
            kept: KeptBounds::default(),
            start_bound: Duration::from_secs(30),
        }
    }
}

/// One thing of this host that backends rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What there is, or what is missing and what to do about it.
    pub found: Result<String, ProbeError>,
}

/// This machine. Start it early: the process that starts jobs is a fork of the agent as it is then.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<imp::Kernel>,
}

impl Host {
    /// Prepares for running jobs.
    ///
    /// # Errors
    /// When the system refuses processes or memory.
    pub fn start(config: Config) -> io::Result<Self> {
        imp::Kernel::start(config).map(|k| Self { inner: Arc::new(k) })
    }

    /// Every backend that this system could have; [`Backend::probe`] tells which it really has.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<dyn Backend>> {
        imp::backends(&self.inner)
    }

    /// One of them.
    #[must_use]
    pub fn backend(&self, name: BackendName) -> Option<Arc<dyn Backend>> {
        self.backends().into_iter().find(|b| b.name() == name)
    }

    /// Finds a job's program in its profile's root, as `backend` shows it, and the facts about it. `dir` is the job's own directory,
    /// which need not exist yet. Reads and hashes the program when it has not seen it before, so it may take a
    /// while for a large one.
    ///
    /// # Errors
    /// `program_not_found`, `interpreter_refused` for an interpreter that is itself a script, or `unenforceable` for a run-as
    /// user that this host does not have.
    pub fn resolve(
        &self,
        name: &Name,
        (profile, backend): (&Profile, BackendName),
        work: impl Into<Work>,
        dir: &Path,
    ) -> Result<Resolved, Refusal> {
        self.inner.resolve((name, profile, backend), &work.into(), dir)
    }

    /// Says where root file systems are; once, before the first job whose profile names one.
    pub fn use_rootfs(&self, store: Store) {
        self.inner.use_rootfs(store);
    }

    /// What is the agent's own, which no job sees: every path that leads there now.
    ///
    /// # Errors
    /// When the system does not say what is mounted.
    pub fn own_paths(&self) -> io::Result<Vec<PathBuf>> {
        self.inner.own().map(|own| own.to_vec())
    }

    /// Runs a tool to its end. `watch` is asked a few times a second whether it may go on; dropped, the tool is ended.
    ///
    /// # Errors
    /// [`HelperError`]; nothing of it is left then.
    pub async fn help(
        &self,
        helper: &Helper,
        watch: impl FnMut() -> Result<(), String> + Send,
    ) -> Result<Helped, HelperError> {
        imp::run_helper(&self.inner, helper, watch).await
    }

    /// Sends this program on an errand.
    ///
    /// # Errors
    /// When there is no proxy, or it cannot be started; nothing of it is left then.
    pub async fn send(&self, errand: &Errand) -> io::Result<OnErrand> {
        imp::send_errand(&self.inner, errand).await
    }

    /// What a confined tool finds its place as.
    #[must_use]
    pub fn helper_place(&self, dir: &Path) -> PathBuf {
        imp::helper_place(dir)
    }

    /// What of this host the backends rest on, for `doctor`.
    pub async fn checks(&self) -> Vec<Check> {
        imp::checks(&self.inner).await
    }

    /// Keeps as many prepared sandboxes waiting as `wanted` says, of profiles whose jobs run in bubblewrap here, with
    /// their directories in `work`, which is where those of their jobs will be. Ends, and leaves nothing behind, when the
    /// sender is dropped. One call at a time.
    pub async fn keep_warm(&self, work: &Path, wanted: watch::Receiver<Vec<Profile>>) {
        imp::keep_warm(self.inner.clone(), work.to_owned(), wanted).await;
    }

    /// How many prepared sandboxes wait.
    #[must_use]
    pub fn warm_ready(&self) -> watch::Receiver<usize> {
        self.inner.warm_ready()
    }

    /// The probe of every backend, for heartbeats and `doctor`.
    pub async fn reports(&self) -> Vec<BackendReport> {
        let mut reports = Vec::new();
        for backend in self.backends() {
            let name = backend.name().as_str().to_owned();
            reports.push(match backend.probe().await {
                Ok(capabilities) => BackendReport {
                    name,
                    usable: true,
                    engine: capabilities.engine().map(str::to_owned),
                    capabilities: capabilities.words(),
                    problem: String::new(),
                },
                Err(error) => BackendReport {
                    name,
                    usable: false,
                    engine: None,
                    capabilities: Vec::new(),
                    problem: error.to_string(),
                },
            });
        }
        reports
    }
}

/// This process, told apart from later ones with its number.
#[must_use]
pub fn own_process() -> Option<ProcessId> {
    imp::identify(std::process::id())
}

/// Whether a process lives that somebody has written down.
#[must_use]
pub fn is_alive(process: ProcessId) -> bool {
    imp::identify(process.pid) == Some(process)
}

/// The cgroup that a process is in: that of version 2, else those of version 1, as `controllers:path`.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub fn cgroup_of(process: ProcessId) -> io::Result<String> {
    imp::cgroup_of(process)
}

/// Facts for a heartbeat; `data` is where the agent keeps its data.
#[must_use]
pub fn host_facts(data: &Path) -> HostFacts {
    imp::host_facts(data)
}

/// Keeps this process's memory from others of the same user, for a helper that holds what is not theirs.
///
/// # Errors
/// The system's.
pub fn hide_memory() -> io::Result<()> {
    imp::hide_memory()
}

/// Makes sure that everything written to the file system of `path` is on the disk.
///
/// # Errors
/// The system's.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    imp::sync_file_system(path)
}

/// Keeps this process to looking up names and to network connections: no file written, no program run, and where the
/// kernel knows it no port opened. For a helper that reads what strangers send; before it makes threads.
///
/// # Errors
/// The system's; then it must not go on.
pub fn confine_to_network() -> io::Result<()> {
    imp::confine_to_network()
}

/// What this process's own program is started again by, as a [`Helper`], also when its file has been replaced or is gone.
#[must_use]
pub fn own_program() -> &'static str {
    imp::OWN_PROGRAM
}

/// Whether a [`Confined`](crate::Confined) tool can be kept to its work here.
///
/// # Errors
/// Why not.
pub fn holds_tools() -> io::Result<()> {
    imp::holds_tools()
}

/// Keeps this thread, and whatever threads it makes, to the files below one directory: nothing else is read or written, no program is
/// run and, where the kernel knows it, nobody connected to. For what unpacks what strangers have sent.
///
/// # Errors
/// The system's; then it must not go on.
pub fn confine_to_dir(dir: &Path) -> io::Result<()> {
    imp::confine_to_dir(dir)
}

/// A digest over what makes this machine this machine; a copy of its disk on another one has another.
#[must_use]
pub fn fingerprint() -> Digest {
    imp::fingerprint()
}

/// Removes what jobs of an earlier agent have left in what their profiles show: empty files and directories, made for
/// something to be mounted on. `work` is where the jobs' directories are made.
///
/// # Errors
/// The system's, after all that could be removed was.
pub fn remove_placeholders(work: &Path) -> io::Result<()> {
    imp::remove_placeholders(work)
}

/// Removes a job's directory that no sandbox is left of. What was mounted below it is detached, never emptied.
///
/// # Errors
/// The system's.
pub fn remove_job_dir(dir: &Path) -> io::Result<()> {
    imp::remove_dir(dir)
}
