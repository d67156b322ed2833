//! The listener that a job's processes see, of either kind, and the check that a descriptor is one.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::{TcpListener, UnixListener};

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
    #[error("the descriptor is no listening TCP or Unix stream socket")]
    SomethingElse,
    /// The kernel says no.
    #[error("the descriptor cannot be used")]
    Unusable(#[source] io::Error),
}

impl Listener {
    /// Takes a listening socket over. Needs a running tokio.
    ///
    /// # Errors
    /// When it is none.
    pub fn adopt(fd: OwnedFd) -> Result<Self, NotListening> {
        let else_ = |_| NotListening::SomethingElse;
        let is_stream = sockopt::socket_type(&fd).map_err(else_)? == SocketType::STREAM;
        let listens = sockopt::socket_acceptconn(&fd).map_err(else_)?;
        if !is_stream || !listens {
            return Err(NotListening::SomethingElse);
        }
        let family = sockopt::socket_domain(&fd).map_err(else_)?;
        let adopted = match family {
            AddressFamily::INET | AddressFamily::INET6 => {
                let listener = std::net::TcpListener::from(fd);
                let ready = listener.set_nonblocking(true);
                ready
                    .and_then(|()| TcpListener::from_std(listener))
                    .map(Self::Tcp)
            }
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                let ready = listener.set_nonblocking(true);
                ready
                    .and_then(|()| UnixListener::from_std(listener))
                    .map(Self::Unix)
            }
            _ => return Err(NotListening::SomethingElse),
        };
        adopted.map_err(NotListening::Unusable)
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
