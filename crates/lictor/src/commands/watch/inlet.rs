//! A file that takes what a job writes, before anything of it is verified.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

/// A file that takes a job's standard output, each byte at its place, however often it comes.
pub(crate) struct Inlet<'a> {
    file: &'a File,
    most: u64,
    whole: Cell<bool>,
}

impl<'a> Inlet<'a> {
    /// Into this file, up to so many bytes: until there is a receipt, nobody has signed how many come.
    pub(crate) fn new(file: &'a File, most: u64) -> Self {
        let whole = Cell::new(false);
        Self { file, most, whole }
    }

    /// Whether every byte that the node has signed for is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.get()
    }

    /// The receipt was held against what came: it is all there, or not.
    pub(super) fn judged(&self, whole: bool) {
        self.whole.set(whole);
    }

    pub(super) fn take(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if at.saturating_add(bytes.len() as u64) > self.most {
            let why = format!(
                "the node sends more than the {} bytes that the job may bring",
                self.most
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let mut file = self.file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Inlet;

    #[test]
    fn takes_no_byte_beyond_what_may_come() {
        let file = tempfile::tempfile().expect("a file");
        let inlet = Inlet::new(&file, 8);
        assert!(inlet.take(4, b"5678").is_ok());
        assert!(inlet.take(0, b"1234").is_ok(), "it may come in any order");
        for (at, bytes) in [(5, &b"6789"[..]), (8, b"9"), (1 << 60, b"x"), (u64::MAX, b"x")] {
            let refused = inlet.take(at, bytes).expect_err("beyond");
            assert!(refused.to_string().contains("8 bytes"), "{refused}");
        }
        assert_eq!(file.metadata().expect("metadata").len(), 8);
    }
}
