//! What a client saw of one output stream, so that it can be held against what the node signed.
//!
//! The node signs length and SHA-256 of everything that a process wrote, and of each part that was kept. A
//! follower that saw every byte compares the first. One that missed a part (it was slow, or came late) must have
//! seen exactly the kept parts; whatever it saw besides is in [`Doubt`], since nothing that is signed covers it.
//!
//! # Invariants
//! - Bytes that repeat, overlap or leave a hole that no gap frame declared end the stream: the hub made them up.
//! - [`Seen::Whole`] and [`Seen::Kept`] mean that every byte that was shown is under a digest that the node signed,
//!   and that every byte that the node kept was shown.
//! - Memory does not grow with the output.

use lictor_proto::Digest;
use lictor_proto::doc::{KeptRange, StreamSummary};
use sha2::{Digest as _, Sha256};

use crate::probe::Probe;

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
    /// Some bytes were missed; what was seen is exactly what was kept, and what the node signed.
    Kept,
    /// Nothing contradicts, and something is not proven.
    Partly(Doubt),
    /// As [`Seen::Partly`], and there was more behind the end that the node signed.
    Beyond(Doubt),
    /// What was seen is not what the node signed.
    Differs,
}

/// What keeps output that nothing contradicts from being believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Bytes that were shown, of parts that the node did not keep: no digest covers them.
    pub unproven: u64,
    /// Bytes that the node kept and that were not shown.
    pub unseen: u64,
}

impl Doubt {
    /// Both streams together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            unproven: self.unproven + other.unproven,
            unseen: self.unseen + other.unseen,
        }
    }
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
        self.next += bytes.len() as u64;
        if !self.open {
            if self.runs.len() == RUNS {
                // Seen and not remembered: never proven.
                return Some(skipped);
            }
            self.runs.push(Run {
                from: at,
                to: at,
                hash: Sha256::new(),
                checkpoints: Vec::new(),
            });
            self.open = true;
        }
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
        if self.next > signed.bytes {
            return match self.compare_kept(signed) {
                Seen::Partly(doubt) | Seen::Beyond(doubt) => Seen::Beyond(doubt),
                Seen::Whole | Seen::Kept => Seen::Beyond(Doubt::default()),
                Seen::Differs => Seen::Differs,
            };
        }
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
        self.compare_kept(signed)
    }

    /// Holds what was seen against the parts that the node kept.
    fn compare_kept(&self, signed: &StreamSummary) -> Seen {
        let ranges: Vec<Option<bool>> = signed.kept.iter().map(|r| self.range(r)).collect();
        if ranges.contains(&Some(false)) {
            return Seen::Differs;
        }
        let doubt = self.doubt(&spans(&signed.kept));
        if doubt == Doubt::default() && ranges.iter().all(|r| *r == Some(true)) {
            return Seen::Kept;
        }
        Seen::Partly(doubt)
    }

    fn doubt(&self, kept: &[(u64, u64)]) -> Doubt {
        let both: u64 = self.runs.iter().map(|run| run.within(kept)).sum();
        Doubt {
            unproven: self.seen() - both,
            unseen: kept.iter().map(|(from, to)| to - from).sum::<u64>() - both,
        }
    }

    /// What a second reading must find where this one saw something: only runs that lie in kept parts whole, since
    /// nothing else is certain to be read again.
    pub(crate) fn probes(&self, signed: &StreamSummary) -> Vec<Probe> {
        let kept = spans(&signed.kept);
        let runs = self
            .runs
            .iter()
            .filter(|run| run.within(&kept) == run.to - run.from);
        runs.map(|run| Probe::new(run.from, run.to, digest_of(&run.hash)))
            .collect()
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

impl Run {
    /// How many of its bytes lie in these spans.
    fn within(&self, spans: &[(u64, u64)]) -> u64 {
        let common = |(from, to): &(u64, u64)| self.to.min(*to).saturating_sub(self.from.max(*from));
        spans.iter().map(common).sum()
    }
}

/// Kept ranges, those that touch made one.
fn spans(kept: &[KeptRange]) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for range in kept {
        match spans.last_mut() {
            Some((_, to)) if *to == range.from => *to = range.to,
            _ => spans.push((range.from, range.to)),
        }
    }
    spans
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
    fn bytes_behind_the_signed_end_are_unproven_where_those_before_it_hold() {
        let mut w = Witness::default();
        assert!(w.bytes(0, b"kept").is_some() && w.bytes(4, b" and lost").is_some());
        let beyond = |unproven| Seen::Beyond(Doubt { unproven, unseen: 0 });
        assert_eq!(w.compare(&summary(b"kept", &[(0, 4)])), beyond(9));
        assert_eq!(w.compare(&StreamSummary::empty()), beyond(13));
        assert_eq!(w.compare(&summary(b"k3pt", &[(0, 4)])), Seen::Differs);
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
        let of = |unproven, unseen| Seen::Partly(Doubt { unproven, unseen });
        assert_eq!(w.compare(&summary(all, &[(0, 7), (10, 14)])), Seen::Kept);
        assert_eq!(w.compare(&summary(all, &[(0, 4), (10, 14)])), of(3, 0));
        assert_eq!(w.compare(&summary(all, &[(0, 4), (8, 14)])), of(3, 2));
        let mut forged = summary(all, &[(0, 4), (10, 14)]);
        forged.kept[0].sha256 = Digest::of(b"lies");
        assert_eq!(w.compare(&forged), Seen::Differs);
    }

    #[test]
    fn bytes_that_no_signed_part_covers_are_never_believed() {
        let all = b"headmiddletail";
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"head"), Some(0));
        assert_eq!(w.gap(5), 1);
        assert_eq!(w.bytes(5, b"LIES"), Some(0));
        assert_eq!(w.gap(10), 1);
        assert_eq!(w.bytes(10, b"tail"), Some(0));
        let doubt = Doubt {
            unproven: 4,
            unseen: 0,
        };
        assert_eq!(w.compare(&summary(all, &[(0, 4), (10, 14)])), Seen::Partly(doubt));
    }

    #[test]
    fn bytes_after_a_gap_in_a_kept_part_are_to_be_read_again() {
        let all = b"as it was";
        let signed = summary(all, &[(0, 9)]);
        let mut w = Witness::default();
        assert_eq!(w.gap(1), 1);
        assert_eq!(w.bytes(1, b"s it is!"), Some(0));
        let doubt = Doubt {
            unproven: 0,
            unseen: 1,
        };
        assert_eq!(w.compare(&signed), Seen::Partly(doubt));
        let mut probes = w.probes(&signed);
        assert_eq!(probes.len(), 1);
        probes[0].take(0, all);
        assert_eq!(probes[0].holds(), Some(false));
    }

    #[test]
    fn more_gaps_than_are_remembered_leave_bytes_unproven() {
        let runs = RUNS as u64 + 1;
        let mut w = Witness::default();
        for i in 0..runs {
            w.gap(2 * i + 1);
            assert!(w.bytes(2 * i + 1, b"x").is_some());
        }
        let all = vec![b'x'; 2 * runs as usize];
        let doubt = Doubt {
            unproven: 1,
            unseen: runs + 1,
        };
        assert_eq!(w.compare(&summary(&all, &[(0, all.len())])), Seen::Partly(doubt));
    }

    #[test]
    fn the_next_byte_says_how_long_a_declared_gap_was() {
        let all = b"headmiddletail";
        let signed = summary(all, &[(0, 4), (10, 14)]);
        let mut w = Witness::default();
        assert_eq!(w.bytes(0, b"head"), Some(0));
        assert_eq!(w.gap(0), 0, "whoever declared it did not know");
        let doubt = Doubt {
            unproven: 0,
            unseen: 4,
        };
        assert_eq!(w.compare(&signed), Seen::Partly(doubt), "nothing came after it");
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
