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
//! - The ruleset is the highest ABI that kernel and library both know, never less than the first that keeps signals inside, and every right of
//!   it is handled: what no rule names is denied. Nothing is left out quietly on an older kernel.
//! - A job never runs as root here, nor as the agent's own user: Landlock does not hold back `chmod` and its kind,
//!   ownership does. Of a run-as user's own files a job may change modes, owners' times and the like.

mod rules;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::{Backend as BackendName, Seccomp};

pub(super) use self::rules::{Reach, allow_terminal, newest_abi};
use super::boxed::Boxed;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::{probing, recover, trial};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, Recovered};
use crate::plan::Plan;
use crate::running::Running;
use crate::terminal::Stdio;

/// Runs jobs on the host's tree behind Landlock.
#[derive(Debug)]
pub(crate) struct Landlock(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Landlock {
    fn name(&self) -> BackendName {
        BackendName::Landlock
    }

    /// Makes a ruleset with every right handled, as each job's is, and runs a job behind one.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ProbeError {
                problem: "the agent is not root, so jobs would be the owner of its own files and could open them to others".to_owned(),
                fix: "run the agent as root, or use bubblewrap, which needs no rights".to_owned(),
            });
        }
        newest_abi().map_err(|problem| ProbeError {
            problem,
            fix: "it takes Linux 6.12 or later with landlock among the names in /sys/kernel/security/lsm"
                .to_owned(),
        })?;
        if let Err(problem) = &self.0.isolated_filter {
            return Err(ProbeError {
                problem: problem.clone(),
                fix: "this architecture has no system call filter here".to_owned(),
            });
        }
        let mut own = vec![C::NoNetwork, C::Devices, C::RunAsUser];
        own.extend(C::OF_LANDLOCK);
        let claimed = probing::with_disk(probing::begin(&self.0, self.name(), &own));
        let found = trial::run(&self.0, self, claimed).await.map_err(|e| ProbeError {
            problem: e.refusal().message,
            fix: "`lictor doctor` says what of Landlock and seccomp is missing here".to_owned(),
        })?;
        Ok(found.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        match rules::ruleset(&self.0, job.plan.spec()).await {
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
