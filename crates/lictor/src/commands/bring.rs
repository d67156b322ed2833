//! A job of one node whose standard output is what is wanted of it: taken by an inlet, and held against the receipt.

use lictor_client::{Expected, Hub, SignedDoc, TrustStore};
use lictor_trust::SecretKey;
use lictor_trust::directory::Node;

use crate::commands::watch::{Inlet, Shows, Until, Watch};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// Who is asked, and by whom.
pub(crate) struct Asked<'a> {
    pub(crate) session: &'a Session,
    pub(crate) hub: &'a Hub,
    pub(crate) store: &'a TrustStore,
    pub(crate) node: &'a Node,
    /// Whose key cancels on Ctrl-C.
    pub(crate) key: &'a SecretKey,
}

impl Asked<'_> {
    /// Submits the job and follows it to its end. With a status of 0 the inlet has all of what the node has signed
    /// for.
    pub(crate) async fn bring(&self, job: &SignedDoc, inlet: &dyn Inlet) -> Result {
        let Self { session, hub, .. } = *self;
        let watch = Watch {
            session,
            hub,
            expected: Expected {
                trust: self.store.trust(),
                node: self.node,
                job: job.digest,
            },
            canceler: Some((&session.config.operator, self.key)),
            until: Until::End,
            shows: Shows::Output,
            into: Some(inlet),
        };
        let stream = hub
            .submit_attached(&job.wire)
            .await
            .map_err(|e| failed("submit the job", &e))?;
        let status = watch.run(stream).await?;
        if status != Status::OK || inlet.is_whole() {
            return Ok(status);
        }
        // Whoever reads slower than it is written is shown less of it; what is stored is whole.
        inlet.again().doing("begin anew with what comes")?;
        let stored = hub.follow(&job.job_id(), self.node.id(), 0).await;
        let stored = stored.map_err(|e| failed("read what was stored", &e))?;
        let status = watch.run(stored).await?;
        if status != Status::OK || !inlet.is_whole() {
            return Err(
                Failure::new("not all of it came, though the node has signed for it")
                    .hint("`lictor logs ID` says what the hub still has; then ask for it again."),
            );
        }
        Ok(status)
    }
}
