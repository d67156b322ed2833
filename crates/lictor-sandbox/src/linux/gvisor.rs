//! The `gvisor` backend: a container whose kernel is `runsc`, a program in user space.
//!
//! ```text
//!   create: the job's directory, its cgroup, a bundle
//!   exec:   zygote -> keeper -> runsc (in the job's cgroup) -> the sandbox's kernel, and who serves it files
//!           and in there: the first process, which is ours -> program: user, limits, no privileges, seccomp, execve
//!   end:    everything below the keeper is killed
//! ```
//!
//! A job that has a way out finds the first process at its end: see `door`.
//!
//! Nothing of the host can enter such a sandbox, so what our spawn does elsewhere the first process does here, and what the
//! keeper sees elsewhere it tells through a file (see `report`).
//!
//! # Invariants
//! - No system call of the job reaches the host's kernel but through the sandbox's.
//! - What is executed is what was judged: compared right before the start where only root can change it or what its path
//!   leads to, else a copy.

mod door;
mod report;
mod starter;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;
use tokio::task::JoinSet;

use self::door::{Door, Wire};
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
        let found = self.tried().await.map_err(|e| {
            let fix = "see that `runsc --platform=ptrace do true` works as root on this host, and that `runtime_dir` (/run/lictor) can be written to";
            unusable(format!("no sandbox of runsc starts: {}", e.refusal().message), fix)
        })?;
        Ok(probing::with_egress(found, &self.0).await.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        let bundle = match self.0.place().and_then(|p| p.bundle()) {
            Ok(bundle) => bundle,
            Err(e) => {
                let _ = job.destroy().await;
                return Err(StartError::failed("make a bundle")(e));
            }
        };
        let mut made = Inner {
            job,
            bundle,
            placeholders: Vec::new(),
            door: None,
            listeners: JoinSet::new(),
        };
        if let Err(e) = made.open_way_out().await {
            let _ = made.destroy().await;
            return Err(e);
        }
        Ok(Box::new(made))
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

impl Gvisor {
    /// What a job has seen, with a limit on processes if that kernel holds one.
    async fn tried(&self) -> Result<Capabilities, StartError> {
        let claimed = self.claimed();
        match trial::run(&self.0, self, claimed.clone()).await {
            Ok(found) => Ok(found.with(C::Pids, Ok(()))),
            Err(error) => {
                let why = format!("its kernel does not hold it: {}", error.refusal().message);
                trial::run(&self.0, self, claimed.lacking(C::Pids, why)).await
            }
        }
    }

    fn claimed(&self) -> Capabilities {
        let mut own = vec![C::NoNetwork, C::OwnRoot, C::RunAsUser];
        own.extend([C::HiddenPaths, C::ProtectedPaths, C::HiddenAgent]);
        own.extend(C::OF_GVISOR);
        let found = probing::with_disk(probing::begin(&self.0, self.name(), &own));
        let held = match self.0.cgroups.can_hold_still() {
            true => Ok(()),
            false => Err("the agent has no cgroup with a freezer".to_owned()),
        };
        // A job's processes are none of the host's: what counts them is its own kernel.
        found.with(C::Suspend, held).and(C::Pids)
    }
}

struct Inner {
    job: Job,
    bundle: Bundle,
    /// What was made of the host's to mount something on; removed with this.
    placeholders: Vec<Placeholder>,
    /// Where its way out begins, until it is started.
    door: Option<Door>,
    /// Answer it; they end when it does.
    listeners: JoinSet<()>,
}

impl Inner {
    /// Has the proxy serve it, if its profile has a way out.
    async fn open_way_out(&mut self) -> Result<(), StartError> {
        if self.job.plan.spec().egress.is_none() {
            return Ok(());
        }
        let made = Door::make(&self.bundle.state());
        let (door, listener) = made.map_err(StartError::failed("make a way out"))?;
        self.door = Some(door);
        self.job.open_way_out_by(listener).await
    }

    /// What carries its requests to whoever answers them.
    fn wire(&mut self) -> Result<Option<Wire>, StartError> {
        let Some(door) = self.door.take() else {
            return Ok(None);
        };
        let made = Wire::make().and_then(|wire| Ok((wire.listen()?, wire)));
        let (end, wire) = made.map_err(StartError::failed("make a way out"))?;
        self.listeners.spawn(door::serve(end, door));
        Ok(Some(wire))
    }
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
        if self.job.has_started() {
            return Err(StartError::AlreadyStarted);
        }
        let wire = self.wire()?;
        let kernel = self.job.kernel.clone();
        let spec = self.job.plan.spec();
        let filter = kernel.filter_of(spec.seccomp)?;
        let limits = self.job.rlimits(spec);
        if matches!(stdio, Stdio::Terminal(_)) {
            let fix = C::Terminal.fix(BackendName::Gvisor);
            let none = io::Error::new(io::ErrorKind::Unsupported, format!("gvisor has none; {fix}"));
            return Err(StartError::failed("give the job a terminal")(none));
        }
        let view = View::open(&kernel, spec).await;
        let mut view = view.map_err(StartError::failed("show what the profile names"))?;
        self.placeholders = view.placeholders();
        let starter = Starter::prepare(&kernel, &self.bundle, (spec, view), (filter, &limits), wire)?;
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
