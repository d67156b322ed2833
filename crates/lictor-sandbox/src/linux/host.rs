//! The `host` backend: no isolation. The process tree is supervised, the start is clean, limits are rlimits.

use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;

use super::boxed::Boxed;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::recover;
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

    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        let mut found = vec![C::ProcessTree, C::CleanStart, C::NewSession, C::HostNetwork];
        found.extend([C::CpuTime, C::FileSize, C::OpenFiles]);
        if rustix::process::geteuid().is_root() {
            // Nothing is given up by a job that runs as the agent does: its operator wants the host as it is.
            found.extend([C::RunAsUser, C::NoNewPrivileges]);
        }
        found.extend(self.0.limits());
        Ok(found.into_iter().collect())
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
