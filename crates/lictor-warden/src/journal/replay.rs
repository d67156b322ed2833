//! Reads a journal from its first byte: the state, the end of the audit chain, and where the next record goes.

use lictor_audit::{Chain, Record};

use super::entry::Entry;
use super::file::JournalFile;
use super::record::{self, Damage};
use super::state::{Impossible, State};

/// Why a journal cannot be used. None of these is repaired by itself: each could make a job start twice.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system's reason.
    #[error("cannot read the journal")]
    Io(#[from] std::io::Error),
    /// The file is damaged.
    #[error("the journal is damaged: {0}")]
    Damaged(#[from] Damage),
    /// A record holds something else than entries and audit lines, or comes from a newer version.
    #[error("a record of the journal cannot be read: {0}")]
    Unreadable(String),
    /// Its entries contradict each other.
    #[error("the journal contradicts itself: {0}")]
    Contradiction(Impossible),
    /// Its audit records do not hang together.
    #[error("the audit records in the journal do not hold: {0}")]
    Audit(String),
}

/// What a journal says.
#[derive(Debug)]
pub struct Replayed {
    /// The state.
    pub state: State,
    /// The end of the audit log.
    pub chain: Chain,
    /// Where the audit log stood before this journal's first record.
    pub base: Chain,
    /// Length of the good part; the file has been cut to it.
    pub length: u64,
    /// Bytes of a torn end that were cut off.
    pub torn: u64,
}

/// One line of a payload.
pub enum Line {
    /// A change of the state.
    Entry(Box<Entry>),
    /// An audit record.
    Audit(Record),
}

/// Reads a payload's lines.
///
/// # Errors
/// When a line is neither.
pub fn lines(payload: &[u8]) -> Result<Vec<Line>, OpenError> {
    let unreadable = |e: String| OpenError::Unreadable(e);
    let text = std::str::from_utf8(payload).map_err(|e| unreadable(e.to_string()))?;
    text.lines()
        .map(|line| match line.split_at_checked(1) {
            Some(("E", json)) => serde_json::from_str(json)
                .map(|entry| Line::Entry(Box::new(entry)))
                .map_err(|e| unreadable(e.to_string())),
            Some(("A", line)) => Record::parse(line)
                .map(Line::Audit)
                .map_err(|e| OpenError::Audit(e.to_string())),
            _ => Err(unreadable("neither entry nor audit record".to_owned())),
        })
        .collect()
}

/// The audit records of a payload; entries are passed over unread.
///
/// # Errors
/// When a line that should be a record is none.
pub(super) fn audit_records(payload: &[u8]) -> Result<Vec<Record>, OpenError> {
    let text = std::str::from_utf8(payload).map_err(|e| OpenError::Unreadable(e.to_string()))?;
    let records = text.lines().filter_map(|line| line.strip_prefix('A'));
    records
        .map(|line| Record::parse(line).map_err(|e| OpenError::Audit(e.to_string())))
        .collect()
}

/// Reads the whole journal of the node called `log` and cuts a torn end.
///
/// # Errors
/// When it cannot be relied on.
pub fn replay(file: &mut dyn JournalFile, log: &str) -> Result<Replayed, OpenError> {
    let bytes = file.read()?;
    let scan = record::scan(&bytes)?;
    let mut state = State::default();
    let mut chain = Chain::new(log);
    let mut before = chain.clone();
    for payload in &scan.payloads {
        for line in lines(payload)? {
            match line {
                Line::Entry(entry) => {
                    if let Entry::Base(base) = entry.as_ref() {
                        chain = Chain::resume(base.audit_seq, base.audit_head);
                        before = chain.clone();
                    }
                    state.apply(*entry).map_err(OpenError::Contradiction)?;
                }
                Line::Audit(record) => chain
                    .follow(&record)
                    .map_err(|e| OpenError::Audit(e.to_string()))?,
            }
        }
    }
    let torn = bytes.len() as u64 - scan.length;
    if torn > 0 {
        file.truncate(scan.length)?;
        file.sync()?;
    }
    Ok(Replayed {
        state,
        chain,
        base: before,
        length: scan.length,
        torn,
    })
}
