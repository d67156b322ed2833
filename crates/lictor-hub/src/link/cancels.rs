//! Signed cancels on their way to a node.
//!
//! Whether a cancel counts is the node's decision. That it could not write the end is none: then it is told again, and
//! what it is about is not offered meanwhile.

use std::sync::Arc;

use lictor_proto::Code;
use lictor_proto::agent::{CancelJob, Reply, Request};

use super::offer::{AGAIN_FIRST, AGAIN_LAST};
use super::{NodeLink, PeerError};
use crate::store::JobPapers;

/// Whether a signed cancel ended a job.
pub(super) enum Ended {
    Yes,
    No,
}

impl NodeLink {
    /// Tells the node a cancel, together with the job, which it may not have yet; again for as long as the link lives,
    /// until it is answered. A later link begins with what is left.
    pub fn cancel(self: &Arc<Self>, cancel: CancelJob) {
        let link = self.clone();
        self.spawn(async move {
            let mut again = AGAIN_FIRST;
            while let Err(e) = link.end(cancel.clone()).await {
                tracing::debug!(node = %link.node.node_id, error = %e, "a cancel was not told; it is told again");
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN_LAST);
            }
        });
    }

    /// Tells the node every signed cancel of a job together with the job, in order before any offer of it, so that
    /// what was cancelled while the node was away ends there unstarted, with a receipt. Where the node refuses them all,
    /// the job is offered.
    pub(super) async fn cancel_pending(&self, papers: JobPapers) -> Result<Ended, PeerError> {
        for cancel in papers.cancels {
            let cancel = CancelJob {
                cancel,
                job: papers.job.envelope.clone(),
            };
            if let Ended::Yes = self.end(cancel).await? {
                return Ok(Ended::Yes);
            }
        }
        Ok(Ended::No)
    }

    async fn end(&self, cancel: CancelJob) -> Result<Ended, PeerError> {
        match self.peer.ask(Request::CancelJob(cancel)).await? {
            Reply::Refused(why) if could_not(why.code) => {
                Err(PeerError::Protocol(format!("the node could not: {why}")))
            }
            Reply::Refused(why) => {
                tracing::info!(node = %self.node.node_id, %why, "the node refused a cancel");
                Ok(Ended::No)
            }
            _ => Ok(Ended::Yes),
        }
    }
}

/// Whether a refusal is about the node and not about what it was told.
fn could_not(code: Code) -> bool {
    matches!(code, Code::JournalFailed | Code::DiskFull | Code::Internal)
}
