//! The file's format: a header, then records; found again after a crash, torn ends told apart from damage.
//!
//! ```text
//! file    "LICTOR-JOURNAL1\n" record*
//! record  "LJR1" | length u32 | durable u64 | first 8 bytes of SHA-256(length, durable, payload) | payload
//! payload ( "E" entry JSON "\n" | "A" audit line "\n" )*
//! ```
//!
//! `durable` is how much of the file was synced when the record was written. A bad record followed by a good one
//! that says the bad one's place was durable is damage to the disk, not a torn write; then the journal must not be
//! shortened, since it would forget jobs that have run.

use sha2::{Digest as _, Sha256};

/// First bytes of every journal.
pub const FILE_HEADER: &[u8; 16] = b"LICTOR-JOURNAL1\n";
const MAGIC: &[u8; 4] = b"LJR1";
const HEADER: usize = 24;
/// Largest payload of one record that is read.
pub const PAYLOAD: usize = 16 * 1024 * 1024;
/// Largest payload of one step that is written: one envelope, the approvals or the receipt, and little else. In a
/// rotated file, what two steps have said about one job stands in one record.
pub const STEP: usize = 7 * 1024 * 1024;
const _: () = assert!(2 * STEP < PAYLOAD);

/// Appends a record to `out`.
pub fn encode(durable: u64, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let durable = durable.to_le_bytes();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&length);
    out.extend_from_slice(&durable);
    out.extend_from_slice(&checksum(length, durable, payload));
    out.extend_from_slice(payload);
}

fn checksum(length: [u8; 4], durable: [u8; 8], payload: &[u8]) -> [u8; 8] {
    let mut h = Sha256::new();
    h.update(length);
    h.update(durable);
    h.update(payload);
    let full: [u8; 32] = h.finalize().into();
    std::array::from_fn(|i| full[i])
}

/// The whole records of a file.
#[derive(Debug)]
pub struct Scan<'a> {
    /// Their payloads, in order.
    pub payloads: Vec<&'a [u8]>,
    /// Length of the good part.
    pub length: u64,
}

/// Damage that is no torn end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is something else.
    #[error("it does not start as a journal does")]
    NoJournal,
    /// A record that had been durable cannot be read.
    #[error("the record at byte {0} is damaged, and had been durable")]
    Record(u64),
}

/// Finds the records; stops at a torn end.
///
/// # Errors
/// When something durable is damaged.
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, Damage> {
    let mut scan = Scan {
        payloads: Vec::new(),
        length: 0,
    };
    if bytes.len() < FILE_HEADER.len() {
        // A crash while the file was made; nothing can have been in it.
        return if FILE_HEADER.starts_with(bytes) {
            Ok(scan)
        } else {
            Err(Damage::NoJournal)
        };
    }
    if !bytes.starts_with(FILE_HEADER) {
        return Err(Damage::NoJournal);
    }
    let mut at = FILE_HEADER.len();
    while let Some(record) = read(&bytes[at..]) {
        scan.payloads.push(record.payload);
        at += HEADER + record.payload.len();
    }
    scan.length = at as u64;
    let later_durable = (at + 1..bytes.len().saturating_sub(HEADER))
        .filter(|i| bytes[*i..].starts_with(MAGIC))
        .filter_map(|i| read(&bytes[i..]))
        .any(|r| r.durable > scan.length);
    if later_durable {
        return Err(Damage::Record(scan.length));
    }
    Ok(scan)
}

struct Read<'a> {
    durable: u64,
    payload: &'a [u8],
}

fn read(bytes: &[u8]) -> Option<Read<'_>> {
    let head: &[u8; HEADER] = bytes.first_chunk()?;
    let length: [u8; 4] = head[4..8].try_into().ok()?;
    let durable: [u8; 8] = head[8..16].try_into().ok()?;
    let len = u32::from_le_bytes(length) as usize;
    if !head.starts_with(MAGIC) || len > PAYLOAD {
        return None;
    }
    let payload = bytes.get(HEADER..HEADER + len)?;
    (checksum(length, durable, payload) == head[16..24]).then_some(Read {
        durable: u64::from_le_bytes(durable),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[(u64, &[u8])]) -> Vec<u8> {
        let mut out = FILE_HEADER.to_vec();
        for (durable, payload) in records {
            encode(*durable, payload, &mut out);
        }
        out
    }

    #[test]
    fn every_torn_end_leaves_the_whole_records_before_it() {
        let all = file(&[(0, b"one"), (16, b"two"), (16, b"three")]);
        let pieces: [(u64, &[u8]); 3] = [(0, b"one"), (16, b"two"), (16, b"three")];
        let ends: Vec<usize> = (0..=3).map(|n| file(&pieces[..n]).len()).collect();
        for cut in 0..=all.len() {
            let scan = scan(&all[..cut]).expect("only torn");
            let whole = ends.iter().filter(|e| **e <= cut).count().saturating_sub(1);
            assert_eq!(scan.payloads.len(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn damage_under_a_later_durable_mark_is_an_error_and_under_none_a_torn_batch() {
        let first = file(&[(0, b"one")]).len() as u64;
        let mut damaged = file(&[(0, b"one"), (16, b"two"), (first + 27, b"three")]);
        let at = usize::try_from(first).expect("small") + HEADER;
        damaged[at] ^= 1;
        assert_eq!(scan(&damaged).err(), Some(Damage::Record(first)));
        let mut torn = file(&[(0, b"one"), (16, b"two"), (16, b"three")]);
        torn[at] ^= 1;
        assert_eq!(scan(&torn).map(|s| s.payloads.len()).ok(), Some(1));
    }

    #[test]
    fn refuses_a_file_that_is_no_journal() {
        assert_eq!(scan(b"x").err(), Some(Damage::NoJournal));
        assert_eq!(scan(&[0; 64]).err(), Some(Damage::NoJournal));
        assert!(scan(b"").is_ok());
    }
}
