//! One record, its canonical bytes, and its line in an export.
//!
//! ```text
//! leaf  {"seq":7,"time":"...","type":"job_started","fields":{...},"prev":"sha256:..."}
//! hash  SHA-256(00 || leaf)                                  the RFC 6962 leaf hash
//! line  leaf with ,"hash":"sha256:..." before its last brace
//! ```
//!
//! JSON without spaces, keys in the order shown, field names sorted. A line is accepted only when writing what
//! was read gives the same bytes again, so there are no two texts for one record.

use lictor_proto::{Digest, Timestamp, json};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::{EventType, Fields};

/// Longest line of an export, in bytes. An event's fields are bounded far below.
pub const LINE: usize = 256 * 1024;

/// One event in its place in the chain. Made by [`crate::Chain`], or read and checked by [`Record::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    body: Body,
    hash: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    seq: u64,
    time: Timestamp,
    #[serde(rename = "type")]
    kind: EventType,
    fields: Fields,
    prev: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    seq: u64,
    time: Timestamp,
    #[serde(rename = "type")]
    kind: EventType,
    fields: Fields,
    prev: Digest,
    hash: Digest,
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not JSON of a record's shape, or an unknown type.
    #[error("not a record: {0}")]
    Malformed(String),
    /// Another spelling than the canonical one.
    #[error("not in the canonical form")]
    NotCanonical,
    /// Its content does not have the hash that it names.
    #[error("its content does not have the hash that it names")]
    Changed,
}

impl Record {
    pub(crate) fn new(seq: u64, time: Timestamp, kind: EventType, fields: Fields, prev: Digest) -> Self {
        let body = Body {
            seq,
            time,
            kind,
            fields,
            prev,
        };
        let hash = leaf_hash(leaf(&body).as_bytes());
        Self { body, hash }
    }

    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// When it is no record, not canonical, or not what its hash says.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let malformed = |e: String| LineError::Malformed(e);
        if line.len() > LINE {
            return Err(malformed(format!("{} bytes are over the limit", line.len())));
        }
        let read: Line = json::from_slice(line.as_bytes()).map_err(|e| malformed(e.to_string()))?;
        let record = Self::new(read.seq, read.time, read.kind, read.fields, read.prev);
        if record.hash != read.hash {
            return Err(LineError::Changed);
        }
        if record.line() != line {
            return Err(LineError::NotCanonical);
        }
        Ok(record)
    }

    /// The canonical bytes: what is hashed, and the later Merkle leaf.
    #[must_use]
    pub fn leaf(&self) -> String {
        leaf(&self.body)
    }

    /// The record as a line of an export, without line feed.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.leaf();
        line.pop();
        line.push_str(",\"hash\":\"");
        line.push_str(&self.hash.to_string());
        line.push_str("\"}");
        line
    }

    /// Its place in the log, from 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.body.seq
    }

    /// When it was written.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.body.time
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> EventType {
        self.body.kind
    }

    /// The particulars.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.body.fields
    }

    /// Hash of the record before, or of the log's name.
    #[must_use]
    pub fn prev(&self) -> Digest {
        self.body.prev
    }

    /// Its own hash.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }
}

fn leaf(body: &Body) -> String {
    // Flat data with string keys: cannot fail to serialise.
    serde_json::to_string(body).unwrap_or_default()
}

fn leaf_hash(leaf: &[u8]) -> Digest {
    let mut h = Sha256::new();
    h.update([0]);
    h.update(leaf);
    Digest(h.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn record() -> Record {
        let e = Event::new(EventType::JobStarted)
            .with("pid", 7u64)
            .with("host", true)
            .with("argv", ["a".to_owned(), "b\n".to_owned()].as_slice());
        Record::new(1, Timestamp::from_millis(5), e.kind, e.fields, Digest::of(b"x"))
    }

    #[test]
    fn the_canonical_bytes_are_fixed() {
        // A change here breaks every log that was ever written.
        assert_eq!(
            record().leaf(),
            "{\"seq\":1,\"time\":\"1970-01-01T00:00:00.005Z\",\"type\":\"job_started\",\
             \"fields\":{\"argv\":[\"a\",\"b\\n\"],\"host\":true,\"pid\":7},\
             \"prev\":\"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\"}"
        );
        let mut bytes = vec![0];
        bytes.extend_from_slice(record().leaf().as_bytes());
        assert_eq!(record().hash(), Digest::of(&bytes));
    }

    #[test]
    fn a_line_reads_back_and_any_other_spelling_is_refused() {
        let line = record().line();
        assert_eq!(Record::parse(&line), Ok(record()));
        assert_eq!(
            Record::parse(&line.replace(":7", ": 7")),
            Err(LineError::NotCanonical)
        );
        assert_eq!(Record::parse(&line.replace(":7", ":8")), Err(LineError::Changed));
        let unknown = line.replace("job_started", "job_stared");
        assert!(matches!(Record::parse(&unknown), Err(LineError::Malformed(_))));
    }
}
