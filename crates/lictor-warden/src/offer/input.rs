//! The input that a verified job names, from the spool.

use std::sync::{MutexGuard, PoisonError};

use lictor_proto::Code;
use lictor_proto::agent::OfferReply;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Job, StdinBytes};
use lictor_sandbox::StdinSource;

use super::room;
use crate::core::Core;
use crate::spool::stdin::StdinSpool;

/// It, if it is here as a whole. What an earlier run of the agent has left of it counts.
///
/// # Errors
/// `StdinMissing`, and from then on it may come; else the spool's.
pub(super) async fn of(core: &Core, job: &Job) -> Result<StdinSource, Refusal> {
    let Some(wanted) = job.input().filter(|wanted| wanted.size > 0) else {
        return Ok(StdinSource::Null);
    };
    take_over(core, &wanted).await;
    let mut spool = spool(core);
    spool.get(&wanted).map(StdinSource::File).or_else(|missing| {
        if missing.code == Code::StdinMissing {
            spool.expect(&wanted, || room::free(core))?;
        }
        Err(missing)
    })
}

/// Reads what was left of it, on a thread that may wait for the disk.
async fn take_over(core: &Core, wanted: &StdinBytes) {
    let left = spool(core).left_of(wanted);
    let Some(left) = left else { return };
    let read = tokio::task::spawn_blocking(move || left.read()).await;
    let read = read.map_err(std::io::Error::other).flatten();
    if let Err(e) = &read {
        tracing::warn!(error = %e, "what was left of an input could not be read");
    }
    spool(core).take_over(wanted, read.ok());
}

/// Where an input goes on that broke off on its way.
pub(super) fn begun(core: &Core, job: &Job) -> Option<OfferReply> {
    let wanted = job.input()?;
    let at = spool(core).have(&wanted.sha256);
    (at > 0 && at < wanted.size).then_some(OfferReply::Wanted {
        sha256: wanted.sha256,
        at,
    })
}

fn spool(core: &Core) -> MutexGuard<'_, StdinSpool> {
    core.stdin.lock().unwrap_or_else(PoisonError::into_inner)
}
