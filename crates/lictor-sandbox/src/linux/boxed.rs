//! What the sandboxes of all backends have in common: a job, and what is around it.

use std::io;

use async_trait::async_trait;
use lictor_proto::doc::Usage;

use super::job::Job;
use crate::backend::{Sandbox, Snapshot, StartError, Suspend};
use crate::plan::Plan;
use crate::running::Running;
use crate::terminal::Stdio;

/// A job in what a backend puts around it; each is a [`Sandbox`].
#[async_trait]
pub(super) trait Boxed: Send + Sync {
    fn job(&self) -> &Job;
    fn job_mut(&mut self) -> &mut Job;

    /// Starts the plan's program in there.
    async fn start(&mut self, stdio: Stdio) -> Result<Running, StartError>;

    fn can_be_held(&self) -> bool {
        true
    }

    /// Ends what is around the job, and with it everybody who is in there.
    async fn end_around(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Removes what is left of that when the job is gone.
    fn clear_away(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl<B: Boxed> Sandbox for B {
    fn plan(&self) -> &Plan {
        &self.job().plan
    }

    async fn exec(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        self.start(stdio).await
    }

    async fn signal(&self, signal: i32) -> io::Result<()> {
        self.job().signal(signal)
    }

    async fn usage(&self) -> io::Result<Usage> {
        self.job().usage()
    }

    fn suspension(&self) -> Option<&dyn Suspend> {
        self.can_be_held().then_some(self.job())
    }

    fn snapshots(&self) -> Option<&dyn Snapshot> {
        self.job().snapshots()
    }

    async fn destroy(&mut self) -> io::Result<()> {
        self.job().unmount();
        let ended = self.end_around().await;
        self.job().close_way_out().await;
        ended?;
        let destroyed = self.job_mut().destroy().await;
        destroyed.and(self.clear_away())
    }
}
