//! The one writer of a log: cuts frames, counts and hashes everything, and at the end says what is kept.

use std::io;
use std::sync::Arc;

use lictor_proto::doc::{KeptRange, StreamSummary};
use lictor_proto::frame::{FrameKind, HEADER, Header};
use lictor_proto::{Digest, Timestamp, limits};
use sha2::{Digest as _, Sha256};

use super::tail::Before;
use super::{INLINE, Inner, Kept, Log, Paths, ReadError, Spool, headers, positioned, stream_of};

/// How much is read at once when the kept tail is moved.
const COPY: usize = 256 * 1024;

/// Takes a process's output. There is exactly one per log.
#[derive(Debug)]
pub struct Writer {
    spool: Arc<Spool>,
    paths: Paths,
    tail_bytes: u64,
    all: [Sha256; 2],
    /// The hashes as they stood at the end of the head.
    head: Option<[Sha256; 2]>,
    failed: bool,
}

/// A log that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What is kept, and where.
    pub log: Log,
    /// Standard output.
    pub stdout: StreamSummary,
    /// Standard error.
    pub stderr: StreamSummary,
}

impl Ended {
    /// A log that nothing was written to.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            log: Log::default(),
            stdout: StreamSummary::empty(),
            stderr: StreamSummary::empty(),
        }
    }

    /// Whether something was not kept.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.stdout.truncated() || self.stderr.truncated()
    }
}

impl Writer {
    pub(super) fn new(spool: Arc<Spool>, paths: Paths, tail_bytes: u64) -> Self {
        Self {
            spool,
            paths,
            tail_bytes,
            all: [Sha256::new(), Sha256::new()],
            head: None,
            failed: false,
        }
    }

    /// The writer of a log that a crash has cut off, to end it.
    pub(super) fn resumed(
        spool: Arc<Spool>,
        paths: Paths,
        tail_bytes: u64,
        (all, head): ([Sha256; 2], [Sha256; 2]),
    ) -> Self {
        Self {
            all,
            head: Some(head),
            ..Self::new(spool, paths, tail_bytes)
        }
    }

    /// Takes what was read from one stream. The first [`HEADER`] bytes of `buffer` are room for the frame's header,
    /// so that header and payload are written in one go; the payload is the rest, at most [`limits::FRAME`] bytes.
    pub fn write(&mut self, kind: FrameKind, time: Timestamp, buffer: &mut [u8]) {
        let Some(stream) = stream_of(kind) else { return };
        debug_assert!(buffer.len() <= HEADER + limits::FRAME);
        let spool = self.spool.clone();
        let mut rest = buffer;
        while rest.len() > HEADER {
            let mut inner = spool.lock();
            let payload = rest.len() - HEADER;
            // The head takes exactly its share: a frame that crosses its end becomes two.
            let left = usize::try_from(inner.head.left()).unwrap_or(usize::MAX);
            let len = if left == 0 { payload } else { payload.min(left) };
            let header = Header {
                kind,
                len,
                time,
                at: inner.at[stream],
            };
            rest[..HEADER].copy_from_slice(&header.encode());
            self.store(&mut inner, &rest[..HEADER + len], Some(stream));
            let head_is_full = inner.head.left() == 0;
            drop(inner);
            self.all[stream].update(&rest[HEADER..HEADER + len]);
            if head_is_full && self.head.is_none() {
                self.head = Some(self.all.clone());
            }
            // The next header takes the place of payload that is written already.
            rest = &mut rest[len..];
        }
        spool.readable.notify_waiters();
    }

    /// Takes a word about the job's way out, at most [`limits::FRAME`] bytes. It is no output: no digest covers it, and
    /// nothing is dropped for it.
    pub fn note(&mut self, time: Timestamp, payload: &[u8]) {
        debug_assert!(payload.len() <= limits::FRAME);
        let spool = self.spool.clone();
        let mut inner = spool.lock();
        let header = Header {
            kind: FrameKind::Egress,
            len: payload.len(),
            time,
            at: inner.at.iter().sum(),
        };
        let frame = [&header.encode()[..], payload].concat();
        self.store(&mut inner, &frame, None);
        drop(inner);
        spool.readable.notify_waiters();
    }

    /// Puts a frame where it belongs: of one stream, or of none. The hashes are still those from before it.
    fn store(&mut self, inner: &mut Inner, frame: &[u8], stream: Option<usize>) {
        let payload = stream.map_or(0, |_| (frame.len() - HEADER) as u64);
        let before = Before {
            from: inner.end,
            at: inner.at,
            hashes: &self.all,
        };
        inner.end += frame.len() as u64;
        if let Some(stream) = stream {
            inner.at[stream] += payload;
        }
        let stored = if inner.head.left() > 0 {
            inner.head.push(frame, stream, payload)
        } else if self.failed {
            Ok(())
        } else {
            let droppable = inner.droppable();
            inner.tail.push(frame, payload, &before, droppable)
        };
        if let Err(e) = stored {
            self.give_up_keeping(inner, &e);
        }
    }

    /// The disk is full: what there is of the head stays, the rest is only counted.
    fn give_up_keeping(&mut self, inner: &mut Inner, e: &io::Error) {
        tracing::error!(path = %self.paths.log.display(), error = %e, "output is no longer kept");
        inner.head.close();
        inner.tail.clear();
        self.failed = true;
        // The head ends before the frame that failed.
        if self.head.is_none() {
            self.head = Some(self.all.clone());
        }
    }

    /// In a profile that throttles: waits until there is room for more.
    pub async fn wait_room(&self) {
        self.spool.wait_room().await;
    }

    /// Ends the log. What is kept is durable when this returns, or is in [`Log::inline`] for the journal. The files
    /// stay, all of them: until the journal has the end, they are all that a crash leaves ([`Paths::tidy`] comes then).
    pub fn end(self) -> Ended {
        let spool = self.spool.clone();
        let ended = {
            let mut inner = spool.lock();
            self.settle(&inner).or_else(|e| {
                tracing::error!(path = %self.paths.log.display(), error = %e, "the end of the output could not be kept");
                inner.tail.clear();
                self.settle(&inner)
            })
            .unwrap_or_else(|e| {
                tracing::error!(path = %self.paths.log.display(), error = %e, "output could not be kept");
                self.nothing_kept(&inner)
            })
        };
        spool.end_log();
        ended
    }

    fn settle(&self, inner: &Inner) -> Result<Ended, ReadError> {
        let head_end = inner.head.end();
        let tail = inner.tail.kept(self.tail_bytes)?;
        let mut kept = Vec::new();
        if head_end > 0 {
            kept.push(Kept {
                from: 0,
                to: head_end,
                stdout_at: 0,
                stderr_at: 0,
            });
        }
        let mut tail_hash = [Sha256::new(), Sha256::new()];
        if let Some(tail) = tail {
            self.move_tail(inner, tail, &mut tail_hash)?;
            match kept.last_mut() {
                Some(head) if head.to == tail.from => head.to = tail.to,
                _ => kept.push(tail),
            }
        }
        let whole = kept.len() == 1 && kept[0].from == 0 && kept[0].to == inner.end;
        let mut log = Log {
            end: inner.end,
            stdout_bytes: inner.at[0],
            stderr_bytes: inner.at[1],
            kept,
            inline: Vec::new(),
        };
        if whole && inner.end <= INLINE {
            log.inline = inner
                .head
                .read(0, usize::try_from(INLINE).unwrap_or(usize::MAX))?
                .to_vec();
            if log.inline.len() as u64 != inner.end {
                log.inline
                    .extend_from_slice(&inner.tail.read(head_end, usize::MAX >> 1)?);
            }
        } else if let Some(file) = inner.head.file() {
            let length = log.kept.iter().map(|k| k.to - k.from).sum();
            if file.metadata()?.len() != length {
                file.set_len(length)?;
            }
            file.sync_data()?;
        }
        let summary = |stream: usize| self.summary(inner, stream, whole, tail, &tail_hash);
        Ok(Ended {
            stdout: summary(0),
            stderr: summary(1),
            log,
        })
    }

    /// Puts the kept tail behind the head and hashes it on the way.
    fn move_tail(&self, inner: &Inner, tail: Kept, hash: &mut [Sha256; 2]) -> Result<(), ReadError> {
        let created;
        let file = match inner.head.file() {
            Some(file) => file,
            None => {
                created = positioned::create(&self.paths.log)?;
                &created
            }
        };
        let mut from = tail.from;
        while from < tail.to {
            let bytes = inner.tail.read(from, COPY)?;
            if bytes.is_empty() {
                return Err(ReadError::Position(from));
            }
            let mut at = 0;
            for header in headers(&bytes) {
                at += HEADER;
                if let Some(stream) = stream_of(header.kind) {
                    hash[stream].update(&bytes[at..at + header.len]);
                }
                at += header.len;
            }
            positioned::write_all_at(file, &bytes, inner.head.end() + (from - tail.from))?;
            from += bytes.len() as u64;
        }
        if inner.head.file().is_none() {
            file.sync_data()?;
        }
        Ok(())
    }

    fn summary(
        &self,
        inner: &Inner,
        stream: usize,
        whole: bool,
        tail: Option<Kept>,
        tail_hash: &[Sha256; 2],
    ) -> StreamSummary {
        let bytes = inner.at[stream];
        let sha256 = digest(&self.all[stream]);
        let range = |from: u64, to: u64, sha256: Digest| KeptRange { from, to, sha256 };
        if whole {
            let kept = (bytes > 0).then(|| range(0, bytes, sha256));
            return StreamSummary {
                bytes,
                sha256,
                kept: kept.into_iter().collect(),
            };
        }
        let head_bytes = inner.head.offsets()[stream];
        let head_hash = digest(self.head.as_ref().map_or(&self.all[stream], |h| &h[stream]));
        let mut kept = Vec::new();
        if head_bytes > 0 {
            kept.push(range(0, head_bytes, head_hash));
        }
        if let Some(tail) = tail {
            let from = [tail.stdout_at, tail.stderr_at][stream];
            if from < bytes {
                kept.push(range(from, bytes, digest(&tail_hash[stream])));
            }
        }
        StreamSummary { bytes, sha256, kept }
    }

    fn nothing_kept(&self, inner: &Inner) -> Ended {
        let summary = |stream: usize| StreamSummary {
            bytes: inner.at[stream],
            sha256: digest(&self.all[stream]),
            kept: Vec::new(),
        };
        Ended {
            log: Log {
                end: inner.end,
                stdout_bytes: inner.at[0],
                stderr_bytes: inner.at[1],
                ..Log::default()
            },
            stdout: summary(0),
            stderr: summary(1),
        }
    }
}

fn digest(hash: &Sha256) -> Digest {
    Digest(hash.clone().finalize().into())
}
