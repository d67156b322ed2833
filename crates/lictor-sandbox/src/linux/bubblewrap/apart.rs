//! A sandbox's mounts become its own: what the host mounts from then on does not come in.
//!
//! bwrap makes its tree a slave of the host's. What is mounted on the host below a path that is shown would appear inside
//! with its own rights: writable in what is read-only, with set-user-id programs and devices. A root agent ends that as
//! soon as the tree stands, from a thread that goes there for it, and then looks whether something came before.
//!
//! # Invariants
//! - Nothing of a job runs before this. Whoever is not root cannot do it (the tree is of a user namespace above the job's).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::ptr;

use tokio::sync::oneshot;

use super::arguments::Parts;
use crate::handle::ProcessId;
use crate::linux::mounts;

/// What is the sandbox's own, and of no matter to the host.
const OWN: [&str; 3] = ["/proc", "/dev", "/tmp"];

/// Cuts the mounts off that a first process sees.
pub(super) async fn cut_off(init: &OwnedFd) -> io::Result<()> {
    let init = init.try_clone()?;
    let (done, told) = oneshot::channel();
    // A thread of its own: it does not come back.
    let visitor = std::thread::Builder::new().name("lictor-mounts".into());
    visitor.spawn(move || {
        let _ = done.send(make_private(&init));
    })?;
    told.await.map_err(io::Error::other)?
}

fn make_private(init: &OwnedFd) -> io::Result<()> {
    let none = ptr::null::<libc::c_char>();
    // SAFETY: calls about this thread's own view, which ends with the thread, with constants that outlive them.
    let done = unsafe {
        libc::unshare(libc::CLONE_FS) == 0
            && libc::setns(init.as_raw_fd(), libc::CLONE_NEWNS) == 0
            && libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            ) == 0
    };
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

/// Looks whether something of the host's came in with its own rights before.
pub(super) fn look(init: ProcessId, parts: &Parts<'_>) -> io::Result<()> {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", init.pid))?;
    let writable = |at: &Path| {
        let shown = parts.paths.mounts.iter().filter(|m| at.starts_with(&m.at));
        let nearest = shown.max_by_key(|m| m.at.len());
        nearest.is_some_and(|m| m.option == "--bind-fd")
    };
    for (at, rights) in table.lines().filter_map(mounts::point_and_rights) {
        let has = |right: &str| rights.split(',').any(|r| r == right);
        let is_shown = parts.paths.mounts.iter().any(|m| at.starts_with(&m.at));
        let is_own = OWN.iter().any(|own| at.starts_with(own)) && !is_shown;
        let is_device = parts.devices.iter().any(|device| at == Path::new(device));
        let as_shown = has("nosuid") && has("nodev") && (has("ro") || writable(&at));
        if !(as_shown || is_own || is_device || at == Path::new("/")) {
            let why = format!("something was mounted at {} meanwhile", at.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
    }
    Ok(())
}
