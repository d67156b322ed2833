//! Packets and descriptors between an agent and its helpers, without a line of `unsafe`.
//!
//! A helper is a process that reads what strangers send, and it hears from its agent over one Unix socket pair of kind
//! `SOCK_SEQPACKET`: one packet is one message, and descriptors may travel with it. What the messages say is between
//! the two; this is only how they get there. A crate of its own because both ends need it and neither may know the
//! other: the agent's side has no code that speaks to a network, the helper's none that starts jobs.
//!
//! # Invariants
//! - A message is [`MAX_MESSAGE`] bytes at most, and a longer one is an error at both ends.
//! - Descriptors that come are closed in programs that are started, and closed when nobody takes them.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 128 * 1024;
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
        check(bytes)?;
        self.0
            .async_io(Interest::WRITABLE, || send(&self.0, bytes, descriptors))
            .await
    }

    /// Sends one packet if there is room for it at once.
    ///
    /// # Errors
    /// As [`send`](Self::send), and `WouldBlock` when there is none.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        check(bytes)?;
        self.0.try_io(Interest::WRITABLE, || send(&self.0, bytes, &[]))
    }
}

fn check(bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
        let text = "a message has 1 byte to 128 KiB";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = Channel::pair().expect("a pair");
        let channel = |fd| Channel::new(fd).expect("a channel");
        (channel(one), channel(other))
    }

    #[tokio::test]
    async fn a_packet_arrives_whole_with_its_descriptors_and_the_end_is_told() {
        let (here, there) = pair();
        let file = std::fs::File::open("/dev/null").expect("open");
        here.send(b"one", &[file.as_fd()]).await.expect("sent");
        here.try_send(b"two").expect("sent");
        let one = there.receive().await.expect("received").expect("a packet");
        assert_eq!((one.bytes.as_slice(), one.descriptors.len()), (&b"one"[..], 1));
        let two = there.receive().await.expect("received").expect("a packet");
        assert_eq!((two.bytes.as_slice(), two.descriptors.len()), (&b"two"[..], 0));
        drop(here);
        assert!(there.receive().await.expect("no error").is_none());
    }

    #[tokio::test]
    async fn what_is_empty_or_too_long_is_not_sent_and_what_finds_no_room_is_not_waited_for() {
        let (here, _there) = pair();
        for bytes in [vec![], vec![b' '; MAX_MESSAGE + 1]] {
            let refused = here.send(&bytes, &[]).await.map_err(|e| e.kind());
            assert_eq!(refused, Err(io::ErrorKind::InvalidInput));
        }
        here.send(b"first", &[]).await.expect("there is room");
        let mut sent = 0;
        let full = loop {
            match here.try_send(&[b' '; 1024]) {
                Ok(()) => sent += 1,
                Err(e) => break e.kind(),
            }
        };
        assert_eq!(full, io::ErrorKind::WouldBlock);
        assert!(sent > 1);
    }

    #[tokio::test]
    async fn another_kind_of_socket_is_no_channel() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(Channel::new(stream.into()).is_err());
    }
}
