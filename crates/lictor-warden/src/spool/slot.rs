//! The head of a slot in the window's file: what is needed to take the window up again after a crash.
//!
//! ```text
//! "LSL1" | from u64 | stdout at u64 | stderr at u64 | budget u64 | hash state, twice | zeros | checksum, 8 bytes
//! ```
//!
//! With the states of both hashes, the digest of a whole stream is known even when its middle was given up.

use lictor_proto::Digest;
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// Bytes of a slot before its first frame.
pub(super) const LENGTH: usize = 256;
const MAGIC: &[u8; 4] = b"LSL1";
const CHECKED: usize = LENGTH - 8;

/// How everything stood where a slot begins.
#[derive(Debug, Clone)]
pub(super) struct SlotHead {
    /// Log position.
    pub(super) from: u64,
    /// Stream bytes before it.
    pub(super) at: [u64; 2],
    /// Payload bytes of the tail that are to be kept at the end.
    pub(super) budget: u64,
    /// The hashes of all stream bytes before it.
    pub(super) hashes: [Sha256; 2],
}

impl SlotHead {
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        for number in [self.from, self.at[0], self.at[1], self.budget] {
            put(&number.to_le_bytes());
        }
        for hash in &self.hashes {
            put(&hash.serialize());
        }
        let sum = Digest::of(&out[..CHECKED]);
        out[CHECKED..].copy_from_slice(&sum.0[..LENGTH - CHECKED]);
        out
    }

    /// `None` when a slot has never begun here, or was not written whole.
    pub(super) fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let sum = Digest::of(&bytes[..CHECKED]);
        let mut rest = bytes.strip_prefix(MAGIC)?;
        if bytes[CHECKED..] != sum.0[..LENGTH - CHECKED] {
            return None;
        }
        let mut number = || {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_le_bytes(*number))
        };
        let (from, at, budget) = (number()?, [number()?, number()?], number()?);
        let mut hash = || {
            let (state, after) = rest.split_at_checked(size_of::<SerializedState<Sha256>>())?;
            rest = after;
            Sha256::deserialize(&SerializedState::<Sha256>::try_from(state).ok()?).ok()
        };
        let hashes = [hash()?, hash()?];
        Some(Self {
            from,
            at,
            budget,
            hashes,
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn a_slot_head_reads_back_and_a_torn_one_does_not() {
        let hashes = [Sha256::new_with_prefix("stdout so far"), Sha256::new()];
        let head = SlotHead {
            from: 7,
            at: [5, u64::MAX],
            budget: 9,
            hashes,
        };
        let bytes = head.encode();
        let read = SlotHead::decode(&bytes).expect("reads");
        assert_eq!((read.from, read.at, read.budget), (7, [5, u64::MAX], 9));
        let digest = read.hashes[0].clone().chain_update(", and on").finalize();
        assert_eq!(digest[..], Sha256::digest("stdout so far, and on")[..]);
        for at in 0..LENGTH {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert!(SlotHead::decode(&torn).is_none(), "{at}");
        }
    }
}
