//! What a job has brought from a node, as files of this machine.
//!
//! The stream ([`lictor_proto::files`]) is read as it comes, before it has been held against the node's receipt, and
//! nothing in it is believed: who unpacks it shows nothing of it before that. A node may be in somebody else's hands, too.
//!
//! # Invariants
//! - Nothing is written but below a place that did not exist before, and no name leads out of it.
//! - No link is made, so no later entry can go through one.
//! - Nothing is overwritten; an entry that comes twice is an error.
//! - No more content is written than was asked for, and no more is read about it than a node may say.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use lictor_proto::files::{MAGIC, RECORD, Record, Skip};
use lictor_proto::{Digest, limits};
use sha2::{Digest as _, Sha256};

/// Bytes that are read, hashed and written at once: what the processor still has at hand.
const PIECE: usize = 128 * 1024;

/// After so many bytes of a file the disk is asked to begin with them: the sync at its end then waits for the last ones
/// only.
const EARLY: u64 = 64 * 1024 * 1024;

/// SHA-256 of what comes piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// More of it.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// That was all.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Why a stream cannot be made into files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not what a node writes.
    #[error("what came is no stream of files: {0}")]
    Malformed(String),
    /// It names a place that files are not written to.
    #[error("it names a path that leads elsewhere: {0:?}")]
    Path(String),
    /// More than the job may bring.
    #[error("it brings more than the job may: {0}")]
    TooMuch(String),
    /// Reading it, or writing the files.
    #[error("{}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What there was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files that were written.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Symbolic links, which were not made: path and target.
    pub links: Vec<(String, String)>,
    /// What the node has left out.
    pub skipped: Vec<(String, Skip)>,
}

/// Writes what a stream brings to `to`, which must not exist: a file, or a directory with all below it; at most
/// `max_bytes` of content.
///
/// # Errors
/// [`FilesError`]; what was written until then is there.
pub fn unpack(stream: impl Read, to: &Path, max_bytes: u64) -> Result<Unpacked, FilesError> {
    let mut reading = Reading {
        stream,
        to,
        said_left: limits::MANIFEST,
        content_left: max_bytes,
        piece: vec![0; PIECE],
    };
    let mut found = Unpacked::default();
    let mut magic = [0; MAGIC.len()];
    reading.exactly(&mut magic)?;
    if magic != *MAGIC {
        return Err(malformed("it begins with something else"));
    }
    loop {
        match reading.record()? {
            Record::Directory { path, mode } => reading.directory(&path, mode)?,
            Record::File { path, mode } => {
                found.bytes += reading.file(&path, mode)?;
                found.files += 1;
            }
            Record::Link { path, target } => found.links.push((path, target)),
            Record::Skipped { path, why } => found.skipped.push((path, why)),
            Record::End { files, bytes } if (files, bytes) == (found.files, found.bytes) => break,
            Record::End { .. } => return Err(malformed("there are other files than it says")),
            Record::Chunk { .. } | Record::FileEnd { .. } => {
                return Err(malformed("content that belongs to no file"));
            }
        }
    }
    let mut more = [0];
    match reading.stream.read(&mut more) {
        Ok(0) => Ok(found),
        Ok(_) => Err(malformed("it goes on after its end")),
        Err(source) => Err(reading.io(source)),
    }
}

fn malformed(why: impl Into<String>) -> FilesError {
    FilesError::Malformed(why.into())
}

struct Reading<'a, R> {
    stream: R,
    to: &'a Path,
    /// Bytes of records that may still come: they are held in memory.
    said_left: u64,
    /// Bytes of content that may still come.
    content_left: u64,
    piece: Vec<u8>,
}

impl<R: Read> Reading<'_, R> {
    fn io(&self, source: io::Error) -> FilesError {
        let path = self.to.to_owned();
        FilesError::Io { path, source }
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), FilesError> {
        match self.stream.read_exact(bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(malformed("it ends in the middle")),
            other => other.map_err(|e| self.io(e)),
        }
    }

    fn record(&mut self) -> Result<Record, FilesError> {
        let mut length = [0; 4];
        self.exactly(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > RECORD {
            return Err(malformed("a record is too long"));
        }
        let left = self.said_left.checked_sub(length as u64 + 4);
        self.said_left = left.ok_or_else(|| FilesError::TooMuch("there are too many entries".to_owned()))?;
        let mut text = vec![0; length];
        self.exactly(&mut text)?;
        lictor_proto::json::from_slice(&text).map_err(|e| malformed(e.to_string()))
    }

    /// Where an entry of this path is written. The empty one is the place itself.
    fn place(&self, path: &str) -> Result<PathBuf, FilesError> {
        let mut place = self.to.to_owned();
        if path.is_empty() {
            return Ok(place);
        }
        for part in path.split('/') {
            let is_plain = !matches!(part, "" | "." | "..") && !part.contains(['\0', '\\']);
            // A drive, or a stream of a file, where there are such things.
            if !is_plain || (cfg!(windows) && part.contains(':')) {
                return Err(FilesError::Path(path.to_owned()));
            }
            place.push(part);
        }
        Ok(place)
    }

    fn directory(&self, path: &str, mode: u32) -> Result<(), FilesError> {
        let place = self.place(path)?;
        let mut builder = DirBuilder::new();
        as_mode(mode, |mode| {
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode | 0o700);
            let _ = mode;
        });
        builder
            .create(&place)
            .map_err(|source| FilesError::Io { path: place, source })
    }

    /// One file with its chunks; gives its bytes.
    fn file(&mut self, path: &str, mode: u32) -> Result<u64, FilesError> {
        let place = self.place(path)?;
        let failed = |source| FilesError::Io {
            path: place.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        as_mode(mode, |mode| {
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
            let _ = mode;
        });
        let mut file: File = options.open(&place).map_err(failed)?;
        let mut whole = Sha256::new();
        let mut early = Early::default();
        let mut written = 0;
        loop {
            match self.record()? {
                // Its digest is for whoever reads a part. Here all is read: what the whole's digest covers, and the
                // receipt's of the stream, is not digested a third time.
                Record::Chunk { size, sha256: _ } => {
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if size > limits::CHUNK {
                        return Err(malformed("a chunk is too long"));
                    }
                    let left = self.content_left.checked_sub(size as u64);
                    self.content_left =
                        left.ok_or_else(|| FilesError::TooMuch("there is too much content".to_owned()))?;
                    let mut piece = std::mem::take(&mut self.piece);
                    for at in (0..size).step_by(PIECE) {
                        let piece = &mut piece[..PIECE.min(size - at)];
                        self.exactly(piece)?;
                        whole.update(&*piece);
                        file.write_all(piece).map_err(failed)?;
                    }
                    self.piece = piece;
                    written += size as u64;
                    early.written(written, &place);
                }
                Record::FileEnd { size, sha256 } => {
                    if size != written || sha256 != Digest(whole.finalize().into()) {
                        return Err(malformed("a file is not what its digest says"));
                    }
                    file.sync_all().map_err(failed)?;
                    return Ok(written);
                }
                _ => return Err(malformed("a file without an end")),
            }
        }
    }
}

/// Syncs of a file that begin before its end.
#[derive(Default)]
struct Early {
    at: u64,
    under_way: Option<JoinHandle<()>>,
}

impl Early {
    /// So much is written: begins one beside the writing, if it is worth it and none is under way. What it says counts
    /// for nothing: it has a file of its own, and the sync at the end is told of every failure, too.
    fn written(&mut self, written: u64, place: &Path) {
        if written - self.at < EARLY || self.under_way.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        let Ok(file) = File::open(place) else { return };
        self.at = written;
        let sync = move || drop(file.sync_data());
        self.under_way = std::thread::Builder::new().spawn(sync).ok();
    }
}

/// Rights for whoever has them, and no more: nothing takes on an id here.
fn as_mode(mode: u32, set: impl FnOnce(u32)) {
    set(mode & 0o777);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{self, Read};

    use lictor_proto::Digest;
    use lictor_proto::files::{MAGIC, Record, Skip};

    use super::{FilesError, Unpacked, unpack};

    fn stream(records: &[Record], content: &[u8]) -> Vec<u8> {
        let mut stream = MAGIC.to_vec();
        for record in records {
            stream.extend(record.encode());
            if matches!(record, Record::Chunk { .. }) {
                stream.extend(content);
            }
        }
        stream
    }

    fn directory(path: &str) -> Record {
        Record::Directory {
            path: path.to_owned(),
            mode: 0o755,
        }
    }

    fn file(path: &str, content: &[u8]) -> Vec<Record> {
        let (size, sha256) = (content.len() as u64, Digest::of(content));
        vec![
            Record::File {
                path: path.to_owned(),
                mode: 0o4755,
            },
            Record::Chunk {
                size: u32::try_from(size).expect("small"),
                sha256,
            },
            Record::FileEnd { size, sha256 },
        ]
    }

    fn end(files: u64, bytes: u64) -> Record {
        Record::End { files, bytes }
    }

    #[test]
    fn a_tree_is_written_below_its_place_and_links_are_only_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("tree");
        let mut records = vec![directory(""), directory("inner")];
        records.extend(file("inner/file", b"content"));
        let link = ("link".to_owned(), "/etc/passwd".to_owned());
        records.push(Record::Link {
            path: link.0.clone(),
            target: link.1.clone(),
        });
        let skipped = ("pipe".to_owned(), Skip::Special);
        records.push(Record::Skipped {
            path: skipped.0.clone(),
            why: skipped.1,
        });
        records.push(end(1, 7));
        let found = unpack(&stream(&records, b"content")[..], &to, 7).expect("unpacked");
        let wanted = Unpacked {
            files: 1,
            bytes: 7,
            links: vec![link],
            skipped: vec![skipped],
        };
        assert_eq!(found, wanted);
        assert_eq!(fs::read(to.join("inner/file")).expect("read"), b"content");
        assert!(fs::symlink_metadata(to.join("link")).is_err());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(to.join("inner/file"))
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o7000, 0, "it takes on no id");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_place() {
        let dir = tempfile::tempdir().expect("a directory");
        for (at, path) in ["../up", "/etc/x", "a/../../up", "a//b", "./x", "a/", ".."]
            .iter()
            .enumerate()
        {
            let to = dir.path().join(at.to_string());
            for records in [vec![directory(""), directory(path)], {
                let mut all = vec![directory("")];
                all.extend(file(path, b"x"));
                all
            }] {
                let _ = fs::remove_dir_all(&to);
                let refused = unpack(&stream(&records, b"x")[..], &to, 1);
                assert!(matches!(refused, Err(FilesError::Path(_))), "{path}: {refused:?}");
            }
        }
        assert!(!dir.path().join("up").exists());
    }

    #[test]
    fn what_is_there_already_is_not_overwritten_and_nothing_comes_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("file");
        fs::write(&to, "mine").expect("written");
        let mut one = file("", b"x");
        one.push(end(1, 1));
        assert!(matches!(
            unpack(&stream(&one, b"x")[..], &to, 1),
            Err(FilesError::Io { .. })
        ));
        assert_eq!(fs::read(&to).expect("read"), b"mine");
        let mut twice = vec![directory("")];
        twice.extend(file("a", b"x"));
        twice.extend(file("a", b"x"));
        let tree = dir.path().join("tree");
        assert!(matches!(
            unpack(&stream(&twice, b"x")[..], &tree, 2),
            Err(FilesError::Io { .. })
        ));
    }

    #[test]
    fn no_more_comes_than_was_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut tree = vec![directory("")];
        tree.extend(file("a", b"four"));
        tree.extend(file("b", b"four"));
        tree.push(end(2, 8));
        let tree = stream(&tree, b"four");
        assert!(unpack(&tree[..], &dir.path().join("whole"), 8).is_ok());
        let refused = unpack(&tree[..], &dir.path().join("over"), 7);
        assert!(matches!(refused, Err(FilesError::TooMuch(_))), "{refused:?}");
    }

    #[test]
    fn what_is_said_without_end_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = Record::Link {
            path: "link".to_owned(),
            target: "x".repeat(32 * 1024),
        };
        let begin = stream(&[directory("")], b"");
        let endless = (&begin[..]).chain(Endless::new(link.encode()));
        let refused = unpack(endless, &dir.path().join("tree"), 1);
        assert!(matches!(refused, Err(FilesError::TooMuch(_))), "{refused:?}");
    }

    /// The same record again and again.
    struct Endless(io::Cursor<Vec<u8>>);

    impl Endless {
        fn new(record: Vec<u8>) -> Self {
            Self(io::Cursor::new(record))
        }
    }

    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.position() == self.0.get_ref().len() as u64 {
                self.0.set_position(0);
            }
            self.0.read(into)
        }
    }

    #[test]
    fn other_content_than_is_said_and_a_stream_that_ends_or_goes_on_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut whole = file("", b"content");
        whole.push(end(1, 7));
        let honest = stream(&whole, b"content");
        let mut at = 0;
        let mut attempt = |stream: &[u8]| {
            at += 1;
            unpack(stream, &dir.path().join(at.to_string()), 7)
        };
        assert!(attempt(&honest).is_ok());
        assert!(attempt(&stream(&whole, b"contenT")).is_err());
        assert!(attempt(&[&honest[..], b"x"].concat()).is_err());
        for cut in 0..honest.len() {
            let refused = attempt(&honest[..cut]);
            assert!(matches!(refused, Err(FilesError::Malformed(_))), "cut at {cut}");
        }
        let mut other = file("", b"content");
        other.push(end(2, 7));
        assert!(attempt(&stream(&other, b"content")).is_err());
    }
}
