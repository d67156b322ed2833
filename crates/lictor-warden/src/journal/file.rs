//! The file under the journal, as a trait: tests put one there that loses unsynced writes or is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

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
    /// [`ReplaceError`], which says what the file is now.
    fn replace(&mut self, bytes: &[u8]) -> Result<(), ReplaceError>;

    /// The same, and the file as it was stays beside it as the closed one. One that has been closed before goes: the
    /// caller knows that nobody needs it.
    ///
    /// # Errors
    /// [`ReplaceError`], which says what the file is now.
    fn succeed(&mut self, bytes: &[u8]) -> Result<(), ReplaceError>;

    /// The closed file, if there is one. After a crash between the steps of [`Self::succeed`] it may be this file
    /// itself under a second name.
    ///
    /// # Errors
    /// The file system's.
    fn closed(&self) -> io::Result<Option<Box<dyn ClosedFile>>>;
}

/// A file that nothing is written to any more. Another thread may read it while the one after it grows.
pub trait ClosedFile: Send {
    /// All of it.
    ///
    /// # Errors
    /// The file system's.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Takes it away. A crash may bring it back.
    ///
    /// # Errors
    /// The file system's.
    fn remove(&mut self) -> io::Result<()>;
}

/// Why a file was not replaced, or not surely.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The old file is in its place, and is the one that is written to.
    #[error("the new file could not be put in place")]
    Kept(#[source] io::Error),
    /// The new file is in its place and is the one that is written to, but a crash may bring back the old one:
    /// nothing that is written from now on can be relied on.
    #[error("the new file is in place, but may not be for good")]
    Unsure(#[source] io::Error),
}

/// A journal on disk.
#[derive(Debug)]
pub struct DiskFile {
    path: PathBuf,
    file: File,
    directory: Directory,
}

/// The directory of a file, open from the start: what makes a rename durable must not fail for want of a descriptor.
#[cfg(unix)]
#[derive(Debug)]
struct Directory(File);

#[cfg(unix)]
impl Directory {
    fn of(path: &Path) -> io::Result<Self> {
        File::open(directory_of(path)).map(Self)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// The directory of a file. Where directories cannot be opened, the file system alone decides when a rename is durable.
#[cfg(not(unix))]
#[derive(Debug)]
struct Directory;

#[cfg(not(unix))]
impl Directory {
    fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(directory_of(path)).map(|_| Self)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile {
    /// Opens or makes it, readable by its owner only, and locks it: one warden per directory.
    ///
    /// # Errors
    /// The file system's, or `WouldBlock` when another warden has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        let directory = Directory::of(path)?;
        directory.sync()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            directory,
        })
    }

    /// Whether the path still names the file that is written to.
    #[cfg(unix)]
    fn is_in_place(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let (there, own) = (std::fs::metadata(&self.path)?, self.file.metadata()?);
        Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
    }

    /// Whether the path still names the file that is written to: not known.
    #[cfg(not(unix))]
    fn is_in_place(&self) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A step before the rename, or the rename, has failed.
    fn not_replaced(&self, e: io::Error) -> ReplaceError {
        match self.is_in_place() {
            Ok(true) => ReplaceError::Kept(e),
            Ok(false) | Err(_) => ReplaceError::Unsure(e),
        }
    }

    /// Makes the file that is to follow this one. It is locked before it has the name, so that the name is never without
    /// its lock.
    fn make_next(&self, bytes: &[u8]) -> Result<(PathBuf, File), ReplaceError> {
        let path = self.path.with_extension("next");
        let next = write_next(&path, bytes).map_err(ReplaceError::Kept)?;
        next.try_lock()
            .map_err(|e| ReplaceError::Kept(io::Error::from(e)))?;
        Ok((path, next))
    }

    fn put_in_place(&mut self, path: &Path, next: File) -> Result<(), ReplaceError> {
        std::fs::rename(path, &self.path).map_err(|e| self.not_replaced(e))?;
        // Whatever happens next, nothing may be written to the old file.
        self.file = next;
        self.directory.sync().map_err(ReplaceError::Unsure)
    }

    /// Where the closed file lies.
    fn closed_path(&self) -> PathBuf {
        self.path.with_extension("old")
    }
}

/// The closed journal: `journal.old` beside the journal.
#[derive(Debug)]
struct ClosedOnDisk(PathBuf);

impl ClosedFile for ClosedOnDisk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.0)
    }

    fn remove(&mut self) -> io::Result<()> {
        std::fs::remove_file(&self.0)
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
    Directory::of(path)?.sync()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        Some(_) | None => Path::new("."),
    }
}

/// Writes a whole file, durably, all or nothing, readable by its owner only.
///
/// # Errors
/// The file system's; the old content is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    write_next(&next, bytes)?;
    std::fs::rename(&next, path)?;
    sync_directory(path)
}

/// Makes the file that is to take another's place, with its content durable.
fn write_next(next: &Path, bytes: &[u8]) -> io::Result<File> {
    let _ = std::fs::remove_file(next);
    let mut file = open(next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
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

    fn replace(&mut self, bytes: &[u8]) -> Result<(), ReplaceError> {
        let (path, next) = self.make_next(bytes)?;
        self.put_in_place(&path, next)
    }

    fn succeed(&mut self, bytes: &[u8]) -> Result<(), ReplaceError> {
        let (path, next) = self.make_next(bytes)?;
        let closed = self.closed_path();
        let _ = std::fs::remove_file(&closed);
        std::fs::hard_link(&self.path, &closed).map_err(|e| self.not_replaced(e))?;
        // The old content has its second name for good before it loses the first one.
        self.directory.sync().map_err(ReplaceError::Kept)?;
        self.put_in_place(&path, next)
    }

    fn closed(&self) -> io::Result<Option<Box<dyn ClosedFile>>> {
        let path = self.closed_path();
        let there = path.try_exists()?;
        Ok(there.then(|| Box::new(ClosedOnDisk(path)) as Box<dyn ClosedFile>))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> Vec<u8> {
        std::fs::read(path).expect("reads")
    }

    #[test]
    fn after_a_replacement_the_named_file_is_written_to_and_locked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal.log");
        let mut file = DiskFile::open(&path).expect("opens");
        file.append(b"old").expect("appends");
        file.replace(b"new").expect("replaces");
        file.append(b" and more").expect("appends");
        assert_eq!(content(&path), b"new and more");
        assert_eq!(
            DiskFile::open(&path).err().map(|e| e.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
    }

    #[test]
    fn a_succession_leaves_the_old_content_beside_the_new_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal.log");
        let mut file = DiskFile::open(&path).expect("opens");
        assert!(file.closed().expect("looks").is_none());
        let mut before = b"first".to_vec();
        file.append(&before).expect("appends");
        for new in [&b"second"[..], b"third"] {
            file.succeed(new).expect("succeeds");
            let mut closed = file.closed().expect("looks").expect("is there");
            assert_eq!(closed.read().expect("reads"), before);
            file.append(b" and more").expect("appends");
            before = content(&path);
            assert_eq!(before, [new, b" and more"].concat());
        }
        let mut closed = file.closed().expect("looks").expect("is there");
        closed.remove().expect("removes");
        assert!(file.closed().expect("looks").is_none());
    }

    #[test]
    fn a_replacement_that_fails_leaves_the_named_file_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal.log");
        let mut file = DiskFile::open(&path).expect("opens");
        file.append(b"old").expect("appends");
        std::fs::create_dir(dir.path().join("journal.next")).expect("in the way");
        assert!(matches!(file.replace(b"new"), Err(ReplaceError::Kept(_))));
        assert!(matches!(file.succeed(b"new"), Err(ReplaceError::Kept(_))));
        file.append(b" and more").expect("appends");
        assert_eq!(content(&path), b"old and more");
        std::fs::remove_dir(dir.path().join("journal.next")).expect("out of the way");

        // Something stands where the file was: the rename fails, and nobody can say what a restart would find.
        std::fs::remove_file(&path).expect("removes");
        std::fs::create_dir(&path).expect("in the way");
        assert!(matches!(file.replace(b"new"), Err(ReplaceError::Unsure(_))));
        assert!(matches!(file.succeed(b"new"), Err(ReplaceError::Unsure(_))));
    }
}
