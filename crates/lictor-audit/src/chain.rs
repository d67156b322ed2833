//! Makes records and holds the head of the chain.
//!
//! The chain does no IO. Whoever owns a log keeps one chain beside it, writes the records that it gives and
//! makes them durable in the same write as the step that they record.

use lictor_proto::{Digest, Timestamp};

use crate::event::Event;
use crate::record::Record;

/// The end of one log: what the next record hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    seq: u64,
    head: Digest,
}

/// What the first record of the log called `log` names as its predecessor.
#[must_use]
pub fn genesis(log: &str) -> Digest {
    let mut bytes = b"lictor-audit-v1\0".to_vec();
    bytes.extend_from_slice(log.as_bytes());
    Digest::of(&bytes)
}

impl Chain {
    /// An empty log. `log` is a node id or an org id: records of one log cannot pass for another's.
    #[must_use]
    pub fn new(log: &str) -> Self {
        Self {
            seq: 0,
            head: genesis(log),
        }
    }

    /// A log whose last record is number `seq` with hash `head`.
    #[must_use]
    pub fn resume(seq: u64, head: Digest) -> Self {
        Self { seq, head }
    }

    /// The event as the next record.
    pub fn append(&mut self, time: Timestamp, event: Event) -> Record {
        let record = Record::new(self.seq + 1, time, event.kind, event.fields, self.head);
        self.seq = record.seq();
        self.head = record.hash();
        record
    }

    /// Takes in a record that was written before.
    ///
    /// # Errors
    /// [`Broken`] when it is not the next one.
    pub fn follow(&mut self, record: &Record) -> Result<(), Broken> {
        if record.seq() != self.seq + 1 {
            return Err(Broken::Sequence {
                expected: self.seq + 1,
                found: record.seq(),
            });
        }
        if record.prev() != self.head {
            return Err(Broken::Link);
        }
        self.seq = record.seq();
        self.head = record.hash();
        Ok(())
    }

    /// Number of the last record; 0 when there is none.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Hash of the last record, or of the log's name.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.head
    }
}

/// Why a record does not continue the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another number than the next.
    #[error("record {found} stands where {expected} belongs: records were removed or reordered")]
    Sequence {
        /// The next number.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// The right number after another record.
    #[error("it does not follow the record before it: one of them was exchanged")]
    Link,
}
