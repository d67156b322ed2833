//! A byte stream of either kind, by shared reference: both directions are used at once without a lock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;
use tokio::net::{TcpStream, UnixStream};

use crate::socket;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// Reads what there is, waiting for something; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // A peer that is always ready must not keep the other connections' turn.
        tokio::task::coop::consume_budget().await;
        loop {
            match self.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                read => return read,
            }
        }
    }

    /// Reads what there is without waiting for any.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Tcp(s) => s.try_read(buffer),
                Self::Unix(s) => s.try_read(buffer),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Waits until there is something to read, or the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.readable().await,
            Self::Unix(s) => s.readable().await,
        }
    }

    /// Writes what can be written without waiting.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let written = match self {
                Self::Tcp(s) => s.try_write(bytes),
                Self::Unix(s) => s.try_write(bytes),
            };
            match written {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(s) => s.writable().await?,
                    Self::Unix(s) => s.writable().await?,
                },
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written. Whoever has gone need not be told.
    pub(crate) fn end_writing(&self) {
        socket::end_writing(self);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

/// The reading side of a stream, with what has been read and not used.
#[derive(Debug)]
pub(crate) struct Reader<'s> {
    stream: &'s Stream,
    /// Read and not used.
    pub(crate) held: BytesMut,
}

/// How much is read at once while something is being parsed.
const PIECE: usize = 8 * 1024;

impl<'s> Reader<'s> {
    /// With nothing held.
    pub(crate) fn new(stream: &'s Stream) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
        }
    }

    /// The stream below.
    pub(crate) fn stream(&self) -> &'s Stream {
        self.stream
    }

    /// Reads some more into `held`; 0 at the end. Whoever stops waiting for it finds `held` as it was.
    pub(crate) async fn more(&mut self) -> io::Result<usize> {
        tokio::task::coop::consume_budget().await;
        loop {
            let before = self.held.len();
            self.held.resize(before + PIECE, 0);
            let read = self.stream.try_read(&mut self.held[before..]);
            self.held.truncate(before + read.as_ref().copied().unwrap_or(0));
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                read => return read,
            }
        }
    }

    /// Reads until at least `n` bytes are held; false when the stream ends before.
    pub(crate) async fn at_least(&mut self, n: usize) -> io::Result<bool> {
        while self.held.len() < n {
            if self.more().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
