//! The input that a verified job names, from the spool.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lictor_proto::Code;
use lictor_proto::agent::OfferReply;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Job, StdinBytes};
use lictor_sandbox::StdinSource;

use super::room;
use crate::core::Core;
use crate::spool::stdin::StdinSpool;

/// What a job starts with.
pub(super) enum Input {
    /// It is here.
    Here(StdinSource),
    /// The node itself fetches it, once policy has permitted the job.
    ToFetch,
}

/// It, if it is here as a whole. What an earlier run of the agent has left of it counts.
///
/// # Errors
/// `StdinMissing`, and from then on it may come; else the spool's.
pub(super) async fn of(core: &Core, job: &Job) -> Result<Input, Refusal> {
    if job.download().is_some() {
        return Ok(Input::ToFetch);
    }
    let Some(wanted) = job.input().filter(|wanted| wanted.size > 0) else {
        return Ok(Input::Here(StdinSource::Null));
    };
    take_over(&core.stdin, &wanted).await;
    let elsewhere = core.downloads.coming();
    let mut spool = lock(&core.stdin);
    let here = spool.get(&wanted).or_else(|missing| {
        if missing.code == Code::StdinMissing {
            spool.expect(&wanted, || room::free(core).saturating_sub(elsewhere))?;
        }
        Err(missing)
    });
    here.map(|file| Input::Here(StdinSource::File(file)))
}

/// Reads what was left of it, on a thread that may wait for the disk.
pub(crate) async fn take_over(spool: &Mutex<StdinSpool>, wanted: &StdinBytes) {
    let left = lock(spool).left_of(wanted);
    let Some(left) = left else { return };
    let read = tokio::task::spawn_blocking(move || left.read()).await;
    let read = read.map_err(std::io::Error::other).flatten();
    if let Err(e) = &read {
        tracing::warn!(error = %e, "what was left of an input could not be read");
    }
    lock(spool).take_over(wanted, read.ok());
}

/// Where an input goes on that broke off on its way.
pub(super) fn begun(core: &Core, job: &Job) -> Option<OfferReply> {
    let wanted = job.input()?;
    let at = lock(&core.stdin).have(&wanted.sha256);
    (at > 0 && at < wanted.size).then_some(OfferReply::Wanted {
        sha256: wanted.sha256,
        at,
    })
}

/// The job has it, or will never start.
pub(super) fn spent(core: &Core, job: &Job) {
    if let Some(input) = job.input() {
        lock(&core.stdin).spent(&input.sha256);
    }
    if let Some((_, content)) = job.download() {
        lock(&core.downloads.spool).spent(&content.sha256);
    }
}

fn lock(spool: &Mutex<StdinSpool>) -> MutexGuard<'_, StdinSpool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}
