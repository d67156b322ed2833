//! Descriptors whose readiness tokio tells.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to be read from over to the runtime.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch_for(fd, Interest::READABLE)
}

/// Hands a descriptor over to the runtime.
pub(super) fn watch_for(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its one descriptor open and the same for as long as it lives, and the `AsyncFd`
    // owns it from here on.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
