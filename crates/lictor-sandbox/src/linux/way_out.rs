//! The way out of a sandbox: a listener in its network, with the egress proxy behind it.
//!
//! ```text
//!   create: zygote -> keeper -> a process in the namespaces that listens on 127.0.0.1:3128 and hands out the socket
//!           -> the proxy, with the job's rules; what it decides comes back as records of this job
//! ```
//!
//! No process of ours is in the sandbox for that, and no file: the socket itself belongs to its network. Where there are
//! no namespaces to enter, the backend brings the listener: see `gvisor::door`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use lictor_proto::JobId;
use lictor_proto::egress::Rules;
use lictor_trust::egress::PROXY_PORT;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::kernel::Kernel;
use super::proxy::Taken;
use super::spawn::{self, Launch};
use super::users::User;
use crate::backend::StartError;
use crate::plan::LaunchSpec;
use crate::running::EgressEvents;

/// One job's way out, to close it.
#[derive(Debug, Clone)]
pub(crate) struct WayOut {
    kernel: Arc<Kernel>,
    job: JobId,
    taken: Taken,
}

impl WayOut {
    /// So many of its records are written down.
    pub(crate) async fn taken(&self, records: u32) {
        self.taken.say(records).await;
    }

    /// Ends its connections; returns when the last about them has been said, or the proxy has been ended.
    pub(crate) async fn close(&self) {
        if let Some(proxy) = &self.kernel.proxy {
            proxy.close(&self.kernel, &self.job).await;
        }
    }
}

/// Makes a job's way out, if its profile has one. With a user `inside` the namespaces are entered as the agent.
pub(super) async fn make(
    kernel: &Arc<Kernel>,
    spec: &LaunchSpec,
    inside: (BorrowedFd<'_>, Option<&User>, Option<BorrowedFd<'_>>),
) -> Result<Option<EgressEvents>, StartError> {
    if spec.egress.is_none() {
        return Ok(None);
    }
    let listener = listener(kernel, spec, inside).await?;
    serve(kernel, spec, listener).await
}

/// Has the proxy serve a job's listener, if its profile has a way out.
pub(super) async fn serve(
    kernel: &Arc<Kernel>,
    spec: &LaunchSpec,
    listener: OwnedFd,
) -> Result<Option<EgressEvents>, StartError> {
    match &spec.egress {
        Some(rules) => serve_by(kernel, (&spec.job, rules), listener).await.map(Some),
        None => Ok(None),
    }
}

/// Has the proxy serve a listener by rules, as a job's.
pub(super) async fn serve_by(
    kernel: &Arc<Kernel>,
    (job, rules): (&JobId, &Rules),
    listener: OwnedFd,
) -> Result<EgressEvents, StartError> {
    let proxy = kernel.proxy.as_ref().ok_or_else(|| {
        StartError::failed("reach the egress proxy")(io::Error::other("this agent has none"))
    })?;
    let opened = proxy.open(kernel, job, rules.clone(), listener).await;
    let (events, taken) = opened.map_err(StartError::failed("reach the egress proxy"))?;
    let way_out = WayOut {
        kernel: kernel.clone(),
        job: job.clone(),
        taken,
    };
    Ok(EgressEvents::new(events, way_out))
}

async fn listener(
    kernel: &Kernel,
    spec: &LaunchSpec,
    (namespaces, inside, users): (BorrowedFd<'_>, Option<&User>, Option<BorrowedFd<'_>>),
) -> Result<OwnedFd, StartError> {
    let failed = |e: rustix::io::Errno| StartError::failed("listen in the sandbox")(e.into());
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    let launch = Launch {
        user: inside.or(spec.changes_user.then_some(&spec.user)),
        ids_inside: inside.is_some(),
        inherit: vec![theirs.as_fd()],
        namespaces: Some(namespaces),
        users,
        listen: Some(PROXY_PORT),
        ..Launch::of_a_helper()
    };
    let mut spawned = spawn::spawn(&kernel.zygote, &launch).await?;
    drop(theirs);
    // It has sent the socket, or failed, before its start was reported.
    let received = receive(&ours);
    spawned.keeper.until_free().await;
    kernel.zygote.give_back(spawned.keeper);
    received.map_err(StartError::failed("listen in the sandbox"))
}

fn receive(from: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    descriptors
        .next()
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}
