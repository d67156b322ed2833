//! Files that are made while they come, aside and by a thread of their own: when the last byte is verified they only get
//! their name.
//!
//! ```text
//!   frames --> Watch --(a few pieces)--> unpack --> .lictor-JOB.part/tree --verified--> its place
//! ```
//!
//! # Invariants
//! - Nothing is at its place before the receipt and all of what it signs has been verified. Until then it lies in a
//!   directory that nobody else may enter, and that goes with this value.
//! - What does not come in order is not made into files: it is all read once more.
//! - A few pieces are in memory, however slow the disk is: more are waited for.

use std::cell::{Cell, RefCell};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use bytes::{Buf as _, Bytes};
use lictor_client::files::{FilesError, Unpacked, unpack};
use lictor_proto::files::MAGIC;
use lictor_proto::{JobId, limits};

use crate::commands::watch::{Inlet, fits};
use crate::failure::{Doing as _, Failure, Result};

/// Pieces that wait to be unpacked, of at most [`limits::FRAME`] bytes each.
const WAITING: usize = 8;

type Outcome = std::result::Result<Unpacked, FilesError>;

/// What a job brings, on its way to its place.
pub(super) struct Arriving {
    /// The directory beside the place.
    aside: PathBuf,
    max_bytes: u64,
    whole: Cell<bool>,
    feed: RefCell<Feed>,
}

#[derive(Default)]
struct Feed {
    /// How much of the stream has come in order.
    next: u64,
    pieces: Option<SyncSender<Bytes>>,
    thread: Option<JoinHandle<Outcome>>,
    ended: Option<Outcome>,
}

impl Feed {
    /// No more comes: what became of it. `None` when that was asked before.
    fn end(&mut self) -> Option<Outcome> {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            let failed = |_| Err(FilesError::Malformed("it could not be unpacked".to_owned()));
            self.ended = Some(thread.join().unwrap_or_else(failed));
        }
        self.ended.take()
    }
}

impl Arriving {
    /// Makes room beside `to` for what this job brings.
    pub(super) fn beside(to: &Path, job: &JobId, max_bytes: u64) -> Result<Self> {
        let dir = match to.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let aside = dir.join(format!(".lictor-{job}.part"));
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&aside)
            .doing(format!("make {}", aside.display()))?;
        let arriving = Self {
            aside,
            max_bytes,
            whole: Cell::new(false),
            feed: RefCell::default(),
        };
        arriving.start().doing("start to unpack")?;
        Ok(arriving)
    }

    fn tree(&self) -> PathBuf {
        self.aside.join("tree")
    }

    fn start(&self) -> io::Result<()> {
        let (pieces, arrive) = sync_channel(WAITING);
        let (tree, max_bytes) = (self.tree(), self.max_bytes);
        let stream = Stream {
            arrive,
            piece: Bytes::new(),
        };
        let thread = Builder::new().name("unpack".to_owned());
        *self.feed.borrow_mut() = Feed {
            next: 0,
            pieces: Some(pieces),
            thread: Some(thread.spawn(move || unpack(stream, &tree, max_bytes))?),
            ended: None,
        };
        Ok(())
    }

    /// Gives what has come, and was verified, its name.
    pub(super) fn settle(self, to: &Path) -> Result<Unpacked> {
        let unpacked = self.feed.borrow_mut().end().filter(|_| self.is_whole());
        let unpacked = unpacked.ok_or_else(|| Failure::new("not all of it came"))?;
        let unpacked =
            unpacked.map_err(|e| Failure::new("what the node signed could not be unpacked").because(&e))?;
        match name(&self.tree(), to) {
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {
                Err(Failure::new(format!("{} is there by now", to.display()))
                    .hint("Nothing is overwritten here; move it away and ask again."))
            }
            named => named
                .doing(format!("give it its name, {}", to.display()))
                .map(|()| unpacked),
        }
    }
}

/// Gives a file or a directory a name that nothing has.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn name(tree: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, tree, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => name_by_making(tree, to),
        named => Ok(named?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn name(tree: &Path, to: &Path) -> io::Result<()> {
    name_by_making(tree, to)
}

/// The same by what fails everywhere when there is something: a link, or a directory, which a directory then takes the place of
/// only as long as it is empty.
fn name_by_making(tree: &Path, to: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(tree)?.is_dir() {
        return match fs::hard_link(tree, to) {
            // Not every file system has links, either.
            Err(e) if e.kind() != ErrorKind::AlreadyExists => name_by_holding(tree, to),
            named => named,
        };
    }
    fs::create_dir(to)?;
    let named = fs::rename(tree, to);
    if named.is_err() {
        // Whatever is in it by now is somebody else's.
        let _ = fs::remove_dir(to);
    }
    named
}

/// A file, by a name that is held by an empty one first.
fn name_by_holding(tree: &Path, to: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(to)?;
    fs::rename(tree, to).inspect_err(|_| drop(fs::remove_file(to)))
}

impl Inlet for Arriving {
    fn take(&self, at: u64, bytes: Bytes) -> io::Result<()> {
        let most = self.max_bytes.saturating_add(limits::MANIFEST);
        fits(at, &bytes, most.saturating_add(MAGIC.len() as u64))?;
        let mut feed = self.feed.borrow_mut();
        if at != feed.next {
            feed.pieces = None;
            return Ok(());
        }
        feed.next += bytes.len() as u64;
        let Some(pieces) = &feed.pieces else {
            return Ok(());
        };
        if pieces.send(bytes).is_ok() {
            return Ok(());
        }
        match feed.end() {
            // Nothing that comes later changes it.
            Some(Err(FilesError::Io { source, .. })) if source.kind() == io::ErrorKind::StorageFull => {
                Err(source)
            }
            // Whoever made such a stream, the receipt tells.
            ended => {
                feed.ended = ended;
                Ok(())
            }
        }
    }

    fn again(&self) -> io::Result<()> {
        self.feed.borrow_mut().end();
        remove(&self.tree())?;
        self.start()
    }

    fn judged(&self, whole: bool) {
        self.whole.set(whole);
    }

    fn is_whole(&self) -> bool {
        self.whole.get()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.feed.borrow_mut().end();
        let _ = remove(&self.aside);
    }
}

/// A file, or a directory with all below it; what is not there is no error.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    }
}

/// Pieces as one stream, which ends when no more can come.
struct Stream {
    arrive: Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.arrive.recv() {
                Ok(piece) => self.piece = piece,
                Err(_) => return Ok(0),
            }
        }
        let n = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lictor_proto::Digest;
    use lictor_proto::files::Record;
    use tempfile::TempDir;

    use super::*;

    const CONTENT: &[u8] = b"what a node has";

    /// A file in a directory.
    fn stream() -> Vec<u8> {
        let (size, sha256) = (CONTENT.len() as u64, Digest::of(CONTENT));
        let (path, mode) = ("file".to_owned(), 0o644);
        let (root, all) = (String::new(), 0o777);
        let before = [
            Record::Directory {
                path: root,
                mode: all,
            },
            Record::File { path, mode },
            Record::Chunk {
                size: size as u32,
                sha256,
            },
        ];
        let after = [
            Record::FileEnd { size, sha256 },
            Record::End {
                files: 1,
                bytes: size,
            },
        ];
        let said = |records: &[Record]| records.iter().flat_map(Record::encode).collect::<Vec<u8>>();
        [&MAGIC[..], &said(&before), CONTENT, &said(&after)].concat()
    }

    fn place() -> (TempDir, PathBuf, Arriving) {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("to");
        let job = JobId::from_digest(&Digest::of(b"job"));
        let arriving = Arriving::beside(&to, &job, 100).expect("room");
        (dir, to, arriving)
    }

    fn send(arriving: &Arriving, from: usize, to: usize) {
        for at in from..to {
            let byte = Bytes::copy_from_slice(&stream()[at..=at]);
            arriving.take(at as u64, byte).expect("taken");
        }
    }

    fn entries(dir: &TempDir) -> usize {
        fs::read_dir(dir.path()).expect("a directory").count()
    }

    #[test]
    fn what_comes_gets_its_name_when_it_was_judged_and_lies_where_nobody_else_may_look_until_then() {
        let (dir, to, arriving) = place();
        send(&arriving, 0, stream().len());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&arriving.aside).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        assert!(!to.exists());
        arriving.judged(true);
        let unpacked = arriving.settle(&to).expect("settled");
        assert_eq!((unpacked.files, unpacked.bytes), (1, CONTENT.len() as u64));
        assert_eq!(fs::read(to.join("file")).expect("read"), CONTENT);
        assert_eq!(entries(&dir), 1, "nothing is left beside it");
    }

    #[test]
    fn what_was_not_judged_whole_or_does_not_read_is_not_there_and_leaves_nothing() {
        for (sent, judged) in [(stream().len(), false), (stream().len() - 1, true), (0, true)] {
            let (dir, to, arriving) = place();
            send(&arriving, 0, sent);
            arriving.judged(judged);
            assert!(arriving.settle(&to).is_err(), "{sent} {judged}");
            assert_eq!(entries(&dir), 0);
        }
        let (dir, _, arriving) = place();
        send(&arriving, 0, 20);
        drop(arriving);
        assert_eq!(entries(&dir), 0, "of what was left half way");
    }

    #[test]
    fn what_has_a_hole_is_all_read_again() {
        let (dir, to, arriving) = place();
        let whole = stream().len();
        send(&arriving, 0, 30);
        send(&arriving, 31, whole);
        arriving.judged(false);
        arriving.again().expect("begun anew");
        send(&arriving, 0, whole);
        arriving.judged(true);
        arriving.settle(&to).expect("settled");
        assert_eq!(fs::read(to.join("file")).expect("read"), CONTENT);
        assert_eq!(entries(&dir), 1);
    }

    #[test]
    fn nothing_that_came_there_meanwhile_is_replaced() {
        for make in [|to: &Path| fs::write(to, "mine"), |to: &Path| fs::create_dir(to)] {
            let (dir, to, arriving) = place();
            send(&arriving, 0, stream().len());
            arriving.judged(true);
            make(&to).expect("made");
            let refused = arriving.settle(&to).expect_err("something is there").to_string();
            assert!(refused.contains("there by now"), "{refused}");
            assert!(!to.join("file").exists() && entries(&dir) == 1, "it was replaced");
        }
        // The way of file systems and systems that know no other.
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for tree in ["tree", "file"] {
            match tree {
                "tree" => fs::create_dir(at(tree)).expect("made"),
                _ => fs::write(at(tree), CONTENT).expect("written"),
            }
            fs::write(at("mine"), "mine").expect("written");
            let refused = name_by_making(&at(tree), &at("mine")).expect_err("something is there");
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{tree}");
            assert_eq!(fs::read(at("mine")).expect("read"), b"mine");
            name_by_making(&at(tree), &at("new")).expect("named");
            assert_eq!(at("new").is_dir(), tree == "tree");
            remove(&at("new")).expect("removed");
        }
        // And where there are no links.
        fs::write(at("other"), CONTENT).expect("written");
        let refused = name_by_holding(&at("other"), &at("mine")).expect_err("something is there");
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(at("mine")).expect("read"), b"mine");
        assert!(name_by_holding(&at("none"), &at("new")).is_err() && !at("new").exists());
        name_by_holding(&at("other"), &at("new")).expect("named");
        assert_eq!(fs::read(at("new")).expect("read"), CONTENT);
    }

    #[test]
    fn no_more_is_taken_than_may_come() {
        let (_dir, _, arriving) = place();
        let most = 100 + limits::MANIFEST + MAGIC.len() as u64;
        let byte = Bytes::from_static(b"x");
        assert!(arriving.take(most - 1, byte.clone()).is_ok());
        let refused = arriving.take(most, byte).expect_err("beyond");
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }
}
