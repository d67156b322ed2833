//! From a receipt that the hub handed over to a result that may be believed, or a reason why not.
//!
//! # Invariants
//! - [`Confirmed`] is made here only, after: the node's signature, the node's keys (roster -> grant -> record), the
//!   job's digest, what this home remembers of the node's receipts, and the streams' digests: every byte that was
//!   shown is under one of them, and every byte that the node kept was shown.

use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::Receipt;
use lictor_proto::{Digest, JobId};
use lictor_trust::directory::Node;
use lictor_trust::{OrgTrust, Verified};

use crate::error::Error;
use crate::follow::{Compared, Doubt, Follower, Item, Stream};
use crate::hub::Hub;
use crate::probe::Probe;
use crate::receipts::{Noted, ReceiptTracker};

/// A result that may be believed.
#[derive(Debug)]
pub struct Confirmed {
    /// The receipt.
    pub receipt: Verified<Receipt>,
    /// Whether all of the output was seen, or what was kept of it.
    pub output: Compared,
    /// Bytes that the process wrote and that were not shown, because they were not kept.
    pub unseen: u64,
    /// How it fits the receipts seen before.
    pub noted: Noted,
}

/// How an execution ended, for somebody who believes only signatures.
#[derive(Debug)]
pub enum Outcome {
    /// The receipt holds, and so does the output.
    Confirmed(Box<Confirmed>),
    /// Something does not hold, or there is no receipt.
    Unconfirmed(Unconfirmed),
}

/// Why a result may not be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// What does not hold.
    pub refusal: Refusal,
    /// Where the receipt holds and nothing contradicts it: what is not proven all the same.
    pub doubt: Option<Doubt>,
}

impl From<Refusal> for Unconfirmed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, doubt: None }
    }
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

    /// Verifies everything that a follower saw. Where it did not see exactly what was kept, the stored output is
    /// read once more from the hub, and what was shown is held against that.
    pub async fn conclude(&self, hub: &Hub, follower: &Follower, tracker: &ReceiptTracker) -> Outcome {
        let receipt = match follower.receipt() {
            Some(wire) => self.verify(wire),
            None => Err(Refusal::new(
                Code::Unconfirmed,
                "the stream ended without a receipt",
            )),
        };
        let confirmed = match receipt {
            Ok(receipt) => self.confirm(hub, follower, receipt, tracker).await,
            Err(refusal) => Err(refusal.into()),
        };
        match confirmed {
            Ok(confirmed) => Outcome::Confirmed(Box::new(confirmed)),
            Err(unconfirmed) => Outcome::Unconfirmed(unconfirmed),
        }
    }

    async fn confirm(
        &self,
        hub: &Hub,
        follower: &Follower,
        receipt: Verified<Receipt>,
        tracker: &ReceiptTracker,
    ) -> Result<Confirmed, Unconfirmed> {
        // A receipt that holds is remembered, whatever the hub did to the output.
        let noted = tracker.note(&receipt, receipt.digest())?;
        let mut output = follower.compare(&receipt)?;
        if let Compared::Partly(doubt) = output {
            self.read_again(hub, &receipt, follower.probes(&receipt)).await?;
            if doubt != Doubt::default() {
                return Err(unproven(doubt));
            }
            output = Compared::Kept;
        }
        let (stdout, stderr) = follower.seen();
        let unseen = (receipt.stdout.bytes + receipt.stderr.bytes).saturating_sub(stdout + stderr);
        Ok(Confirmed {
            receipt,
            output,
            unseen,
            noted,
        })
    }

    /// Reads the stored output and holds all that was kept against the receipt.
    ///
    /// # Errors
    /// [`Code::OutputMismatch`] when it is not what the node signed, [`Code::Unconfirmed`] when it cannot be read.
    pub async fn reread(&self, hub: &Hub, receipt: &Receipt) -> Result<Compared, Refusal> {
        self.read_again(hub, receipt, Default::default()).await?;
        Ok(if receipt.stdout.truncated() || receipt.stderr.truncated() {
            Compared::Kept
        } else {
            Compared::Whole
        })
    }

    /// Reads the stored output from its start. Every kept range must have its signed digest, and every part that was
    /// shown must be the same bytes as now.
    async fn read_again(
        &self,
        hub: &Hub,
        receipt: &Receipt,
        mut shown: [Vec<Probe>; 2],
    ) -> Result<(), Refusal> {
        let mut kept = [&receipt.stdout, &receipt.stderr].map(|signed| {
            let ranges = signed.kept.iter();
            ranges
                .map(|r| Probe::new(r.from, r.to, r.sha256))
                .collect::<Vec<_>>()
        });
        let id = JobId::from_digest(&self.job);
        let mut stream = hub.output(&id, self.node.id()).await.map_err(unread)?;
        let mut again = Follower::new();
        while let Some(item) = again.next(&mut stream).await.map_err(unread)? {
            let Item::Output {
                stream, at, bytes, ..
            } = item
            else {
                continue;
            };
            let which = usize::from(stream == Stream::Stderr);
            for probe in kept[which].iter_mut().chain(&mut shown[which]) {
                probe.take(at, &bytes);
            }
        }
        let mismatch = |why: &str| Refusal::new(Code::OutputMismatch, why);
        for probe in kept.iter().flatten() {
            match probe.holds() {
                Some(true) => {}
                Some(false) => return Err(mismatch("the stored output is not what the node signed")),
                None => {
                    return Err(mismatch(
                        "the hub does not hold all the output that the node kept",
                    ));
                }
            }
        }
        if shown.iter().flatten().all(|p| p.holds() == Some(true)) {
            return Ok(());
        }
        Err(mismatch("output that was shown is not what the node signed"))
    }
}

fn unread(e: Error) -> Refusal {
    match e {
        Error::Untrusted(refusal) => refusal,
        other => Refusal::new(
            Code::Unconfirmed,
            format!("the stored output cannot be read: {other}"),
        ),
    }
}

/// The receipt holds, and all that is stored; what was shown is something else.
fn unproven(doubt: Doubt) -> Unconfirmed {
    let Doubt { unproven, unseen } = doubt;
    let why = if unproven > 0 {
        format!("{unproven} bytes that were shown are not covered by the receipt: the node did not keep them")
    } else {
        format!("{unseen} bytes that the node kept were not shown")
    };
    Unconfirmed {
        refusal: Refusal::new(Code::Unconfirmed, why),
        doubt: Some(doubt),
    }
}
