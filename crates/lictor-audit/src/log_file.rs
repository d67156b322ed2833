//! A log in a file of its own, one record a line.
//!
//! The agent's records live in its journal and move here when the journal is rotated; another program may write
//! its records here directly. Opening reads and checks the whole file: a log that does not hold is an error, not
//! a fresh start. Only a torn last line, which was never reported as durable, is cut off.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::chain::Chain;
use crate::record::Record;
use crate::verify::{Expect, VerifyError, verify};

/// An open log file and the end of its chain.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    chain: Chain,
    length: u64,
}

/// Why a log file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system's reason.
    #[error("cannot open the audit log")]
    Io(#[from] std::io::Error),
    /// Its content does not hold.
    #[error("the audit log does not hold")]
    Broken(#[from] VerifyError),
}

impl LogFile {
    /// Opens or makes the log called `log` at `path`, readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be opened, or a record in it was changed, removed or reordered.
    pub fn open(path: &Path, log: &str) -> Result<Self, OpenError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let length = whole_lines(&mut file)?;
        if length < file.metadata()?.len() {
            file.set_len(length)?;
            file.sync_data()?;
        }
        file.seek(SeekFrom::Start(0))?;
        let expect = Expect {
            log: Some(log.to_owned()),
            ..Expect::default()
        };
        let checked = verify(BufReader::new(&file), &expect)?;
        let chain = checked
            .head
            .map_or_else(|| Chain::new(log), |head| Chain::resume(checked.records, head));
        Ok(Self { file, chain, length })
    }

    /// The chain, to make the next records with; they are given to [`Self::append`].
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain.clone()
    }

    /// Writes the records that continue the log and syncs; those that are in it already are passed over.
    ///
    /// # Errors
    /// When the records do not continue the chain, or the disk refuses; the file is then as before.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> std::io::Result<()> {
        let mut chain = self.chain.clone();
        let mut text = String::new();
        for record in records.into_iter().filter(|r| r.seq() > self.chain.seq()) {
            chain
                .follow(record)
                .map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))?;
            text.push_str(&record.line());
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        // What a failed write has left, and could not be cut off then.
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        let written = self
            .file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // A half-written line would be taken for the torn end that it is; cut it now, while we know.
            let _ = self.file.set_len(self.length);
            return Err(e);
        }
        self.length += text.len() as u64;
        self.chain = chain;
        Ok(())
    }
}

/// Length of the part that ends in a line feed.
fn whole_lines(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let piece = &mut block[..usize::try_from(end - start).unwrap_or_default()];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use lictor_proto::Timestamp;

    use super::*;
    use crate::event::{Event, EventType};

    fn add(log: &mut LogFile, n: usize) {
        let mut chain = log.chain();
        let records: Vec<_> = (0..n)
            .map(|_| chain.append(Timestamp::default(), Event::new(EventType::HubStarted)))
            .collect();
        log.append(&records).expect("appends");
        // Said again, they are passed over.
        log.append(&records).expect("appends");
    }

    #[test]
    fn goes_on_where_it_ended_and_cuts_a_torn_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.log");
        let mut log = LogFile::open(&path, "o").expect("opens");
        add(&mut log, 3);
        let head = log.chain();
        let mut torn = std::fs::read(&path).expect("reads");
        torn.extend_from_slice(b"{\"seq\":4,");
        std::fs::write(&path, &torn).expect("writes");
        let mut log = LogFile::open(&path, "o").expect("opens");
        assert_eq!(log.chain(), head);
        add(&mut log, 2);
        assert_eq!(LogFile::open(&path, "o").expect("opens").chain().seq(), 5);
    }

    #[test]
    fn what_a_failed_write_has_left_is_gone_before_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.log");
        let mut log = LogFile::open(&path, "o").expect("opens");
        add(&mut log, 1);
        let mut half = OpenOptions::new().append(true).open(&path).expect("opens");
        half.write_all(b"{\"seq\":2,").expect("writes");
        add(&mut log, 1);
        assert_eq!(LogFile::open(&path, "o").expect("holds").chain().seq(), 2);
    }

    #[test]
    fn refuses_to_open_a_log_that_was_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.log");
        add(&mut LogFile::open(&path, "o").expect("opens"), 3);
        let text = std::fs::read_to_string(&path).expect("reads");
        let without_second: String = text
            .lines()
            .enumerate()
            .filter(|(i, _)| *i != 1)
            .map(|(_, l)| format!("{l}\n"))
            .collect();
        std::fs::write(&path, without_second).expect("writes");
        assert!(matches!(LogFile::open(&path, "o"), Err(OpenError::Broken(_))));
        assert!(matches!(LogFile::open(&path, "other"), Err(OpenError::Broken(_))));
    }
}
