//! WebSocket (RFC 6455): both handshakes, and a byte stream over binary messages.
//!
//! The link is a WebSocket because that passes where nothing but HTTP passes. Inside, message borders mean
//! nothing: [`WsStream`] gives the bytes to HTTP/2 and takes its bytes. The same sockets carry JSON to
//! followers of a job's output, then as messages.

mod handshake;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
pub use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
pub use tokio_tungstenite::tungstenite::Message;
pub use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use handshake::{Upgrade, connect, upgrade};

/// Largest message and frame that is taken.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Most bytes that one write turns into one message.
const MAX_WRITE: usize = 128 * 1024;

/// The settings of every socket here.
#[must_use]
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        // The default of 128 KiB is allocated and written to up front, for every idle link. For a long message room is made
        // when its head has come; small reads cost no system calls, since TLS takes in whole records.
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// The bytes of a socket's binary messages.
#[derive(Debug)]
pub struct WsStream<S> {
    socket: WebSocketStream<S>,
    unread: Bytes,
}

impl<S> WsStream<S> {
    /// Reads and writes bytes over `socket`.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            unread: Bytes::new(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                // Pongs are written by tungstenite itself with the next flush.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "text message on a binary link",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(end_or(e)),
            }
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let total = bufs.iter().map(|b| b.len()).sum::<usize>().min(MAX_WRITE);
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut message = BytesMut::with_capacity(total);
        for b in bufs {
            let room = total - message.len();
            message.extend_from_slice(&b[..b.len().min(room)]);
        }
        Pin::new(&mut self.socket)
            .start_send(Message::Binary(message.freeze()))
            .map_err(into_io)?;
        Poll::Ready(Ok(total))
    }

    // HTTP/2 writes a frame's head and body as two slices; as one message they cost one header and one mask.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(end_or(e)),
        }
    }
}

/// An orderly end is no error.
fn end_or(e: tungstenite::Error) -> io::Result<()> {
    match e {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Ok(()),
        e => Err(into_io(e)),
    }
}

fn into_io(e: tungstenite::Error) -> io::Error {
    match e {
        tungstenite::Error::Io(e) => e,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::Error::new(io::ErrorKind::BrokenPipe, e)
        }
        e => io::Error::new(io::ErrorKind::InvalidData, e),
    }
}
