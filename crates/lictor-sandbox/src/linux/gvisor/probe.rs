//! Whether a sandbox of runsc starts here: one whose first process ends at once.

use std::io;
use std::os::fd::AsFd as _;

use rustix::pipe::PipeFlags;

use super::starter::{Own, Starter, said};
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Ids, View};
use crate::linux::spawn::{self, Launch};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::table::MAIN_ENDED;

/// Makes one and takes it down again.
///
/// # Errors
/// What runsc has said.
pub(super) async fn probe(kernel: &Kernel) -> io::Result<()> {
    let bundle = kernel.place()?.bundle()?;
    let started = start(kernel, &bundle).await;
    started.and(bundle.remove())
}

async fn start(kernel: &Kernel, bundle: &Bundle) -> io::Result<()> {
    let ids = Ids {
        user: (kernel.config.sandbox_uid, kernel.config.sandbox_gid),
        root: kernel.config.container_root,
    };
    let own = Own::lay(bundle, &[])?;
    // Without further words it waits for the end of its input, which there is none of.
    let argv = own.fill(kernel, bundle, (ids, View::of_host()), &[own.init()])?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let ((nothing, _), (_words, said_to)) = (pipe()?, pipe()?);
    let launch = Launch {
        inherit: vec![nothing.as_fd(), said_to.as_fd(), said_to.as_fd()],
        ..Starter::launch_of(&argv)
    };
    let spawned = spawn::spawn(&kernel.zygote, &launch).await;
    let mut keeper = spawned.map_err(|e| io::Error::other(e.refusal().message))?.keeper;
    let bound = Timer::after(kernel.zygote.bound);
    let ended = tokio::select! {
        ended = keeper.next() => ended,
        () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
    };
    keeper.end_all(kernel.zygote.kill_bound()).await?;
    kernel.zygote.give_back(keeper);
    match ended? {
        Some(record) if record.kind == MAIN_ENDED && record.a == 0 => Ok(()),
        _ => Err(io::Error::other(said(bundle))),
    }
}
