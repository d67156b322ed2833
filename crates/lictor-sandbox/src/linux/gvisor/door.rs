//! The way out of a gVisor sandbox, whose network nobody can enter from outside.
//!
//! ```text
//!   in the sandbox                        the agent                      the egress proxy
//!   job -> 127.0.0.1:3128
//!          first process -- one word --> connects to the door ---------> accepts, judges, dials
//!                        <- one word, and that connection --
//!          and passes bytes on between the two: see `init/relay.rs`
//! ```
//!
//! What carries the words is runsc's standard input; the job's own comes in by it first. The job has neither: its first process
//! keeps it to itself, and is another user. Whoever takes the sandbox's kernel over has it, and with it what the job had
//! anyway: connections to the job's own proxy.
//!
//! # Invariants
//! - The door has no name, so nobody but the agent finds it.
//! - One word is answered after the other, and what nobody takes is not given again: a sandbox holds up itself alone.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Connections that wait until the proxy takes them, before it says itself how many may (1024): about as many as the first
/// process has at all, so that others wait in the sandbox.
const BACKLOG: i32 = 128;

/// Where the proxy listens for a job.
#[derive(Debug)]
pub(super) struct Door(OwnedFd);

impl Door {
    /// Makes it, with the socket that the proxy accepts from. `dir` is the agent's alone.
    pub(super) fn make(dir: &Path) -> io::Result<(Self, OwnedFd)> {
        const NAME: &str = "door";
        let dir = File::open(dir)?;
        let kind = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
        // By the descriptor, since a path may be longer than an address.
        let path = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
        rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let door = rustix::fs::openat(&dir, NAME, flags, Mode::empty())?;
        rustix::fs::unlinkat(&dir, NAME, rustix::fs::AtFlags::empty())?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok((Self(door), listener))
    }

    /// A connection, unless there is nobody or there are too many already.
    fn connect(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }
}

/// What carries words between the agent and a sandbox's first process.
#[derive(Debug)]
pub(super) struct Wire {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Wire {
    pub(super) fn make() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The other end waits for the first word.
        rustix::fs::fcntl_setfl(&theirs, OFlags::empty())?;
        Ok(Self { ours, theirs })
    }

    /// The sandbox's end.
    pub(super) fn theirs(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Sends the job's input, the first that comes through.
    pub(super) fn give_input(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        say(self.ours.as_fd(), Some(input))
    }

    /// The agent's end.
    pub(super) fn listen(&self) -> io::Result<UnixStream> {
        UnixStream::from_std(self.ours.try_clone()?.into())
    }
}

/// Answers what a sandbox asks, until nobody is there any more.
pub(super) async fn serve(wire: UnixStream, door: Door) {
    if let Err(error) = answer_all(&wire, &door).await {
        tracing::debug!(%error, "a sandbox asks for no way out any more");
    }
}

async fn answer_all(wire: &UnixStream, door: &Door) -> io::Result<()> {
    let mut word = [0; 1];
    loop {
        wire.readable().await?;
        match wire.try_read(&mut word) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        }
        let connection = door
            .connect()
            .inspect_err(|error| tracing::debug!(%error, "no way to the egress proxy"))
            .ok();
        let connection = connection.as_ref().map(|c| c.as_fd());
        wire.async_io(Interest::WRITABLE, || say(wire.as_fd(), connection))
            .await?;
    }
}

fn say(through: BorrowedFd<'_>, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(
        through,
        &[IoSlice::new(b"w")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}
