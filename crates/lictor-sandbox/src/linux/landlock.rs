//! The `landlock` backend: the host's own tree, of which the kernel shows only what the profile names.
//!
//! ```text
//!   create: the job's directory, cgroup, and a ruleset made of open descriptors, never of paths looked up again
//!   exec:   zygote -> keeper -> program: unprivileged user, no privileges, ruleset, seccomp, execveat
//! ```
//!
//! Not for hostile code: no namespaces, so names, times and sizes of files, and what `/proc` tells everybody about
//! processes, can be seen; and file systems, IPC and users are the host's. It is the fastest way to keep an
//! honest program from reaching further than it should.
//!
//! # Invariants
//! - The ruleset is the highest ABI that kernel and library both know, never less than [`LEAST`], and every right of
//!   it is handled: what no rule names is denied. Nothing is left out quietly on an older kernel.
//! - A job never runs as root here, nor as the agent's own user: Landlock does not hold back `chmod` and its kind,
//!   ownership does. Of a run-as user's own files a job may change modes, owners' times and the like.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use lictor_trust::profiles::{Backend as BackendName, Seccomp};
use rustix::fs::{Mode, OFlags};

use super::boxed::Boxed;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::recover;
use super::shown::{ETC, SHOWN};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, Recovered};
use crate::plan::{LaunchSpec, Plan};
use crate::running::Running;
use crate::terminal::Stdio;

/// The first ABI that keeps signals and abstract sockets inside.
const LEAST: ABI = ABI::V6;
/// Rulesets from the newest on; what a kernel does not know, it refuses.
const ABIS: [ABI; 4] = [ABI::V9, ABI::V8, ABI::V7, LEAST];
/// Devices that every program may expect.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// Further files that programs read, besides those of every sandbox.
const READ: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/hosts", "/proc"];
/// The terminal of whoever opens it, where there is one; pagers and questions for passwords do.
const TERMINAL: &str = "/dev/tty";

/// Runs jobs on the host's tree behind Landlock.
#[derive(Debug)]
pub(crate) struct Landlock(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Landlock {
    fn name(&self) -> BackendName {
        BackendName::Landlock
    }

    /// Makes a ruleset with every right handled, as each job's is.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ProbeError {
                problem: "the agent is not root, so jobs would be the owner of its own files and could open them to others".to_owned(),
                fix: "run the agent as root, or use bubblewrap, which needs no rights".to_owned(),
            });
        }
        newest().map_err(|e| ProbeError {
            problem: format!("no Landlock that keeps signals and sockets inside: {e}"),
            fix: "it takes Linux 6.12 or later with landlock among the names in /sys/kernel/security/lsm"
                .to_owned(),
        })?;
        if let Err(problem) = &self.0.isolated_filter {
            return Err(ProbeError {
                problem: problem.clone(),
                fix: "this architecture has no system call filter here".to_owned(),
            });
        }
        let mut found = vec![C::ProcessTree, C::CleanStart, C::NewSession, C::NoNetwork];
        found.extend(C::OF_LANDLOCK);
        found.extend([
            C::CpuTime,
            C::FileSize,
            C::OpenFiles,
            C::Devices,
            C::StrictSeccomp,
        ]);
        found.extend(self.0.limits());
        found.extend((super::quota::works() && found.contains(&C::MemoryOfTree)).then_some(C::Disk));
        found.push(C::RunAsUser);
        Ok(found.into_iter().collect())
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        match ruleset(job.plan.spec()) {
            Ok(ruleset) => Ok(Box::new(Behind { job, ruleset })),
            Err(e) => {
                let _ = job.destroy().await;
                Err(StartError::failed("make the Landlock ruleset")(e))
            }
        }
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

struct Behind {
    job: Job,
    ruleset: OwnedFd,
}

#[async_trait]
impl Boxed for Behind {
    fn job(&self) -> &Job {
        &self.job
    }

    fn job_mut(&mut self) -> &mut Job {
        &mut self.job
    }

    async fn start(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        let kernel = self.job.kernel.clone();
        // Whatever the profile says: without namespaces there is no other.
        let filter = kernel.filter_of(Seccomp::Strict)?;
        let inside = Inside {
            ruleset: Some(self.ruleset.as_fd()),
            filter: Some(filter),
            ..Inside::default()
        };
        self.job.exec(stdio, inside).await
    }
}

/// An empty ruleset of the newest ABI that works here.
fn newest() -> Result<(ABI, RulesetCreated), RulesetError> {
    let mut abis = ABIS.into_iter();
    loop {
        match abis.next() {
            Some(LEAST) | None => return empty(LEAST).map(|r| (LEAST, r)),
            Some(abi) => {
                if let Ok(ruleset) = empty(abi) {
                    return Ok((abi, ruleset));
                }
            }
        }
    }
}

fn empty(abi: ABI) -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()
}

/// The newest ABI that works here, for people.
pub(super) fn newest_abi() -> Result<i32, RulesetError> {
    newest().map(|(abi, _)| abi as i32)
}

/// What a job may reach. No TCP rule at all: nothing can be bound or connected.
fn ruleset(spec: &LaunchSpec) -> io::Result<OwnedFd> {
    let (abi, empty) = newest().map_err(io::Error::other)?;
    let mut rules = Rules { abi, ruleset: empty };
    let read = AccessFs::from_read(abi);
    let all = AccessFs::from_all(abi);
    for path in SHOWN.iter().chain(&ETC).chain(&READ) {
        rules.allow_if_there(path, read)?;
    }
    for path in DEVICES {
        rules.allow_if_there(path, AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    let whole = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    rules.allow_if_there(TERMINAL, whole)?;
    for path in &spec.devices {
        rules.allow(Path::new(path), whole)?;
    }
    for path in &spec.read_only {
        rules.allow(Path::new(path), read)?;
    }
    for path in &spec.read_write {
        rules.allow(Path::new(path), all)?;
    }
    rules.allow(&spec.dir, all)?;
    rules.allow(&spec.workspace(), all)?;
    let ruleset: Option<OwnedFd> = rules.ruleset.into();
    ruleset.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

/// Adds a job's own terminal to what it may open, and no other.
pub(super) fn allow_terminal(ruleset: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> io::Result<()> {
    /// The kernel's `landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Rule {
        allowed: u64,
        parent: i32,
    }
    const PATH_BENEATH: i32 = 1;
    let allowed = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let rule = Rule {
        allowed: allowed.bits(),
        parent: terminal.as_raw_fd(),
    };
    // SAFETY: `rule` has the kernel's layout and outlives the call; both descriptors are open.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

struct Rules {
    abi: ABI,
    ruleset: RulesetCreated,
}

impl Rules {
    fn allow_if_there(&mut self, path: &str, access: BitFlags<AccessFs>) -> io::Result<()> {
        match self.allow(Path::new(path), access) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn allow(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let at = rustix::fs::open(path, flags, Mode::empty())?;
        let is_directory = std::fs::metadata(super::remove::link_of(&at))?.is_dir();
        let access = if is_directory {
            access
        } else {
            access & AccessFs::from_file(self.abi)
        };
        let rule = PathBeneath::new(at, access);
        (&mut self.ruleset).add_rule(rule).map_err(io::Error::other)?;
        Ok(())
    }
}
