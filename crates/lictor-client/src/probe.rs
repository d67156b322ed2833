//! A range of a stream and the digest that it must have, hashed while the stream is read again.

use lictor_proto::Digest;
use sha2::{Digest as _, Sha256};

/// One range.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// The next byte that is wanted.
    next: u64,
    to: u64,
    expected: Digest,
    hash: Sha256,
}

impl Probe {
    /// The bytes from `from` up to `to`, which must have this digest.
    pub(crate) fn new(from: u64, to: u64, expected: Digest) -> Self {
        Self {
            next: from,
            to,
            expected,
            hash: Sha256::new(),
        }
    }

    /// Takes what of these bytes, the stream's from `at` on, is in the range. A range with a hole is never whole.
    pub(crate) fn take(&mut self, at: u64, bytes: &[u8]) {
        let end = at.saturating_add(bytes.len() as u64).min(self.to);
        if self.next < at || self.next >= end {
            return;
        }
        let index = |offset: u64| usize::try_from(offset - at).ok();
        if let (Some(from), Some(to)) = (index(self.next), index(end)) {
            self.hash.update(&bytes[from..to]);
            self.next = end;
        }
    }

    /// Whether the range has its digest; `None` when not all of it came.
    pub(crate) fn holds(&self) -> Option<bool> {
        (self.next >= self.to).then(|| Digest(self.hash.clone().finalize().into()) == self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_out_of_whatever_pieces_come() {
        for step in 1..9 {
            let mut probe = Probe::new(2, 6, Digest::of(b"cdef"));
            for (i, piece) in b"abcdefgh".chunks(step).enumerate() {
                probe.take((i * step) as u64, piece);
            }
            assert_eq!(probe.holds(), Some(true), "pieces of {step}");
        }
    }

    #[test]
    fn a_hole_leaves_it_open_and_other_bytes_do_not_hold() {
        let mut probe = Probe::new(2, 6, Digest::of(b"cdef"));
        probe.take(0, b"abc");
        probe.take(4, b"efgh");
        assert_eq!(probe.holds(), None);
        let mut probe = Probe::new(2, 6, Digest::of(b"cdef"));
        probe.take(0, b"abcdEf");
        assert_eq!(probe.holds(), Some(false));
        assert_eq!(Probe::new(3, 3, Digest::of(b"")).holds(), Some(true));
    }
}
