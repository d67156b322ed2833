//! Where a job's output goes: its bytes to our own two streams, or JSON lines.
//!
//! The first bytes are written directly. A job that prints more gets a thread that writes, so that a reader which
//! stands still blocks neither Ctrl-C nor the hub, and hashing and writing go on side by side.

use std::io::{self, Write as _};
use std::thread::JoinHandle;

use bytes::Bytes;
use lictor_client::Stream;
use lictor_proto::Timestamp;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

/// No more than a pipe holds, so that writing it hardly ever waits.
const DIRECT: usize = 64 * 1024;
/// Frames under way to the writing thread.
const QUEUE: usize = 16;

/// Why output could not be written.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// Whoever read our output has gone.
    ReaderGone,
    /// Anything else.
    Failed(io::Error),
}

impl From<io::Error> for Unwritten {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(e),
        }
    }
}

type Written = Result<(), Unwritten>;

/// The place.
#[derive(Debug)]
pub(crate) struct Screen {
    json: bool,
    direct_left: usize,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    queue: mpsc::Sender<(Stream, Bytes)>,
    done: oneshot::Receiver<()>,
    /// Joined once it is done. A screen that is dropped before does not wait: the thread may hang in a write to a
    /// reader that stands still, and ends with the process.
    thread: JoinHandle<Written>,
}

impl Screen {
    /// A screen; with `json`, everything becomes a line on standard output.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            direct_left: DIRECT,
            writer: None,
        }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Shows output.
    pub(crate) async fn output(&mut self, stream: Stream, time: Timestamp, at: u64, bytes: Bytes) -> Written {
        if self.json {
            return self
                .write(
                    Stream::Stdout,
                    format!("{}\n", piece(stream, time, at, &bytes)).into(),
                )
                .await;
        }
        self.write(stream, bytes).await
    }

    /// Shows that some output is missing.
    pub(crate) async fn missing(&mut self, stdout: u64, stderr: u64) -> Written {
        self.gap(stdout, stderr).await?;
        if self.json || stdout + stderr == 0 {
            return Ok(());
        }
        let note = format!(
            "lictor: {} bytes of output are not shown: they were not kept\n",
            stdout + stderr
        );
        self.write(Stream::Stderr, note.into()).await
    }

    /// That a part of the log is missing, for programs.
    pub(crate) async fn gap(&mut self, stdout: u64, stderr: u64) -> Written {
        let line = json!({
            "event": "gap",
            "stdout_bytes": stdout,
            "stderr_bytes": stderr,
        });
        self.event(&line).await
    }

    /// One line for people; nothing for programs.
    pub(crate) async fn line(&mut self, text: &str) -> Written {
        if self.json {
            return Ok(());
        }
        self.write(Stream::Stdout, format!("{text}\n").into()).await
    }

    /// One JSON line, in order with the output; nothing for people.
    pub(crate) async fn event(&mut self, event: &serde_json::Value) -> Written {
        if !self.json {
            return Ok(());
        }
        self.write(Stream::Stdout, format!("{event}\n").into()).await
    }

    /// Bytes as they are.
    pub(crate) async fn write(&mut self, stream: Stream, bytes: Bytes) -> Written {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.writer.is_none() && bytes.len() <= self.direct_left {
            self.direct_left -= bytes.len();
            return put(stream, &bytes);
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => empty.insert(Writer::start()),
        };
        if writer.queue.send((stream, bytes)).await.is_err() {
            return self.finish().await;
        }
        Ok(())
    }

    /// Waits until everything has been written.
    pub(crate) async fn finish(&mut self) -> Written {
        match self.writer.take() {
            Some(writer) => {
                drop(writer.queue);
                // Whether it said so or broke down, it is at its end, and joining it waits for nothing.
                let _ = writer.done.await;
                let gone = |_| Unwritten::Failed(io::Error::other("the writing thread has gone"));
                writer.thread.join().map_err(gone)?
            }
            None => Ok(()),
        }
    }
}

impl Writer {
    fn start() -> Self {
        let (queue, mut frames) = mpsc::channel::<(Stream, Bytes)>(QUEUE);
        let (tell, done) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let mut result = Ok(());
            while let (Ok(()), Some((stream, bytes))) = (&result, frames.blocking_recv()) {
                result = put(stream, &bytes);
            }
            let _ = tell.send(());
            result
        });
        Self { queue, done, thread }
    }
}

fn put(stream: Stream, bytes: &[u8]) -> Written {
    match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes)?,
    }
    Ok(())
}

/// A piece of output for programs.
pub(crate) fn piece(stream: Stream, time: Timestamp, at: u64, bytes: &[u8]) -> serde_json::Value {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let mut line = json!({
        "event": name,
        "at": at,
        "time": time,
        "data": String::from_utf8_lossy(bytes),
    });
    if std::str::from_utf8(bytes).is_err() {
        line["base64"] = lictor_proto::json::encode_base64(bytes).into();
    }
    line
}
