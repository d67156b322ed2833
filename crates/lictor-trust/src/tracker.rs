//! What a client remembers of each node's receipts, so that a hub cannot hide, reorder or double them unnoticed.
//!
//! A client sees only the receipts it asks for, and a node's numbers count everybody's jobs. So a gap is not yet
//! a lie: it is named, the client fetches what is missing, and [`ReceiptTracker::observe`] closes it.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::code::Refusal;
use lictor_proto::doc::Receipt;
use lictor_proto::{Code, Digest, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::verify::Verified;

/// How many receipts of each node are remembered one by one.
const REMEMBERED: usize = 1024;
/// How many missing numbers of each node are remembered one by one.
const MISSING: usize = 1024;

/// The memory; plain data, to be stored as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptTracker {
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    highest: u64,
    finished_at: Timestamp,
    receipts: BTreeMap<u64, Entry>,
    missing: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    receipt: Digest,
    prev: Option<Digest>,
    job: Digest,
}

/// What a receipt adds to what is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The first receipt seen of this node.
    First,
    /// The very next one.
    Next,
    /// Seen before.
    Again,
    /// It closes a gap, or is from before anything that is remembered.
    Earlier,
    /// Receipts between the highest seen and this one have not been seen.
    Gap {
        /// First missing number.
        from: u64,
        /// Last missing number.
        to: u64,
    },
}

impl Observation {
    /// The refusal to show for a gap; nothing else here is one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Gap { from, to } = self else {
            return None;
        };
        let text = format!("receipts {from} to {to} of this node have not been seen");
        Some(Refusal::new(Code::ReceiptGap, text))
    }
}

impl ReceiptTracker {
    /// Remembers a receipt.
    ///
    /// # Errors
    /// [`Code::ReceiptConflict`] for a second receipt of one job, a second one of one number, or one that does not
    /// follow its predecessor; [`Code::ReceiptGap`] for one that went back: newer by its time, older by its number.
    /// Then nothing is remembered of it.
    pub fn observe(&mut self, receipt: &Verified<Receipt>) -> Result<Observation, Refusal> {
        let new = !self.nodes.contains_key(&receipt.node_id);
        let seen = self.nodes.entry(receipt.node_id.clone()).or_default();
        if seen
            .receipts
            .get(&receipt.node_seq)
            .is_some_and(|e| e.receipt == receipt.digest())
        {
            return Ok(Observation::Again);
        }
        seen.check(receipt)?;
        let observation = if new {
            Observation::First
        } else {
            seen.place(receipt.node_seq)
        };
        seen.insert(receipt);
        Ok(observation)
    }

    /// Numbers of this node's receipts that are known to exist and have not been seen.
    pub fn missing(&self, node: &NodeId) -> impl Iterator<Item = u64> {
        let seen = self.nodes.get(node).into_iter();
        seen.flat_map(|s| s.missing.iter().copied())
    }

    /// The highest number seen of this node.
    #[must_use]
    pub fn highest(&self, node: &NodeId) -> Option<u64> {
        self.nodes.get(node).map(|s| s.highest)
    }
}

impl Seen {
    fn check(&self, receipt: &Verified<Receipt>) -> Result<(), Refusal> {
        let seq = receipt.node_seq;
        let conflict = |text: String| Err(Refusal::new(Code::ReceiptConflict, text));
        if self.receipts.contains_key(&seq) {
            return conflict(format!("two receipts carry the number {seq}"));
        }
        if let Some((other, _)) = self.receipts.iter().find(|(_, e)| e.job == receipt.job_digest) {
            return conflict(format!("receipts {other} and {seq} are about one job"));
        }
        let before = seq.checked_sub(1).and_then(|n| self.receipts.get(&n));
        if before.is_some_and(|e| receipt.prev != Some(e.receipt)) {
            return conflict(format!("receipt {seq} does not follow receipt {}", seq - 1));
        }
        let after = self.receipts.get(&(seq + 1));
        if after.is_some_and(|e| e.prev != Some(receipt.digest())) {
            return conflict(format!("receipt {} does not follow receipt {seq}", seq + 1));
        }
        let fills = self.missing.contains(&seq);
        if seq < self.highest && !fills && receipt.finished_at > self.finished_at {
            let text = format!("receipt {seq} is newer than {}, the highest seen", self.highest);
            return Err(Refusal::new(Code::ReceiptGap, text));
        }
        Ok(())
    }

    fn place(&self, seq: u64) -> Observation {
        match self.highest + 1 {
            next if seq == next => Observation::Next,
            next if seq > next => Observation::Gap {
                from: next,
                to: seq - 1,
            },
            _ => Observation::Earlier,
        }
    }

    fn insert(&mut self, receipt: &Verified<Receipt>) {
        let seq = receipt.node_seq;
        if let Observation::Gap { from, to } = self.place(seq)
            && self.highest > 0
        {
            // Only the newest are kept one by one; the gap itself was reported whole.
            let first = from.max(to.saturating_sub(MISSING as u64 - 1));
            self.missing.extend(first..=to);
        }
        self.missing.remove(&seq);
        if seq > self.highest {
            self.highest = seq;
            self.finished_at = receipt.finished_at;
        }
        let entry = Entry {
            receipt: receipt.digest(),
            prev: receipt.prev,
            job: receipt.job_digest,
        };
        self.receipts.insert(seq, entry);
        while self.receipts.len() > REMEMBERED {
            self.receipts.pop_first();
        }
        while self.missing.len() > MISSING {
            self.missing.pop_first();
        }
    }
}
