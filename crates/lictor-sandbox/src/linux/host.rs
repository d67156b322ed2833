//! The `host` backend: no isolation. The process tree is supervised, the start is clean, limits are rlimits.

use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;

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

/// Runs jobs on the host as it is.
#[derive(Debug)]
pub(crate) struct HostBackend(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for HostBackend {
    fn name(&self) -> BackendName {
        BackendName::Host
    }

    /// Runs a job that looks at itself, as another user where there may be one.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        let claimed = probing::begin(&self.0, self.name(), &[C::HostNetwork]);
        // Nothing is given up by a job that runs as the agent does: its operator wants the host as it is.
        let claimed = probing::with_rights(claimed, &[C::RunAsUser, C::NoNewPrivileges]);
        let found = trial::run(&self.0, self, claimed).await.map_err(|e| ProbeError {
            problem: e.refusal().message,
            fix: "jobs are started as this one is: see that /bin/sh is there, and that `runtime_dir` can be written to"
                .to_owned(),
        })?;
        Ok(found.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        Ok(Box::new(HostSandbox(Job::create(self.0.clone(), plan)?)))
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

struct HostSandbox(Job);

#[async_trait]
impl Boxed for HostSandbox {
    fn job(&self) -> &Job {
        &self.0
    }

    fn job_mut(&mut self) -> &mut Job {
        &mut self.0
    }

    async fn start(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        self.0.exec(stdio, Inside::default()).await
    }
}
