//! `host.json`: what the agent that serves a node directory has found that it can do, for whoever looks at the machine beside
//! it. Nothing is decided by it.

use std::path::Path;

use lictor_proto::Timestamp;
use lictor_proto::agent::BackendReport;
use lictor_sandbox::ProcessId;
use serde::{Deserialize, Serialize};

use crate::node_dir::{NodeDir, NodeDirError};

const FILE: &str = "host.json";

/// An agent that serves, or has served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its process.
    pub process: ProcessId,
    /// Since when.
    pub since: Timestamp,
    /// What it has found.
    pub backends: Vec<BackendReport>,
}

impl Presence {
    /// The agent that serves this node directory now; `None` when none does.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, NodeDirError> {
        let found: Option<Self> = NodeDir::at(dir).read(FILE)?;
        Ok(found.filter(|agent| lictor_sandbox::is_alive(agent.process)))
    }

    /// Says that this process serves it.
    pub(crate) fn write(dir: &NodeDir, backends: Vec<BackendReport>) {
        let Some(process) = lictor_sandbox::own_process() else {
            return;
        };
        let own = Self {
            process,
            since: Timestamp::now(),
            backends,
        };
        if let Err(error) = dir.write(FILE, &own) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what this host can do could not be written down"
            );
        }
    }
}
