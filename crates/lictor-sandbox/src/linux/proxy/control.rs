//! The agent's end of the control socket: commands out, events in.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use lictor_control::Channel;
use lictor_proto::egress::{Command, Event};
use lictor_proto::json;

#[derive(Debug)]
pub(super) struct Control(Channel);

impl Control {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Channel::new(fd).map(Self)
    }

    /// Sends a command, and with it a descriptor or none.
    pub(super) async fn send(&self, command: &Command, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = json::to_vec(command).map_err(io::Error::other)?;
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        self.0.send(&bytes, &descriptors).await
    }

    /// Sends a command if there is room for it at once.
    pub(super) fn try_send(&self, command: &Command) -> io::Result<()> {
        self.0.try_send(&json::to_vec(command).map_err(io::Error::other)?)
    }

    /// The next message; `None` when the other end is gone. The proxy has no descriptors to hand out: those that come
    /// all the same are closed.
    pub(super) async fn receive(&self) -> io::Result<Option<Event>> {
        let packet = self.0.receive().await?;
        // Strictly: the other side reads hostile bytes.
        let event = packet.map(|p| json::from_slice(&p.bytes).map_err(io::Error::other));
        event.transpose()
    }
}
