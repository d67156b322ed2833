//! The file under the journal, as a trait: tests put one there that loses unsynced writes or is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use lictor_audit::{LogFile, Record};

use super::Archive;

/// What the journal needs of its file.
pub trait JournalFile: Send {
    /// All of it.
    ///
    /// # Errors
    /// The file system's.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Writes at the end; says how many bytes it took, at least one.
    ///
    /// # Errors
    /// The file system's; a part may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Returns when everything written is durable.
    ///
    /// # Errors
    /// The file system's; what was written may or may not be there.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// The file system's.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Puts a file with this content in its place, durably, all or nothing.
    ///
    /// # Errors
    /// The file system's; the old content is then still there.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A journal on disk.
#[derive(Debug)]
pub struct DiskFile {
    path: PathBuf,
    file: File,
}

impl DiskFile {
    /// Opens or makes it, readable by its owner only, and locks it: one warden per directory.
    ///
    /// # Errors
    /// The file system's, or `WouldBlock` when another warden has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        sync_directory(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes a new or renamed name in the directory of `path` durable.
///
/// # Errors
/// The file system's.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes a whole file, durably, all or nothing, readable by its owner only.
///
/// # Errors
/// The file system's; the old content is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let _ = std::fs::remove_file(&next);
    let mut file = open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    sync_directory(path)
}

impl JournalFile for DiskFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_atomically(&self.path, bytes)?;
        let file = open(&self.path)?;
        file.try_lock().map_err(io::Error::from)?;
        self.file = file;
        Ok(())
    }
}

/// `audit.log` beside the journal. Opened, and so checked as a whole, when the journal is rotated.
#[derive(Debug)]
pub struct AuditArchive {
    path: PathBuf,
    log: String,
    open: Option<LogFile>,
}

impl AuditArchive {
    /// The archive of the log called `log` at `path`.
    #[must_use]
    pub fn new(path: PathBuf, log: String) -> Self {
        Self {
            path,
            log,
            open: None,
        }
    }
}

impl Archive for AuditArchive {
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let file = match &mut self.open {
            Some(file) => file,
            none => {
                let opened = LogFile::open(&self.path, &self.log).map_err(io::Error::other)?;
                sync_directory(&self.path)?;
                none.insert(opened)
            }
        };
        file.append(records)
    }
}
