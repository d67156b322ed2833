//! A log that has ended, read as the journal describes it; and what a crash has left of one that had not.

use std::fs::File;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use lictor_proto::Digest;
use lictor_proto::agent::OutputPart;
use lictor_proto::doc::KeptRange;
use lictor_proto::frame::HEADER;
use sha2::{Digest as _, Sha256};

use super::writer::Ended;
use super::{INLINE, Kept, Log, ReadError, gap, headers, read_frames, stream_of, whole_frames};

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

/// What a crash has left of a log: its frames from the start, as long as they hang together. The file is cut to
/// that. The streams' lengths and digests are those of what is left; nobody knows more.
///
/// # Errors
/// When the disk fails.
pub fn recover(path: &Path) -> Result<Ended, ReadError> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Ended::nothing()),
        Err(e) => return Err(e.into()),
    };
    let length = file.metadata()?.len();
    let mut hash = [Sha256::new(), Sha256::new()];
    let mut at = [0u64; 2];
    let mut end = 0;
    'file: while end < length {
        // A torn frame or the zeros of a block that was never written end the log.
        let Ok(bytes) = read_frames(&file, end, length - end, 1024 * 1024) else {
            break;
        };
        let mut offset = 0;
        for header in headers(&bytes) {
            let Some(stream) = stream_of(header.kind).filter(|s| header.at == at[*s]) else {
                break 'file;
            };
            let payload = &bytes[offset + HEADER..offset + HEADER + header.len];
            hash[stream].update(payload);
            at[stream] += header.len as u64;
            offset += HEADER + header.len;
            end += (HEADER + header.len) as u64;
        }
        if offset == 0 {
            break;
        }
    }
    file.set_len(end)?;
    file.sync_data()?;
    let mut ended = Ended::nothing();
    ended.log.end = end;
    [ended.log.stdout_bytes, ended.log.stderr_bytes] = at;
    if end > 0 {
        ended.log.kept.push(Kept {
            from: 0,
            to: end,
            stdout_at: 0,
            stderr_at: 0,
        });
    }
    if end > 0 && end <= INLINE {
        ended.log.inline = std::fs::read(path)?;
    }
    for (stream, summary) in [&mut ended.stdout, &mut ended.stderr].into_iter().enumerate() {
        summary.bytes = at[stream];
        summary.sha256 = Digest(hash[stream].clone().finalize().into());
        if at[stream] > 0 {
            summary.kept.push(KeptRange {
                from: 0,
                to: at[stream],
                sha256: summary.sha256,
            });
        }
    }
    Ok(ended)
}
