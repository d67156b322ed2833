//! A log that has ended, read as the journal describes it.

use std::fs::File;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use lictor_proto::agent::OutputPart;
use lictor_proto::frame::HEADER;

use super::{Kept, Log, ReadError, gap, headers, read_frames, whole_frames};

/// Frames of an ended log from position `from` on.
///
/// # Errors
/// When `from` is no position of this log, or the disk fails.
pub fn read(log: &Log, path: &Path, from: u64, max: usize) -> Result<(OutputPart, Bytes), ReadError> {
    if from > log.end {
        return Err(ReadError::Position(from));
    }
    let mut before = 0;
    for kept in &log.kept {
        if from < kept.from {
            let bytes = region(log, path, kept, before, kept.from, max)?;
            let resume = [kept.stdout_at, kept.stderr_at];
            return Ok(with_gap(log, kept.from, gap(kept.from, resume), &bytes));
        }
        if from < kept.to {
            let bytes = region(log, path, kept, before, from, max)?;
            let to = from + bytes.len() as u64;
            let end = to == log.end;
            return Ok((OutputPart { from, to, end }, bytes));
        }
        before += kept.to - kept.from;
    }
    if from == log.end {
        let end = true;
        return Ok((OutputPart { from, to: from, end }, Bytes::new()));
    }
    let resume = [log.stdout_bytes, log.stderr_bytes];
    Ok(with_gap(log, log.end, gap(log.end, resume), &[]))
}

fn with_gap(log: &Log, from: u64, gap: Vec<u8>, bytes: &[u8]) -> (OutputPart, Bytes) {
    let to = from + bytes.len() as u64;
    let mut out = BytesMut::from(gap.as_slice());
    out.extend_from_slice(bytes);
    let end = to == log.end;
    (OutputPart { from, to, end }, out.freeze())
}

fn region(
    log: &Log,
    path: &Path,
    kept: &Kept,
    before: u64,
    from: u64,
    max: usize,
) -> Result<Bytes, ReadError> {
    let at = before + (from - kept.from);
    let available = kept.to - from;
    if log.inline.is_empty() {
        return read_frames(&File::open(path)?, at, available, max);
    }
    let rest = usize::try_from(at)
        .ok()
        .and_then(|at| log.inline.get(at..))
        .ok_or(ReadError::Position(from))?;
    let first = headers(rest).next().map_or(0, |h| HEADER + h.len);
    let whole = whole_frames(&rest[..rest.len().min(max.max(first))]);
    if whole == 0 {
        return Err(ReadError::Position(from));
    }
    Ok(Bytes::copy_from_slice(&rest[..whole]))
}
