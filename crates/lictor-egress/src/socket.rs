//! What the standard library doesn't ask of sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, Shutdown, SocketType, getsockname, listen, shutdown, sockopt};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Whose addresses a stream socket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 or IPv6.
    Internet,
    /// Unix.
    Unix,
}

/// The family of a stream socket; nothing for other sockets.
pub(crate) fn family(fd: &OwnedFd) -> io::Result<Option<Family>> {
    if sockopt::socket_type(fd)? != SocketType::STREAM {
        return Ok(None);
    }
    Ok(match getsockname(fd)?.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => Some(Family::Internet),
        AddressFamily::UNIX => Some(Family::Unix),
        _ => None,
    })
}

/// Makes a bound socket listen. One that listens goes on; one that is connected is refused.
pub(crate) fn make_listen(fd: impl AsFd) -> io::Result<()> {
    Ok(listen(fd, BACKLOG)?)
}

/// Says that nothing more will be written. Whoever has gone need not be told.
pub(crate) fn end_writing(fd: impl AsFd) {
    let _: rustix::io::Result<()> = shutdown(fd, Shutdown::Write);
}
