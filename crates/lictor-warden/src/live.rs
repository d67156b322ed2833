//! The jobs of this process: what the journal does not hold, because it dies with the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Job, Outcome};
use lictor_proto::{Code, Digest, Timestamp};
use lictor_sandbox::{StopReason, StopSwitch};
use lictor_trust::Verified;

use crate::spool::Spool;

/// One job while this process deals with it.
#[derive(Debug, Default)]
pub(crate) struct LiveJob {
    /// One offer, approval or cancel of this job at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// The verified job, once it was.
    pub(crate) job: OnceLock<Verified<Job>>,
    /// Its output, once it was started.
    pub(crate) spool: OnceLock<Arc<Spool>>,
    /// When its process was started; here before the journal has it.
    pub(crate) started_at: OnceLock<Timestamp>,
    /// Feeds want to hear of output up to this log position.
    interest: AtomicU64,
    stop: Mutex<Stop>,
    ended_at: OnceLock<Instant>,
}

#[derive(Debug, Default)]
struct Stop {
    switch: Option<StopSwitch>,
    why: Option<Refusal>,
    /// The agent goes down.
    shutdown: bool,
}

impl LiveJob {
    fn stop_state(&self) -> MutexGuard<'_, Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, now or as soon as it is started. The first reason counts.
    pub(crate) fn stop(&self, why: Refusal) {
        let mut stop = self.stop_state();
        if stop.why.is_none() {
            stop.why = Some(why);
            if let Some(switch) = &stop.switch {
                switch.stop(StopReason::Canceled);
            }
        }
    }

    /// Ends it because the agent goes down, now or as soon as it is started.
    pub(crate) fn shut_down(&self) {
        let mut stop = self.stop_state();
        stop.shutdown = true;
        if let Some(switch) = &stop.switch {
            switch.stop(StopReason::Shutdown);
        }
    }

    /// It was started and can be ended by this switch.
    pub(crate) fn started(&self, switch: StopSwitch) {
        let mut stop = self.stop_state();
        if stop.why.is_some() {
            switch.stop(StopReason::Canceled);
        } else if stop.shutdown {
            switch.stop(StopReason::Shutdown);
        }
        stop.switch = Some(switch);
    }

    /// Why it was to be ended, if it was.
    #[must_use]
    pub(crate) fn stopped(&self) -> Option<Refusal> {
        self.stop_state().why.clone()
    }

    /// How it ends without a start, if it was to be ended meanwhile.
    #[must_use]
    pub(crate) fn called_off(&self) -> Option<(Outcome, Refusal)> {
        let stop = self.stop_state();
        let shut_down = || Refusal::new(Code::Interrupted, "the agent was stopped before it ran");
        match (&stop.why, stop.shutdown) {
            (Some(why), _) => Some((Outcome::Canceled, why.clone())),
            (None, true) => Some((Outcome::Interrupted, shut_down())),
            (None, false) => None,
        }
    }

    /// Its receipt is in the journal.
    pub(crate) fn ended(&self) {
        let _ = self.ended_at.set(Instant::now());
    }

    /// Whether that is so.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended_at.get().is_some()
    }

    /// Whether a feed wants to hear of output that starts at this log position.
    #[must_use]
    pub(crate) fn wants(&self, position: u64) -> bool {
        position <= self.interest.load(Ordering::SeqCst)
    }

    /// A feed wants to hear of output up to `position`.
    pub(crate) fn interested(&self, position: u64) {
        self.interest.fetch_max(position, Ordering::SeqCst);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct LiveJobs(Mutex<HashMap<Digest, Arc<LiveJob>>>);

impl LiveJobs {
    fn map(&self) -> MutexGuard<'_, HashMap<Digest, Arc<LiveJob>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job's entry, made if there is none.
    #[must_use]
    pub(crate) fn claim(&self, job: &Digest) -> Arc<LiveJob> {
        self.map().entry(*job).or_default().clone()
    }

    /// The job's entry, if there is one.
    #[must_use]
    pub(crate) fn get(&self, job: &Digest) -> Option<Arc<LiveJob>> {
        self.map().get(job).cloned()
    }

    /// Forgets it, unless somebody else is dealing with it at this moment.
    pub(crate) fn release(&self, job: &Digest, own: Arc<LiveJob>) {
        let mut map = self.map();
        // One in the map, one in `own`: nobody else.
        if Arc::strong_count(&own) <= 2 {
            map.remove(job);
        }
    }

    /// Forgets it: it is over and acknowledged.
    pub(crate) fn forget(&self, job: &Digest) {
        self.map().remove(job);
    }

    /// Forgets those that ended longer ago than `linger`, and with them their open files.
    pub(crate) fn tidy(&self, linger: Duration) {
        self.map()
            .retain(|_, j| j.ended_at.get().is_none_or(|at| at.elapsed() < linger));
    }

    /// All of them.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<(Digest, Arc<LiveJob>)> {
        self.map().iter().map(|(d, j)| (*d, j.clone())).collect()
    }
}
