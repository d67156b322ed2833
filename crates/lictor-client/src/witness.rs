//! What a client saw of one output stream, so that it can be held against what the node signed.
//!
//! The node signs length and SHA-256 of everything that a process wrote, and of each part that was kept. A
//! follower that saw every byte compares the first. One that missed a part (it was slow, or came late) compares
//! the kept parts, as far as it saw them whole.
//!
//! # Invariants
//! - Bytes that repeat, overlap or leave a hole that no gap frame declared end the stream: the hub made them up.
//! - Memory does not grow with the output.

use lictor_proto::Digest;
use lictor_proto::doc::{KeptRange, StreamSummary};
use sha2::{Digest as _, Sha256};

/// How many ends of frames are remembered per run of bytes; beyond that a second reading settles it.
const CHECKPOINTS: usize = 4096;
/// How many separate runs of bytes are remembered.
const RUNS: usize = 1024;

/// One stream as it was seen.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Offset of the next byte.
    next: u64,
    /// Bytes that were declared missing.
    missing: u64,
    /// A gap was declared, and no byte has come since: the next one says how long it was.
    in_gap: bool,
    /// Unbroken runs of bytes, in order; the last one is open unless a gap has just closed it.
    runs: Vec<Run>,
    open: bool,
}

#[derive(Debug)]
struct Run {
    from: u64,
    to: u64,
    hash: Sha256,
    /// (offset, digest of the run's bytes up to it) at ends of frames.
    checkpoints: Vec<(u64, Digest)>,
}

/// What the comparison with a signed summary gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Every byte was seen, and it is what the node signed.
    Whole,
    /// Some bytes were missed; every kept part was seen and is what the node signed.
    Kept,
    /// Nothing contradicts, but some kept part was not seen whole: read the stored log again.
    Partly,
    /// What was seen is not what the node signed.
    Differs,
}

impl Witness {
    /// Takes the bytes at `at`; gives how many bytes turn out to be missing before them, in a gap that was declared.
    /// `None` when they do not go on where the stream stands.
    #[must_use]
    pub(crate) fn bytes(&mut self, at: u64, bytes: &[u8]) -> Option<u64> {
        if at < self.next || (at > self.next && !self.in_gap) {
            return None;
        }
        let skipped = self.skip_to(at);
        self.in_gap = false;
        if !self.open {
            if self.runs.len() == RUNS {
                return None;
            }
            self.runs.push(Run {
                from: at,
                to: at,
                hash: Sha256::new(),
                checkpoints: Vec::new(),
            });
            self.open = true;
        }
        self.next += bytes.len() as u64;
        if let Some(run) = self.runs.last_mut() {
            run.hash.update(bytes);
            run.to = self.next;
            // The end of what was kept is an end of a frame, and which one is known only when the receipt comes.
            if run.checkpoints.len() < CHECKPOINTS {
                run.checkpoints.push((self.next, digest_of(&run.hash)));
            }
        }
        Some(skipped)
    }

    /// Takes note that something is missing here, and that the stream goes on at `at` or later; gives the bytes known
    /// to be missing.
    pub(crate) fn gap(&mut self, at: u64) -> u64 {
        self.in_gap = true;
        self.skip_to(at)
    }

    fn skip_to(&mut self, at: u64) -> u64 {
        let skipped = at.saturating_sub(self.next);
        if skipped > 0 {
            self.next = at;
            self.missing += skipped;
            self.open = false;
        }
        skipped
    }

    /// Bytes seen.
    pub(crate) fn seen(&self) -> u64 {
        self.next - self.missing
    }

    /// Holds what was seen against what the node signed.
    pub(crate) fn compare(&self, signed: &StreamSummary) -> Seen {
        let in_gap = self.in_gap && self.next < signed.bytes;
        if self.next != signed.bytes && !in_gap {
            return Seen::Differs;
        }
        if self.missing == 0 && !in_gap {
            let whole = self
                .runs
                .first()
                .map_or_else(|| Digest::of(b""), |r| digest_of(&r.hash));
            return if whole == signed.sha256 {
                Seen::Whole
            } else {
                Seen::Differs
            };
        }
        let mut result = Seen::Kept;
        for range in &signed.kept {
            match self.range(range) {
                Some(true) => {}
                Some(false) => return Seen::Differs,
                None => result = Seen::Partly,
            }
        }
        result
    }

    /// Whether a kept range was seen as signed; `None` when it was not seen in a way that can be compared.
    fn range(&self, range: &KeptRange) -> Option<bool> {
        let run = self.runs.iter().find(|r| r.from == range.from)?;
        let digest = if run.to == range.to {
            digest_of(&run.hash)
        } else {
            run.checkpoints.iter().find(|(at, _)| *at == range.to)?.1
        };
        Some(digest == range.sha256)
    }
}

fn digest_of(hash: &Sha256) -> Digest {
    Digest(hash.clone().finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(all: &[u8], kept: &[(usize, usize)]) -> StreamSummary {
        StreamSummary {
            bytes: all.len() as u64,
            sha256: Digest::of(all),
            kept: kept
                .iter()
                .map(|&(a, b)| KeptRange {
                    from: a as u64,
                    to: b as u64,
                    sha256: Digest::of(&all[a..b]),
                })
                .collect(),
        }
    }

    #[test]
    fn a_stream_seen_whole_is_compared_whole() {
        let mut w = Witness::default();
        assert!(w.bytes(0, b"hello ").is_some() && w.bytes(6, b"world").is_some());
        assert_eq!(w.compare(&summary(b"hello world", &[(0, 11)])), Seen::Whole);
        assert_eq!(w.compare(&summary(b"hello w0rld", &[(0, 11)])), Seen::Differs);
        assert_eq!(w.compare(&summary(b"hello world!", &[(0, 12)])), Seen::Differs);
        assert_eq!(Witness::default().compare(&StreamSummary::empty()), Seen::Whole);
    }

    #[test]
    fn bytes_that_do_not_follow_are_refused() {
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"abc"), Some(0));
        assert_eq!(w.bytes(2, b"c"), None, "repeat");
        assert_eq!(w.bytes(4, b"e"), None, "hole");
    }

    #[test]
    fn kept_parts_are_compared_when_the_middle_is_missing() {
        let all = b"headmiddletail";
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"head"), Some(0));
        assert_eq!(w.gap(10), 6);
        assert_eq!(w.bytes(10, b"tail"), Some(0));
        assert_eq!(w.compare(&summary(all, &[(0, 4), (10, 14)])), Seen::Kept);
        let mut forged = summary(all, &[(0, 4), (10, 14)]);
        forged.kept[1].sha256 = Digest::of(b"lies");
        assert_eq!(w.compare(&forged), Seen::Differs);
    }

    #[test]
    fn a_kept_head_is_found_inside_a_longer_run() {
        let all = b"headmiddletail";
        let mut w = Witness::default();
        assert!(w.bytes(0, b"head").is_some() && w.bytes(4, b"mid").is_some());
        assert_eq!(w.gap(10), 3);
        assert_eq!(w.bytes(10, b"tail"), Some(0));
        assert_eq!(w.compare(&summary(all, &[(0, 4), (10, 14)])), Seen::Kept);
        assert_eq!(w.compare(&summary(all, &[(0, 4), (8, 14)])), Seen::Partly);
    }

    #[test]
    fn the_next_byte_says_how_long_a_declared_gap_was() {
        let all = b"headmiddletail";
        let signed = summary(all, &[(0, 4), (10, 14)]);
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"head"), Some(0));
        assert_eq!(w.gap(0), 0, "whoever declared it did not know");
        assert_eq!(w.compare(&signed), Seen::Partly, "nothing came after it");
        assert_eq!(w.bytes(10, b"tail"), Some(6));
        assert_eq!(w.compare(&signed), Seen::Kept);
        assert_eq!(w.seen(), 8);
        assert_eq!(w.bytes(20, b"more"), None, "one gap, one hole");
    }

    #[test]
    fn an_end_that_is_cut_off_differs() {
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"head"), Some(0));
        assert_eq!(w.compare(&summary(b"headtail", &[(0, 8)])), Seen::Differs);
    }
}
