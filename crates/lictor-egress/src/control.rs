//! Packets and descriptors over the control socket, without a line of `unsafe`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use lictor_proto::egress::MAX_MESSAGE;
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The most descriptors that are taken with one message; one is the right number.
const MAX_DESCRIPTORS: usize = 4;

/// One end of the control socket.
///
/// The type below is of another kind of Unix socket. It only watches the descriptor and owns it: whatever is sent and
/// received goes through `sendmsg` and `recvmsg`, which mean packets of the kind that the socket is.
#[derive(Debug)]
pub struct Channel(UnixDatagram);

/// One packet.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Over one end of a `SOCK_SEQPACKET` pair. Needs a running tokio.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the control socket is no SOCK_SEQPACKET",
            ));
        }
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket).map(Self)
    }

    /// Two ends that are connected, as descriptors: one for the proxy's process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::empty(),
            None,
        )?;
        keep_to_ourselves(&one)?;
        keep_to_ourselves(&other)?;
        Ok((one, other))
    }

    /// The next packet; `None` when the other end is gone.
    ///
    /// # Errors
    /// When it was too long: then nothing about it can be believed. One whose descriptors were cut off comes without any.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// When the other end is gone, or it is too long.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a message has 1 byte to 128 KiB",
            ));
        }
        self.0
            .async_io(Interest::WRITABLE, || send(&self.0, bytes, descriptors))
            .await
    }
}

fn receive(fd: &UnixDatagram) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        fd,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::empty(),
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                keep_to_ourselves(&fd)?;
                descriptors.push(fd);
            }
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a control message was cut off",
        ));
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        // No room for another descriptor: the message is whole, and is refused for what it lacks.
        descriptors.clear();
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(got.bytes);
    Ok(Some(Packet { bytes, descriptors }))
}

fn send(fd: &UnixDatagram, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    sendmsg(fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// A program that this process started would not get it. It starts none; that it is closed a moment later is soon enough.
fn keep_to_ourselves(fd: &OwnedFd) -> rustix::io::Result<()> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)
}
