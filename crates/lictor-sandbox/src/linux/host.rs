//! The `host` backend: no isolation. The process tree is supervised, the start is clean, limits are rlimits.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use lictor_proto::doc::Usage;
use lictor_trust::profiles::Backend as BackendName;

use super::kernel::{Inside, Job, Kernel};
use super::recover;
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, Snapshot, StartError, Suspend};
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
            found.push(C::RunAsUser);
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
impl Sandbox for HostSandbox {
    fn plan(&self) -> &Plan {
        &self.0.plan
    }

    async fn exec(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        self.0.exec(stdio, Inside::default()).await
    }

    async fn signal(&self, signal: i32) -> io::Result<()> {
        self.0.signal(signal)
    }

    async fn usage(&self) -> io::Result<Usage> {
        self.0.usage()
    }

    fn suspension(&self) -> Option<&dyn Suspend> {
        Some(&self.0)
    }

    fn snapshots(&self) -> Option<&dyn Snapshot> {
        self.0.snapshots()
    }

    async fn destroy(&mut self) -> io::Result<()> {
        self.0.destroy().await
    }
}
