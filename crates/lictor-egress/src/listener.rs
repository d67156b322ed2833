//! The listener that a job's processes see, of either kind, and the check that a descriptor can be one.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::{TcpListener, UnixListener};

use crate::socket::{self, Family};
use crate::stream::Stream;

/// A listening stream socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP, usually on the loopback interface of the job's own network namespace.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

/// Why a descriptor can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum NotListening {
    /// It is something else.
    #[error("the descriptor is no bound TCP or Unix stream socket")]
    SomethingElse,
    /// The kernel says no.
    #[error("the descriptor cannot be used")]
    Unusable(#[source] io::Error),
}

impl Listener {
    /// Takes a bound stream socket over, and has it listen if it does not. Needs a running tokio.
    ///
    /// # Errors
    /// When it is something else.
    pub fn adopt(fd: OwnedFd) -> Result<Self, NotListening> {
        let something_else = |_| NotListening::SomethingElse;
        match socket::family(&fd).map_err(something_else)? {
            Some(Family::Internet) => {
                let listener = std::net::TcpListener::from(fd);
                // One without an address of its own would be given one, on every interface.
                let bound = listener.local_addr().map_err(something_else)?.port() != 0;
                if !bound {
                    return Err(NotListening::SomethingElse);
                }
                socket::make_listen(&listener).map_err(something_else)?;
                let ready = listener.set_nonblocking(true);
                ready
                    .and_then(|()| TcpListener::from_std(listener))
                    .map(Self::Tcp)
            }
            Some(Family::Unix) => {
                socket::make_listen(&fd).map_err(something_else)?;
                let listener = std::os::unix::net::UnixListener::from(fd);
                let ready = listener.set_nonblocking(true);
                ready
                    .and_then(|()| UnixListener::from_std(listener))
                    .map(Self::Unix)
            }
            None => return Err(NotListening::SomethingElse),
        }
        .map_err(NotListening::Unusable)
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}
