//! The node's audit log as lines, from a running or a stopped agent's directory.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;

use lictor_audit::Record;

use super::record;
use super::replay::{Line, OpenError, lines};

/// Gives every line of the log in `dir`, oldest first: first `audit.log`, then what is still in the closed journal and in
/// the journal. The lines of `audit.log` are given as they are, for the verifier to judge.
///
/// # Errors
/// When a file cannot be read, or the journal is damaged.
pub fn audit_lines(dir: &Path, mut take: impl FnMut(&str)) -> Result<(), OpenError> {
    // In the order in which records leave: what moves between two of these reads then shows as lines known already.
    let journal = or_empty(std::fs::read(dir.join("journal.log")))?;
    let closed = or_empty(std::fs::read(dir.join("journal.old")))?;
    let mut last = 0;
    if let Some(file) = or_none(File::open(dir.join("audit.log")))? {
        for line in BufReader::new(file).lines() {
            let line = line?;
            last = Record::parse(&line).map_or(last, |r| r.seq());
            take(&line);
        }
    }
    for bytes in [closed, journal] {
        let known = last;
        for payload in record::scan(&bytes)?.payloads {
            for line in lines(payload)? {
                match line {
                    Line::Audit(record) if record.seq() > known => {
                        last = record.seq();
                        take(&record.line());
                    }
                    Line::Audit(_) | Line::Entry(_) => {}
                }
            }
        }
    }
    Ok(())
}

fn or_none<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn or_empty(result: std::io::Result<Vec<u8>>) -> std::io::Result<Vec<u8>> {
    or_none(result).map(Option::unwrap_or_default)
}
