//! An execution's output: all of it counted and hashed, a bounded part kept, readable while it is written.
//!
//! ```text
//! log position 0          head end                               end
//!      |  JOB.log: the head  |  dropped ... |  JOB.tail: the window  |
//! ```
//!
//! The log is a sequence of frames. The first half of `keep` goes to a file from its start; what comes after goes
//! through a window of slots in a second file, oldest out first, so that the end is there when the job ends and a
//! live reader that keeps up gets everything. Nothing is held in memory: the page cache is the buffer. At the end
//! the tail that is kept is moved behind the head, into the one file that the journal's [`Log`] describes.
//!
//! Between the frames of output stand those that say something about the job's way out. They have a place in the log
//! and count for nothing: neither for the streams and their digests, nor for what is kept of them.
//!
//! # Invariants
//! - Log positions handed out are frame borders. A reader that comes back to one goes on without gap or repeat,
//!   or is given a gap frame that says what is missing.
//! - A reader never holds up the writer, except in a profile that says `throttle`; then nothing is dropped before
//!   it was read or acknowledged.
//! - A full disk stops the keeping, never the job or the counting.

mod head;
mod positioned;
mod recovery;
mod slot;
pub mod stdin;
pub mod stored;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use lictor_proto::JobId;
use lictor_proto::agent::OutputPart;
use lictor_proto::frame::{Frame, FrameKind, Gap, HEADER, Header};
use lictor_trust::profiles::Overflow;
use sha2::Sha256;
use tokio::sync::Notify;

use crate::journal::entry::{Kept, Log};
use head::Head;
pub use recovery::recover;
use tail::Tail;
pub use writer::{Ended, Writer};

/// A log that is no longer than this is kept in the journal itself.
pub const INLINE: u64 = 16 * 1024;
/// The window for live readers is at least this, however little is kept.
const WINDOW: u64 = 2 * 1024 * 1024;

/// How much is kept, and what happens beyond.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Bytes of output, both streams together.
    pub bytes: u64,
    /// What happens beyond.
    pub overflow: Overflow,
}

/// Why a log cannot be read from there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a frame border of this log.
    #[error("log position {0} is no frame border of this log")]
    Position(u64),
    /// The file system's reason.
    #[error("cannot read the spool")]
    Io(#[from] io::Error),
}

/// Files of one execution's output.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What is kept.
    pub log: PathBuf,
    /// The window, while it runs.
    pub tail: PathBuf,
}

impl Paths {
    /// Those of `job` under the spool directory.
    #[must_use]
    pub fn of(spool: &Path, job: &JobId) -> Self {
        Self {
            log: spool.join(format!("{job}.log")),
            tail: spool.join(format!("{job}.tail")),
        }
    }

    /// Removes what is not needed any more, once the journal has said where the log is kept.
    pub fn tidy(&self, log: &Log) {
        if log.kept.is_empty() || !log.inline.is_empty() {
            self.remove();
        } else {
            let _ = std::fs::remove_file(&self.tail);
        }
    }

    /// Removes both; what is open stays readable until it is closed.
    pub fn remove(&self) {
        for path in [&self.log, &self.tail] {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), error = %e, "a spool file could not be removed");
                }
                _ => {}
            }
        }
    }
}

/// The shared side of one execution's output: what readers see.
#[derive(Debug)]
pub struct Spool {
    inner: Mutex<Inner>,
    readable: Notify,
    room: Notify,
}

#[derive(Debug)]
struct Inner {
    head: Head,
    tail: Tail,
    overflow: Overflow,
    /// The job has ended: nothing waits for room any more. What an [`Overflow::Throttle`] promises still holds, as
    /// there is no more to come than the pipes hold, and the window grows by that.
    draining: bool,
    /// Log length.
    end: u64,
    /// Stream bytes so far.
    at: [u64; 2],
    ended: bool,
    /// Everything before this was read or acknowledged; matters when throttling.
    released: u64,
}

impl Spool {
    /// An empty log, with its one writer. Files are made when there is output.
    #[must_use]
    pub fn new(paths: Paths, keep: Keep) -> (Arc<Self>, Writer) {
        let head_bytes = keep.bytes / 2;
        let tail_bytes = keep.bytes - head_bytes;
        let spool = Arc::new(Self {
            inner: Mutex::new(Inner {
                head: Head::new(paths.log.clone(), head_bytes),
                tail: Tail::new(paths.tail.clone(), tail_bytes.max(WINDOW), tail_bytes),
                overflow: keep.overflow,
                draining: false,
                end: 0,
                at: [0; 2],
                ended: false,
                released: 0,
            }),
            readable: Notify::new(),
            room: Notify::new(),
        });
        let writer = Writer::new(spool.clone(), paths, tail_bytes);
        (spool, writer)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Log length so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.lock().end
    }

    /// Frames from log position `from` on: at most `max` bytes, but at least one whole frame when there is one.
    ///
    /// # Errors
    /// When `from` is no position of this log, or the disk fails.
    pub fn read(&self, from: u64, max: usize) -> Result<(OutputPart, Bytes), ReadError> {
        let mut inner = self.lock();
        let (part, bytes) = inner.read(from, max)?;
        if inner.overflow == Overflow::Throttle && part.to > inner.released {
            inner.released = part.to;
            self.room.notify_waiters();
        }
        Ok((part, bytes))
    }

    /// Waits until there is something at `from`, or the log has ended.
    pub async fn wait_readable(&self, from: u64) {
        loop {
            let notified = self.readable.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let inner = self.lock();
                if inner.end > from || inner.ended {
                    return;
                }
            }
            notified.await;
        }
    }

    /// The hub has stored everything before `upto`.
    pub fn release(&self, upto: u64) {
        let mut inner = self.lock();
        if upto > inner.released && upto <= inner.end {
            inner.released = upto;
            self.room.notify_waiters();
        }
    }

    /// Waits, in a profile that throttles, until the window has room for more.
    pub(crate) async fn wait_room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.lock().has_room() {
                return;
            }
            notified.await;
        }
    }

    /// The job has ended: what is still in the pipes is taken without waiting for readers.
    pub(crate) fn stop_throttling(&self) {
        self.lock().draining = true;
        self.room.notify_waiters();
    }

    /// Another process of the same job begins.
    pub(crate) fn throttle_again(&self) {
        self.lock().draining = false;
    }

    fn end_log(&self) {
        self.lock().ended = true;
        self.readable.notify_waiters();
        self.room.notify_waiters();
    }
}

/// A log whose writer a crash has ended, as it stood.
struct Resumed {
    head: Head,
    tail: Tail,
    /// Log length, and stream bytes.
    end: u64,
    at: [u64; 2],
}

impl Resumed {
    /// Its writer, to end it. `all` are the hashes at its end, `head` those at the end of the head.
    fn writer(self, paths: Paths, tail_bytes: u64, all: [Sha256; 2], head: [Sha256; 2]) -> Writer {
        let spool = Arc::new(Spool {
            inner: Mutex::new(Inner {
                head: self.head,
                tail: self.tail,
                overflow: Overflow::Drop,
                draining: true,
                end: self.end,
                at: self.at,
                ended: false,
                released: 0,
            }),
            readable: Notify::new(),
            room: Notify::new(),
        });
        Writer::resumed(spool, paths, tail_bytes, (all, head))
    }
}

impl Inner {
    fn has_room(&self) -> bool {
        self.overflow == Overflow::Drop || self.draining || self.ended || self.tail.has_room(self.released)
    }

    /// Everything before this log position may be given up.
    fn droppable(&self) -> u64 {
        match self.overflow {
            Overflow::Drop => u64::MAX,
            Overflow::Throttle => self.released,
        }
    }

    fn read(&self, from: u64, max: usize) -> Result<(OutputPart, Bytes), ReadError> {
        if from > self.end {
            return Err(ReadError::Position(from));
        }
        let head_end = self.head.end();
        let start = self.tail.start().unwrap_or(self.end);
        if from < head_end {
            let bytes = self.head.read(from, max)?;
            return Ok(self.part(from, bytes));
        }
        if from >= start {
            let bytes = self.tail.read(from, max)?;
            return Ok(self.part(from, bytes));
        }
        // What stood between `from` and the window is gone.
        let resume = self.tail.start_offsets().unwrap_or(self.at);
        let body = self.tail.read(start, max)?;
        let (part, body) = self.part(start, body);
        let mut out = BytesMut::from(gap(start, resume).as_slice());
        out.extend_from_slice(&body);
        Ok((part, out.freeze()))
    }

    fn part(&self, from: u64, bytes: Bytes) -> (OutputPart, Bytes) {
        let to = from + bytes.len() as u64;
        let end = self.ended && to == self.end;
        (OutputPart { from, to, end }, bytes)
    }
}

/// 0 for standard output, 1 for standard error.
fn stream_of(kind: FrameKind) -> Option<usize> {
    match kind {
        FrameKind::Stdout => Some(0),
        FrameKind::Stderr => Some(1),
        FrameKind::Gap | FrameKind::Event | FrameKind::KeepAlive | FrameKind::Egress => None,
    }
}

/// Bytes of a frame that count for what is kept: those of the two streams.
fn counted(header: &Header) -> u64 {
    stream_of(header.kind).map_or(0, |_| header.len as u64)
}

/// A frame that says: the log goes on there, with its streams at these offsets.
fn gap(resume_at: u64, resume: [u64; 2]) -> Vec<u8> {
    let gap = Gap {
        resume_at,
        stdout_at: resume[0],
        stderr_at: resume[1],
    };
    let frame = Frame {
        kind: FrameKind::Gap,
        time: lictor_proto::Timestamp::now(),
        at: 0,
        payload: serde_json::to_vec(&gap).unwrap_or_default().into(),
    };
    frame.encode()
}

/// The headers of the whole frames at the start of `bytes`.
fn headers(bytes: &[u8]) -> impl Iterator<Item = Header> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = Header::decode(bytes.get(at..)?.first_chunk::<HEADER>()?).ok()?;
        at += HEADER + header.len;
        (at <= bytes.len()).then_some(header)
    })
}

/// Length of the whole frames at the start of `bytes`.
fn whole_frames(bytes: &[u8]) -> usize {
    headers(bytes).map(|h| HEADER + h.len).sum()
}

/// Reads whole frames from a region of a file: at most `max` bytes, at least one frame.
fn read_frames(file: &std::fs::File, at: u64, available: u64, max: usize) -> Result<Bytes, ReadError> {
    let wanted = max
        .max(HEADER)
        .min(usize::try_from(available).unwrap_or(usize::MAX));
    let mut bytes = read_at(file, at, wanted)?;
    let mut whole = whole_frames(&bytes);
    if whole == 0 && !bytes.is_empty() {
        let header = bytes
            .first_chunk::<HEADER>()
            .and_then(|h| Header::decode(h).ok())
            .filter(|h| (HEADER + h.len) as u64 <= available)
            .ok_or(ReadError::Position(at))?;
        bytes = read_at(file, at, HEADER + header.len)?;
        whole = bytes.len();
    }
    bytes.truncate(whole);
    Ok(bytes.freeze())
}

fn read_at(file: &std::fs::File, at: u64, len: usize) -> io::Result<BytesMut> {
    let mut bytes = BytesMut::zeroed(len);
    positioned::read_exact_at(file, &mut bytes, at)?;
    Ok(bytes)
}
