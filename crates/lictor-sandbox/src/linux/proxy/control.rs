//! The agent's end of the control socket: one packet is one message.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use lictor_proto::egress::{Command, Event, MAX_MESSAGE};
use lictor_proto::json;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The type inside is of another kind of Unix socket: it only watches the descriptor and owns it; what is sent and
/// received goes through calls that mean packets of the kind that it is.
#[derive(Debug)]
pub(super) struct Control(UnixDatagram);

impl Control {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket).map(Self)
    }

    /// Sends a command, and with it a descriptor or none.
    pub(super) async fn send(&self, command: &Command, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = json::to_vec(command).map_err(io::Error::other)?;
        let send = || self.send_now(&bytes, descriptor);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Sends a command if there is room for it at once.
    pub(super) fn try_send(&self, command: &Command) -> io::Result<()> {
        let bytes = json::to_vec(command).map_err(io::Error::other)?;
        self.0.try_io(Interest::WRITABLE, || self.send_now(&bytes, None))
    }

    fn send_now(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|d| [d]);
        if let Some(descriptors) = &descriptors
            && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(
            &self.0,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// The next message, by way of `room`; `None` when the other end is gone.
    pub(super) async fn receive(&self, room: &mut Vec<u8>) -> io::Result<Option<Event>> {
        room.resize(MAX_MESSAGE, 0);
        let receive = || rustix::net::recv(&self.0, &mut room[..], RecvFlags::TRUNC).map_err(io::Error::from);
        let (_, length) = self.0.async_io(Interest::READABLE, receive).await?;
        match room.get(..length) {
            Some([]) => Ok(None),
            // Strictly: the other side reads hostile bytes.
            Some(message) => json::from_slice(message).map(Some).map_err(io::Error::other),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
