//! The receipts that this home has seen, so that a node's or a hub's story cannot change unnoticed.
//!
//! A node numbers its receipts and chains them by digest. Other clients' jobs take numbers too, so a missing
//! number proves nothing by itself; two receipts for one number or one job do, and so does a chain that does not
//! fit, or a low number on a late receipt. One line per receipt is appended to `receipts/<node>`, under the lock of
//! the home's trust, so that two receipts which two processes note at once are held against each other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_proto::code::Refusal;
use lictor_proto::doc::Receipt;
use lictor_proto::{Code, Digest, NodeId, Timestamp};

use crate::home::{HomeError, make_dir, replace};
use crate::lock::Lock;

/// How much of a node's file is looked at: some 300 receipts.
const WINDOW: u64 = 64 * 1024;
/// A file that has grown to this is cut to its window.
const MAX_FILE: u64 = 1024 * 1024;
/// Jobs that end together may be numbered the other way round than their ends; more than this is a regress.
const TOLERANCE: Duration = Duration::from_secs(60);

/// All receipts seen.
#[derive(Debug, Clone)]
pub struct ReceiptTracker {
    trust_dir: PathBuf,
    dir: PathBuf,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    seq: u64,
    receipt: Digest,
    prev: Option<Digest>,
    job: Digest,
    finished_at: Timestamp,
    /// Head of the node's audit log before it; absent in lines of older versions.
    audit_head: Option<Digest>,
}

/// What the tracker has to say about a receipt that is new to it and fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It follows on what is known.
    InOrder,
    /// It was known.
    Known,
    /// This many receipts before it have not been seen here: other clients' jobs, or withheld ones.
    Missing(u64),
}

impl ReceiptTracker {
    /// The tracker below `trust_dir`.
    #[must_use]
    pub fn below(trust_dir: &Path) -> Self {
        Self {
            trust_dir: trust_dir.to_owned(),
            dir: trust_dir.join("receipts"),
        }
    }

    /// Takes note of a verified receipt.
    ///
    /// # Errors
    /// [`Code::ReceiptConflict`] or [`Code::ReceiptGap`] when it contradicts what was seen before, and
    /// [`Code::Unconfirmed`] when the tracker's own file fails.
    pub fn note(&self, receipt: &Receipt, digest: Digest) -> Result<Noted, Refusal> {
        let line = Line {
            seq: receipt.node_seq,
            receipt: digest,
            prev: receipt.prev,
            job: receipt.job_digest,
            finished_at: receipt.finished_at,
            audit_head: Some(receipt.audit_head),
        };
        let own_file = |e: HomeError| {
            let reason = std::error::Error::source(&e).map_or_else(String::new, |s| format!(": {s}"));
            Refusal::new(
                Code::Unconfirmed,
                format!("cannot remember receipts: {e}{reason}"),
            )
        };
        let _lock = Lock::take(&self.trust_dir).map_err(own_file)?;
        let known = self.read(&receipt.node_id).map_err(own_file)?;
        let noted = judge(&known, &line)?;
        if noted != Noted::Known {
            self.append(&receipt.node_id, &line).map_err(own_file)?;
        }
        Ok(noted)
    }

    /// Heads of the node's audit log that its newest known receipts carry: each must occur in the log.
    ///
    /// # Errors
    /// When the tracker's own file cannot be read.
    pub fn audit_heads(&self, node: &NodeId) -> Result<BTreeSet<Digest>, HomeError> {
        Ok(self
            .read(node)?
            .into_iter()
            .filter_map(|l| l.audit_head)
            .collect())
    }

    /// The nodes whose receipts were seen.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn read(&self, node: &NodeId) -> Result<Vec<Line>, HomeError> {
        let path = self.dir.join(node.as_str());
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(HomeError::io(&path)(e)),
        };
        let mut text = String::new();
        let mut window = || {
            let start = file.metadata()?.len().saturating_sub(WINDOW);
            file.seek(SeekFrom::Start(start))?;
            file.read_to_string(&mut text)?;
            Ok(start)
        };
        let start = window().map_err(HomeError::io(&path))?;
        // The first line of a window is cut somewhere, and a torn one may follow a crash: neither is read.
        Ok(text
            .lines()
            .skip(usize::from(start > 0))
            .filter_map(Line::parse)
            .collect())
    }

    fn append(&self, node: &NodeId, line: &Line) -> Result<(), HomeError> {
        make_dir(&self.dir)?;
        let path = self.dir.join(node.as_str());
        if fs::metadata(&path).is_ok_and(|m| m.len() > MAX_FILE) {
            let bytes = fs::read(&path).map_err(HomeError::io(&path))?;
            let tail = &bytes[bytes.len().saturating_sub(WINDOW as usize)..];
            let border = tail.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
            replace(&path, &tail[border..])?;
        }
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.read(true).append(true).create(true).open(&path)?;
            let mut text = line.to_text();
            let mut last = [b'\n'];
            if file.metadata()?.len() > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            // A line that a crash tore stays by itself. What a crash of the machine takes from the end is known to
            // the node still, and shows as missing: not worth a sync for every job.
            if last != [b'\n'] {
                text.insert(0, '\n');
            }
            file.write_all(text.as_bytes())
        };
        write().map_err(HomeError::io(&path))
    }
}

/// Whether `new` fits what is known of its node.
fn judge(known: &[Line], new: &Line) -> Result<Noted, Refusal> {
    if known.iter().any(|old| old.receipt == new.receipt) {
        return Ok(Noted::Known);
    }
    let conflict = |why: &str| Refusal::new(Code::ReceiptConflict, why);
    for old in known {
        if old.job == new.job {
            return Err(conflict("another receipt for this job was seen before"));
        }
        if old.seq == new.seq {
            return Err(conflict("another receipt with this number was seen before"));
        }
        let follows = |a: &Line, b: &Line| b.seq == a.seq + 1 && b.prev != Some(a.receipt);
        if follows(old, new) || follows(new, old) {
            return Err(conflict("the receipt does not continue the one before it"));
        }
    }
    let Some(highest) = known.iter().max_by_key(|l| l.seq) else {
        return Ok(Noted::InOrder);
    };
    if new.seq < highest.seq && new.finished_at.since(highest.finished_at) > TOLERANCE {
        let why = format!("receipt {} ended after receipt {}", new.seq, highest.seq);
        return Err(Refusal::new(Code::ReceiptGap, why));
    }
    Ok(match new.seq.saturating_sub(highest.seq) {
        0 | 1 => Noted::InOrder,
        n => Noted::Missing(n - 1),
    })
}

impl Line {
    fn to_text(&self) -> String {
        let prev = self.prev.map_or_else(|| "-".to_owned(), |d| d.to_string());
        format!(
            "{} {} {prev} {} {}{}\n",
            self.seq,
            self.receipt,
            self.job,
            self.finished_at.as_millis(),
            self.audit_head.map_or_else(String::new, |h| format!(" {h}"))
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let line = Self {
            seq: words.next()?.parse().ok()?,
            receipt: words.next()?.parse().ok()?,
            prev: match words.next()? {
                "-" => None,
                digest => Some(digest.parse().ok()?),
            },
            job: words.next()?.parse().ok()?,
            finished_at: Timestamp::from_millis(words.next()?.parse().ok()?),
            audit_head: match words.next() {
                Some(head) => Some(head.parse().ok()?),
                None => None,
            },
        };
        words.next().is_none().then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, prev: Option<&str>, id: &str) -> Line {
        Line {
            seq,
            receipt: Digest::of(id.as_bytes()),
            prev: prev.map(|p| Digest::of(p.as_bytes())),
            job: Digest::of(format!("job {id}").as_bytes()),
            finished_at: Timestamp::from_millis(seq * 1000),
            audit_head: Some(Digest::of(b"head")),
        }
    }

    #[test]
    fn lines_come_back_as_they_were_written() {
        for l in [line(1, None, "a"), line(7, Some("f"), "g")] {
            assert_eq!(Line::parse(l.to_text().trim_end()), Some(l));
        }
        assert_eq!(Line::parse("5 sha256:00"), None);
        let mut old = line(2, Some("a"), "b");
        old.audit_head = None;
        assert_eq!(Line::parse(old.to_text().trim_end()), Some(old));
    }

    #[test]
    fn receipts_in_order_or_out_of_order_are_fine() {
        let known = [line(1, None, "a"), line(3, Some("b"), "c")];
        assert_eq!(judge(&known, &line(2, Some("a"), "b")), Ok(Noted::InOrder));
        assert_eq!(judge(&known, &line(4, Some("c"), "d")), Ok(Noted::InOrder));
        assert_eq!(judge(&known, &line(9, Some("h"), "i")), Ok(Noted::Missing(5)));
        assert_eq!(judge(&known, &known[1]), Ok(Noted::Known));
    }

    #[test]
    fn a_second_story_is_a_conflict() {
        let known = [line(1, None, "a"), line(2, Some("a"), "b")];
        let code = |l: Line| judge(&known, &l).map_err(|r| r.code);
        assert_eq!(code(line(2, Some("a"), "other")), Err(Code::ReceiptConflict));
        assert_eq!(code(line(3, Some("x"), "c")), Err(Code::ReceiptConflict));
        let mut same_job = line(3, Some("b"), "c");
        same_job.job = known[0].job;
        assert_eq!(code(same_job), Err(Code::ReceiptConflict));
    }

    #[test]
    fn a_low_number_on_a_late_receipt_is_a_regress() {
        let known = [line(9, Some("h"), "i")];
        let mut late = line(5, Some("d"), "e");
        late.finished_at = Timestamp::from_millis(9000 + 61_000);
        assert_eq!(judge(&known, &late).map_err(|r| r.code), Err(Code::ReceiptGap));
    }
}
