//! What time does: waiting jobs expire, seen jobs are forgotten, results that nobody takes go to the archive.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::doc::Outcome;
use lictor_proto::{Code, Digest, JobId, Timestamp, limits};
use lictor_rootfs::Store;

use crate::archive::{Archived, Incoming};
use crate::control::end_waiting;
use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;
use crate::offer::order;

const TICK: Duration = Duration::from_secs(1);
/// How long the live window of an ended execution stays open.
const LINGER: Duration = Duration::from_secs(30);
/// Ticks between the slower chores.
const SLOW: u64 = 60;

/// Ticks between looks at what is kept of root filesystems.
const SLOWER: u64 = 600;

/// Does the chores until the warden is gone.
pub(crate) async fn keep(core: Weak<Core>) {
    for tick in 0u64.. {
        tokio::time::sleep(TICK).await;
        let Some(core) = core.upgrade() else { return };
        if core.is_closed() {
            return;
        }
        core.live.tidy(LINGER);
        expire(&core).await;
        order::look(&core);
        if tick % SLOWER == 0 {
            make_room(&core).await;
        }
        if tick % SLOW == 0 {
            prune(&core).await;
            archive(&core).await;
            core.sweep_kept();
            core.stdin
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .tidy();
            core.downloads.tidy(core.law.current().trust.now(core.now()));
        }
    }
}

/// Removes root filesystems that are over the bounds and in no job's use, on a thread that may wait for the disk.
async fn make_room(core: &Core) {
    let store = Store::of_node(&core.config.dir);
    let (bounds, now) = (core.config.rootfs, core.now());
    let pruned = tokio::task::spawn_blocking(move || store.prune(&bounds, now)).await;
    match pruned {
        Ok(Ok(gone)) => gone
            .iter()
            .for_each(|digest| tracing::info!(%digest, "a root filesystem was removed")),
        Ok(Err(e)) => tracing::warn!(error = %e, "root filesystems could not be removed"),
        Err(e) => tracing::warn!(error = %e, "root filesystems could not be looked at"),
    }
}

/// Waiting jobs whose validity is over.
async fn expire(core: &Arc<Core>) {
    let now = core.law.current().trust.now(core.now());
    let over: Vec<Digest> = {
        let state = core.journal.state();
        let waiting = state
            .jobs()
            .filter(|(_, j)| matches!(j.phase, Phase::Waiting { .. }));
        waiting
            .filter(|(_, j)| j.expires_at <= now)
            .map(|(d, _)| *d)
            .collect()
    };
    for digest in over {
        let live = core.live.claim(&digest);
        let turn = live.turn.lock().await;
        // Where that is not written, the next round tries again.
        let _ = end_waiting(core, &digest, Outcome::Expired, Code::Expired.into()).await;
        drop(turn);
        core.live.release(&digest, live);
    }
}

/// Forgets jobs that are over and could not be taken any more in any case.
async fn prune(core: &Core) {
    let now = core.law.current().trust.now(core.now());
    // Not before every clock agrees that they are over.
    let before = now
        .as_millis()
        .saturating_sub(2 * limits::CLOCK_AHEAD.as_millis() as u64);
    let prunable = core.journal.state().prunable(Timestamp::from_millis(before));
    let Some((until, count)) = prunable else { return };
    let event = Event::new(EventType::JournalPruned)
        .with_id("until", &until)
        .with("jobs", count as u64);
    let step = Step {
        entries: vec![Entry::Pruned { until }],
        audit: vec![event],
        receipt: None,
    };
    if let Err(e) = core.journal.commit(step).await {
        tracing::warn!(error = %e, "seen jobs could not be forgotten");
    }
}

/// Results that waited too long move to directories of their own, where people can look at them.
async fn archive(core: &Arc<Core>) {
    let now = core.now();
    let mut old: Vec<Incoming> = {
        let state = core.journal.state();
        let finished = state.jobs().filter_map(|(job, open)| match &open.phase {
            Phase::Finished {
                receipt,
                digest,
                at,
                started_at,
                log,
                ..
            } if now.since(*at) > core.config.keep_results => Some(Incoming {
                result: Archived {
                    job: *job,
                    receipt: *digest,
                    started_at: *started_at,
                    finished_at: *at,
                    archived_at: now,
                    log: log.clone(),
                },
                envelope: open.envelope.clone(),
                receipt: receipt.clone(),
                log: core.spool_paths(job).log,
            }),
            _ => None,
        });
        finished.collect()
    };
    // So that what goes for want of room is the oldest.
    old.sort_by_key(|incoming| incoming.result.finished_at);
    for incoming in old {
        archive_one(core, incoming).await;
    }
}

async fn archive_one(core: &Arc<Core>, incoming: Incoming) {
    let (job, receipt) = (incoming.result.job, incoming.result.receipt);
    let id = JobId::from_digest(&job);
    let writer = core.clone();
    // Logs may be large; nothing waits for this.
    let put = tokio::task::spawn_blocking(move || writer.archive.put(&incoming)).await;
    let dropped = match put {
        Ok(Ok(dropped)) => dropped,
        Ok(Err(e)) => {
            tracing::warn!(job = %id, error = %e, "a result could not be archived; it is tried again");
            return;
        }
        Err(e) => {
            tracing::warn!(job = %id, error = %e, "a result could not be archived; it is tried again");
            return;
        }
    };
    let event = |kind, job: &Digest, receipt: &Digest| {
        Event::new(kind).with_id("job", job).with_id("receipt", receipt)
    };
    let mut audit = vec![event(EventType::ResultArchived, &job, &receipt)];
    for gone in &dropped {
        let id = JobId::from_digest(&gone.job);
        tracing::warn!(job = %id, "the archive is full: its oldest result was removed, and the hub never took it");
        audit.push(event(EventType::ResultDropped, &gone.job, &gone.receipt));
    }
    let step = Step {
        entries: vec![Entry::Archived { job }],
        audit,
        receipt: None,
    };
    if let Err(e) = core.journal.commit(step).await {
        tracing::warn!(job = %id, error = %e, "that a result is archived could not be written; it is tried again");
        return;
    }
    tracing::warn!(job = %id, "the hub did not take a result in time; it is in the archive now: lictor agent archive show");
    core.spool_paths(&job).remove();
    core.live.forget(&job);
}
