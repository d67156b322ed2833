//! From a receipt that the hub handed over to a result that may be believed, or a reason why not.
//!
//! # Invariants
//! - [`Confirmed`] is made here only, after: the node's signature, the node's keys (roster -> grant -> record), the
//!   job's digest, the streams' digests, and what this home remembers of the node's receipts.

use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::Receipt;
use lictor_proto::{Digest, JobId};
use lictor_trust::directory::Node;
use lictor_trust::{OrgTrust, Verified};

use crate::error::Error;
use crate::follow::{Compared, Follower};
use crate::hub::Hub;
use crate::receipts::{Noted, ReceiptTracker};

/// A result that may be believed.
#[derive(Debug)]
pub struct Confirmed {
    /// The receipt.
    pub receipt: Verified<Receipt>,
    /// How much of the output was held against it.
    pub output: Compared,
    /// How it fits the receipts seen before.
    pub noted: Noted,
}

/// How an execution ended, for somebody who believes only signatures.
#[derive(Debug)]
pub enum Outcome {
    /// The receipt holds, and so does the output.
    Confirmed(Box<Confirmed>),
    /// Something does not hold, or there is no receipt.
    Unconfirmed(Refusal),
}

/// Whose receipt is expected, about what.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The org's trust.
    pub trust: &'a OrgTrust,
    /// The node.
    pub node: &'a Node,
    /// The job.
    pub job: Digest,
}

impl Expected<'_> {
    /// Verifies a receipt alone: signature, node, job.
    ///
    /// # Errors
    /// The refusal of whichever does not hold.
    pub fn verify(&self, receipt: &str) -> Result<Verified<Receipt>, Refusal> {
        let receipt = self.trust.verify_receipt(&self.node.keys, receipt)?;
        receipt.check_for(&self.job)?;
        Ok(receipt)
    }

    /// Verifies everything that a follower saw. Where it missed a kept part of the output, the stored output is
    /// read once more from the hub.
    pub async fn conclude(&self, hub: &Hub, follower: &Follower, tracker: &ReceiptTracker) -> Outcome {
        match self.confirm(hub, follower, tracker).await {
            Ok(confirmed) => Outcome::Confirmed(Box::new(confirmed)),
            Err(refusal) => Outcome::Unconfirmed(refusal),
        }
    }

    async fn confirm(
        &self,
        hub: &Hub,
        follower: &Follower,
        tracker: &ReceiptTracker,
    ) -> Result<Confirmed, Refusal> {
        let wire = follower
            .receipt()
            .ok_or_else(|| Refusal::new(Code::Unconfirmed, "the stream ended without a receipt"))?;
        let receipt = self.verify(wire)?;
        let mut output = follower.compare(&receipt)?;
        if output == Compared::Partly {
            self.reread(hub, &receipt).await?;
            output = Compared::Kept;
        }
        let noted = tracker.note(&receipt, receipt.digest())?;
        Ok(Confirmed {
            receipt,
            output,
            noted,
        })
    }

    /// Reads the stored output from its start and holds it against the receipt.
    ///
    /// # Errors
    /// [`Code::OutputMismatch`] when it is not what the node signed, [`Code::Unconfirmed`] when it cannot be read.
    pub async fn reread(&self, hub: &Hub, receipt: &Receipt) -> Result<Compared, Refusal> {
        let unread = |e: Error| match e {
            Error::Untrusted(refusal) => refusal,
            other => Refusal::new(
                Code::Unconfirmed,
                format!("the stored output cannot be read: {other}"),
            ),
        };
        let id = JobId::from_digest(&self.job);
        let mut stream = hub.output(&id, 0).await.map_err(unread)?;
        let mut again = Follower::new();
        while again.next(&mut stream).await.map_err(unread)?.is_some() {}
        match again.compare(receipt)? {
            Compared::Partly => Err(Refusal::new(
                Code::OutputMismatch,
                "the hub does not hold all the output that the node kept",
            )),
            compared => Ok(compared),
        }
    }
}
