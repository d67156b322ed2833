//! Jobs that come after others: held until the journal says that those have ended here, in nobody's way.
//!
//! What is held is in memory, and the hub's: it is offered again, and so comes back after a restart. Here it is looked at
//! every second, so that it begins when it may and not when somebody asks next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lictor_proto::agent::Offer;
use lictor_proto::code::Refusal;
use lictor_proto::doc::Job;
use lictor_proto::{Code, Digest, JobId, Timestamp};

use crate::core::Core;
use crate::journal::state::{Phase, State};

/// Jobs that are held; of more the hub reminds.
const HELD: usize = 256;
/// Bytes of all of them.
const BYTES: usize = 32 * 1024 * 1024;

/// What is held.
#[derive(Debug, Default)]
pub(crate) struct Behind(Mutex<BTreeMap<Digest, Held>>);

#[derive(Debug)]
struct Held {
    offer: Offer,
    after: Vec<Digest>,
    expires_at: Timestamp,
}

impl Behind {
    fn keep(&self, digest: Digest, job: &Job, offer: &Offer) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = held.values().map(|h| weight(&h.offer)).sum();
        let fits = held.len() < HELD && bytes + weight(offer) <= BYTES;
        if held.contains_key(&digest) || fits {
            let of = Held {
                offer: offer.clone(),
                after: job.after.clone(),
                expires_at: job.expires_at,
            };
            held.insert(digest, of);
        }
    }

    /// Takes out what may begin, or can begin no more.
    fn ready(&self, state: &State, now: Timestamp) -> Vec<Offer> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = |h: &Held| h.expires_at <= now || h.after.iter().all(|d| has_ended(state, d));
        let ready: Vec<Digest> = held
            .iter()
            .filter(|(_, h)| is_ready(h))
            .map(|(d, _)| *d)
            .collect();
        ready
            .iter()
            .filter_map(|d| held.remove(d))
            .map(|h| h.offer)
            .collect()
    }
}

/// Bytes of an offer, so that what is held in memory has a bound.
pub(crate) fn weight(offer: &Offer) -> usize {
    let along = offer
        .approvals
        .iter()
        .chain(&offer.releases)
        .chain(&offer.secrets);
    offer.job.len() + along.map(String::len).sum::<usize>()
}

/// Whether a job was taken here and is over: one that has not come yet has not ended.
fn has_ended(state: &State, job: &Digest) -> bool {
    match state.job(job).map(|j| &j.phase) {
        Some(Phase::Finished { .. }) => true,
        Some(_) => false,
        None => state.is_seen(job),
    }
}

/// Why a job does not begin yet, if it comes after one that has not ended here. It is held then.
pub(super) fn behind(core: &Core, digest: &Digest, job: &Job, offer: &Offer) -> Option<Refusal> {
    let first = {
        let state = core.journal.state();
        *job.after.iter().find(|d| !has_ended(&state, d))?
    };
    core.behind.keep(*digest, job, offer);
    let why = format!("waits for the end of {}", JobId::from_digest(&first));
    Some(Refusal::new(Code::AfterWaiting, why))
}

/// Offers again what has been held and may begin, or has expired.
pub(crate) fn look(core: &Arc<Core>) {
    let now = core.law.current().trust.now(core.now());
    let ready = core.behind.ready(&core.journal.state(), now);
    for offer in ready {
        let own = core.clone();
        core.tasks.spawn(async move {
            let reply = super::offer(own, offer).await;
            tracing::debug!(?reply, "a job that came after others was judged again");
        });
    }
}
