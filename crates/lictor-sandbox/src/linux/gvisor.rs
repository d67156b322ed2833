//! The `gvisor` backend: a container whose kernel is `runsc`, a program in user space.
//!
//! ```text
//!   create: the job's directory, its cgroup, a bundle
//!   exec:   zygote -> keeper -> runsc (in the job's cgroup) -> the sandbox's kernel, and who serves it files
//!           and in there: the first process, which is ours -> program: user, limits, no privileges, seccomp, execve
//!   end:    everything below the keeper is killed
//! ```
//!
//! Nothing of the host can enter such a sandbox, so what our spawn does elsewhere the first process does here, and what the
//! keeper sees elsewhere it tells through a file (see `report`).
//!
//! # Invariants
//! - No system call of the job reaches the host's kernel but through the sandbox's.
//! - What is executed is what was judged: compared right before the start where only root can change it or what its path
//!   leads to, else a copy.

mod report;
mod starter;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;

pub(super) use self::report::Report;
pub(super) use self::starter::Starter;
use super::boxed::Boxed;
use super::covers::Placeholder;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::oci::{Bundle, View};
use super::{probing, recover, trial};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, Recovered};
use crate::plan::Plan;
use crate::running::Running;
use crate::terminal::Stdio;

/// Runs jobs on a kernel of their own.
#[derive(Debug)]
pub(crate) struct Gvisor(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Gvisor {
    fn name(&self) -> BackendName {
        BackendName::Gvisor
    }

    /// Runs a job in a sandbox, which looks at itself.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        let unusable = |problem: String, fix: &str| ProbeError {
            problem,
            fix: fix.to_owned(),
        };
        if !self.0.config.runsc.is_file() {
            let problem = format!("{} is not there", self.0.config.runsc.display());
            return Err(unusable(problem, "install it: apt install runsc"));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(unusable(
                "the agent is not root".to_owned(),
                "run the agent as root, or use bubblewrap, which needs no rights",
            ));
        }
        if self.0.config.sandbox_uid == 0 {
            return Err(unusable(
                "the sandbox user is root".to_owned(),
                "set `uid` below `[sandbox]` in the agent's configuration to an unprivileged user",
            ));
        }
        if let Err(e) = &self.0.filter {
            return Err(unusable(
                e.clone(),
                "this architecture has no system call filter here",
            ));
        }
        let found = trial::run(&self.0, self, self.claimed()).await.map_err(|e| {
            let fix = "see that `runsc --platform=ptrace do true` works as root on this host, and that `runtime_dir` (/run/lictor) can be written to";
            unusable(format!("no sandbox of runsc starts: {}", e.refusal().message), fix)
        })?;
        Ok(found.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        let bundle = self.0.place().and_then(|p| p.bundle());
        match bundle {
            Ok(bundle) => Ok(Box::new(Inner {
                job,
                bundle,
                placeholders: Vec::new(),
            })),
            Err(e) => {
                let _ = job.destroy().await;
                Err(StartError::failed("make a bundle")(e))
            }
        }
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

impl Gvisor {
    fn claimed(&self) -> Capabilities {
        let mut own = vec![C::NoNetwork, C::OwnRoot, C::RunAsUser];
        own.extend([C::HiddenPaths, C::ProtectedPaths, C::HiddenAgent]);
        own.extend(C::OF_GVISOR);
        let found = probing::with_disk(probing::begin(&self.0, self.name(), &own));
        let held = match self.0.cgroups.can_hold_still() {
            true => Ok(()),
            false => Err("the agent has no cgroup with a freezer".to_owned()),
        };
        // A job's processes are none of the host's, so the host cannot count them.
        let pids = "its processes are none of the host's";
        found.with(C::Suspend, held).lacking(C::Pids, pids)
    }
}

struct Inner {
    job: Job,
    bundle: Bundle,
    /// What was made of the host's to mount something on; removed with this.
    placeholders: Vec<Placeholder>,
}

#[async_trait]
impl Boxed for Inner {
    fn job(&self) -> &Job {
        &self.job
    }

    fn job_mut(&mut self) -> &mut Job {
        &mut self.job
    }

    async fn start(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        let kernel = self.job.kernel.clone();
        let spec = self.job.plan.spec();
        if self.job.has_started() {
            return Err(StartError::AlreadyStarted);
        }
        let filter = kernel.filter_of(spec.seccomp)?;
        let limits = self.job.rlimits(spec);
        if matches!(stdio, Stdio::Terminal(_)) {
            let none = io::Error::new(io::ErrorKind::Unsupported, "gvisor has none for it");
            return Err(StartError::failed("give the job a terminal")(none));
        }
        let view = View::open(&kernel, spec).await;
        let mut view = view.map_err(StartError::failed("show what the profile names"))?;
        self.placeholders = view.placeholders();
        let starter = Starter::prepare(&kernel, &self.bundle, (spec, view), (filter, &limits))?;
        let inside = Inside {
            starter: Some(starter),
            overlay: None,
            ..Inside::default()
        };
        self.job.exec(stdio, inside).await
    }

    fn can_be_held(&self) -> bool {
        // By its cgroup or not at all: the kernel of a sandbox does not expect its processes to be stopped.
        self.job.cgroup.as_ref().is_some_and(|c| c.freezer().is_some())
    }

    fn clear_away(&mut self) -> io::Result<()> {
        self.bundle.remove()
    }
}
