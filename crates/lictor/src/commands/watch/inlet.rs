//! Where a job's standard output goes in place of the screen, before anything of it is verified.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use bytes::Bytes;

/// Takes a job's standard output. What it has is worth something once it was judged whole.
pub(crate) trait Inlet {
    /// These bytes stand there. Nothing comes twice, but what is missing comes never, until it is all read
    /// [again](Self::again).
    fn take(&self, at: u64, bytes: Bytes) -> io::Result<()>;

    /// What comes next is all of it once more, from its first byte.
    fn again(&self) -> io::Result<()>;

    /// The receipt was held against what came: every byte that the node has signed for is there, or not.
    fn judged(&self, whole: bool);

    /// Whether it is.
    fn is_whole(&self) -> bool;
}

/// Until there is a receipt, nobody has signed how many bytes come: at most so many.
pub(crate) fn fits(at: u64, bytes: &[u8], most: u64) -> io::Result<()> {
    if at.saturating_add(bytes.len() as u64) <= most {
        return Ok(());
    }
    let why = format!("the node sends more than the {most} bytes that the job may bring");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
}

/// A file that takes each byte at its place, however often it comes.
pub(crate) struct FileInlet<'a> {
    file: &'a File,
    most: u64,
    whole: Cell<bool>,
}

impl<'a> FileInlet<'a> {
    /// Into this file, up to so many bytes.
    pub(crate) fn new(file: &'a File, most: u64) -> Self {
        let whole = Cell::new(false);
        Self { file, most, whole }
    }
}

impl Inlet for FileInlet<'_> {
    fn take(&self, at: u64, bytes: Bytes) -> io::Result<()> {
        fits(at, &bytes, self.most)?;
        let mut file = self.file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&bytes)
    }

    fn again(&self) -> io::Result<()> {
        Ok(())
    }

    fn judged(&self, whole: bool) {
        self.whole.set(whole);
    }

    fn is_whole(&self) -> bool {
        self.whole.get()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{FileInlet, Inlet as _};

    #[test]
    fn takes_no_byte_beyond_what_may_come() {
        let file = tempfile::tempfile().expect("a file");
        let inlet = FileInlet::new(&file, 8);
        let take = |at, bytes| inlet.take(at, Bytes::from_static(bytes));
        assert!(take(4, b"5678").is_ok());
        assert!(take(0, b"1234").is_ok(), "it may come in any order");
        for (at, bytes) in [(5, &b"6789"[..]), (8, b"9"), (1 << 60, b"x"), (u64::MAX, b"x")] {
            let refused = take(at, bytes).expect_err("beyond");
            assert!(refused.to_string().contains("8 bytes"), "{refused}");
        }
        assert_eq!(file.metadata().expect("metadata").len(), 8);
    }
}
