//! What the processes of one execution say, and what they ask their way out for, into its log.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use lictor_proto::egress::Totals;
use lictor_proto::frame::{FrameKind, HEADER};
use lictor_proto::{Digest, Timestamp};
use lictor_sandbox::{EgressEvents, Ended, OutputReader, Running};

use crate::core::Core;
use crate::egress::Recorder;
use crate::live::LiveJob;
use crate::redact::{self, Redactor};
use crate::spool::{self, INLINE, Spool, Writer};

/// Bytes read from a stream at once.
const PIECE: usize = 256 * 1024;

/// The output side of one execution.
pub(super) struct Output {
    pub(super) core: Arc<Core>,
    pub(super) live: Arc<LiveJob>,
    pub(super) job: Digest,
    pub(super) spool: Arc<Spool>,
    pub(super) writer: Mutex<Writer>,
    /// Takes the values of its secrets out of what it says.
    pub(super) redactor: Redactor,
}

/// Whether anything is started after a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    First,
    Last,
}

impl Output {
    /// Takes in what a process says until it is gone with all that it has left, and what it asks its way out for.
    pub(super) async fn follow(&self, mut running: Running, part: Part) -> (Ended, Option<Totals>) {
        let egress = running.take_egress();
        let way_out = egress.as_ref().map(EgressEvents::to_close);
        let (stdout, stderr) = (running.take_stdout(), running.take_stderr());
        let wait = async {
            let ended = running.wait().await;
            // Nobody is left to be throttled; what is in the pipes is taken at once.
            self.spool.stop_throttling();
            // The last that is said about it belongs into the log.
            if let Some(way_out) = way_out {
                way_out.close().await;
            }
            ended
        };
        let recorder = Recorder {
            core: &self.core,
            live: &self.live,
            job: self.job,
            spool: &self.spool,
            writer: &self.writer,
            redactor: &self.redactor,
        };
        let (ended, totals, (), ()) = tokio::join!(
            wait,
            recorder.record(egress),
            self.stream(FrameKind::Stdout, stdout),
            self.stream(FrameKind::Stderr, stderr)
        );
        if part == Part::First {
            self.spool.throttle_again();
        }
        (ended, totals)
    }

    /// Ends the log.
    pub(super) async fn end(self) -> spool::Ended {
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        end_log(writer, self.spool.end()).await
    }
}

impl Output {
    async fn stream(&self, kind: FrameKind, reader: Option<OutputReader>) {
        let Some(mut reader) = reader else { return };
        if let Err(e) = self.copy(kind, &mut reader).await {
            tracing::warn!(job = %self.job, error = %e, "an output stream broke");
        }
    }

    async fn copy(&self, kind: FrameKind, reader: &mut OutputReader) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let mut redacted = redact::Stream::of(&self.redactor);
        let mut since_yield = 0;
        loop {
            // A stream that always has more would otherwise keep its time limit, and everybody else, from running.
            if since_yield >= PIECE {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
            self.spool.wait_room().await;
            buffer.clear();
            buffer.resize(HEADER, 0);
            let read = reader.read(&mut buffer, PIECE).await?;
            if read == 0 {
                self.without_secrets(kind, |out| redacted.end(out));
                return Ok(());
            }
            since_yield += read;
            if self.redactor.is_empty() {
                self.write(kind, &mut buffer);
            } else {
                self.without_secrets(kind, |out| redacted.push(&buffer[HEADER..], out));
            }
        }
    }

    /// Writes what is left of output once values of secrets are taken out of it.
    fn without_secrets(&self, kind: FrameKind, take: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        take(&mut out);
        for piece in out.chunks(PIECE) {
            let mut buffer = BytesMut::zeroed(HEADER);
            buffer.extend_from_slice(piece);
            self.write(kind, &mut buffer);
        }
    }

    fn write(&self, kind: FrameKind, buffer: &mut [u8]) {
        let before = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let before = self.spool.end();
            writer.write(kind, Timestamp::now(), buffer);
            before
        };
        if self.live.wants(before) {
            self.core.feeds.touch(self.job);
        }
    }
}

/// A small log ends without touching the disk; a large one is synced, which must not hold up others.
async fn end_log(writer: Writer, length: u64) -> spool::Ended {
    if length <= INLINE {
        return writer.end();
    }
    let ended = tokio::task::spawn_blocking(move || writer.end()).await;
    ended.unwrap_or_else(|e| {
        tracing::error!(error = %e, "the end of a log failed");
        spool::Ended::nothing()
    })
}
