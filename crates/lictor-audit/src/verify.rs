//! Reads a log's lines and finds any changed, removed or reordered record.
//!
//! What one log cannot show by itself is that its end was cut off. For that the verifier takes heads that
//! somebody kept elsewhere (each receipt carries one): every one of them must occur.

use std::collections::BTreeSet;
use std::io::{BufRead, Read as _};

use lictor_proto::Digest;

use crate::chain::{Broken, Chain, genesis};
use crate::record::{LINE, LineError, Record};

/// What must hold besides the chain itself.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// The log's name (node id or org id); `None` accepts any name.
    pub log: Option<String>,
    /// Heads that somebody kept; each must be the hash of a record, or of the log's name.
    pub known_heads: BTreeSet<Digest>,
}

/// A log that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Number of records.
    pub records: u64,
    /// Hash of the last one; `None` in an empty log.
    pub head: Option<Digest>,
}

/// Why a log does not hold.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A line that is no unchanged record.
    #[error("line {line}: {problem}")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        #[source]
        problem: LineError,
    },
    /// A record that does not continue the chain.
    #[error("line {line}: {problem}")]
    Chain {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        #[source]
        problem: Broken,
    },
    /// A head that somebody kept does not occur: the end was cut off, or the log was written anew.
    #[error("the known head {0} does not occur: records were removed from the end, or the log was rewritten")]
    HeadMissing(Digest),
    /// The lines could not be read.
    #[error("cannot read the log")]
    Read(#[source] std::io::Error),
}

/// Reads all lines and checks each record, the chain and the known heads.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(reader: impl BufRead, expect: &Expect) -> Result<Checked, VerifyError> {
    let mut missing = expect.known_heads.clone();
    let mut chain: Option<Chain> = expect.log.as_deref().map(Chain::new);
    if let Some(log) = &expect.log {
        missing.remove(&genesis(log));
    }
    let mut records = 0;
    each_line(reader, |number, line| {
        let record = Record::parse(line).map_err(|problem| VerifyError::Line {
            line: number,
            problem,
        })?;
        let chain = chain.get_or_insert_with(|| Chain::resume(0, record.prev()));
        chain.follow(&record).map_err(|problem| VerifyError::Chain {
            line: number,
            problem,
        })?;
        missing.remove(&record.prev());
        missing.remove(&record.hash());
        records += 1;
        Ok(())
    })?;
    if let Some(head) = missing.first() {
        return Err(VerifyError::HeadMissing(*head));
    }
    Ok(Checked {
        records,
        head: chain.filter(|_| records > 0).map(|c| c.head()),
    })
}

fn each_line(
    mut reader: impl BufRead,
    mut take: impl FnMut(u64, &str) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader
            .by_ref()
            .take(LINE as u64 + 2)
            .read_until(b'\n', &mut bytes)
            .map_err(VerifyError::Read)?;
        if read == 0 {
            return Ok(());
        }
        let malformed = |why: &str| VerifyError::Line {
            line: number,
            problem: LineError::Malformed(why.to_owned()),
        };
        let line = bytes
            .strip_suffix(b"\n")
            .ok_or_else(|| malformed("the line is cut off or too long"))?;
        let line = std::str::from_utf8(line).map_err(|_| malformed("not UTF-8"))?;
        take(number, line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lictor_proto::Timestamp;

    use super::*;
    use crate::event::{Event, EventType};

    fn lines(n: u64) -> Vec<String> {
        let mut chain = Chain::new("n_x");
        (0..n)
            .map(|i| {
                let e = Event::new(EventType::JobStarted).with("i", i);
                chain.append(Timestamp::from_millis(i), e).line()
            })
            .collect()
    }

    fn check(lines: &[String], heads: &[Digest]) -> Result<Checked, VerifyError> {
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        let expect = Expect {
            log: Some("n_x".to_owned()),
            known_heads: heads.iter().copied().collect(),
        };
        verify(text.as_bytes(), &expect)
    }

    fn head(lines: &[String]) -> Digest {
        Record::parse(&lines[lines.len() - 1]).expect("a record").hash()
    }

    #[test]
    fn accepts_an_untouched_log_and_every_head_it_ever_had() {
        let all = lines(5);
        let heads: Vec<_> = (1..=5).map(|n| head(&all[..n])).chain([genesis("n_x")]).collect();
        let checked = check(&all, &heads).expect("holds");
        assert_eq!((checked.records, checked.head), (5, Some(head(&all))));
        assert!(check(&[], &[genesis("n_x")]).is_ok());
    }

    #[test]
    fn finds_any_removed_record_a_cut_end_included() {
        let all = lines(5);
        for gone in 0..5 {
            let mut rest = all.clone();
            rest.remove(gone);
            assert!(check(&rest, &[head(&all)]).is_err(), "record {gone}");
        }
        assert!(matches!(
            check(&all[..4], &[head(&all)]),
            Err(VerifyError::HeadMissing(_))
        ));
    }

    #[test]
    fn finds_any_two_records_in_each_others_place() {
        let all = lines(4);
        for a in 0..4 {
            for b in a + 1..4 {
                let mut swapped = all.clone();
                swapped.swap(a, b);
                assert!(matches!(check(&swapped, &[]), Err(VerifyError::Chain { .. })));
            }
        }
    }

    #[test]
    fn finds_any_changed_byte() {
        let all = lines(3);
        for at in 0..all[1].len() {
            let mut bytes = all[1].clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            let mut log = all.clone();
            log[1] = changed;
            assert!(check(&log, &[]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn refuses_another_logs_records() {
        let mut chain = Chain::new("n_y");
        let other = vec![
            chain
                .append(Timestamp::default(), Event::new(EventType::HubStarted))
                .line(),
        ];
        assert!(matches!(check(&other, &[]), Err(VerifyError::Chain { .. })));
    }

    #[test]
    fn refuses_a_torn_last_line() {
        let text = lines(2).join("\n");
        assert!(matches!(
            verify(text.as_bytes(), &Expect::default()),
            Err(VerifyError::Line { line: 2, .. })
        ));
    }
}
