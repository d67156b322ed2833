//! What the steps of one batch will change: each step is checked against the state and the steps before it.

use std::collections::HashSet;

use lictor_proto::{Digest, Timestamp};

use super::Step;
use super::entry::Entry;
use super::state::{Impossible, Phase, State};

/// Changes that are not in the state yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    taken: HashSet<Digest>,
    over: HashSet<Digest>,
    pruned_until: Timestamp,
}

impl Ahead {
    /// What a step adds, if it may follow.
    ///
    /// # Errors
    /// Why not: after replaying the journal up to here, the step would be a contradiction.
    pub(super) fn admit(&self, state: &State, step: &Step) -> Result<Self, Impossible> {
        let mut own = Self::default();
        for entry in &step.entries {
            self.admit_entry(&mut own, state, entry)?;
        }
        if let Some(draft) = &step.receipt {
            let job = draft.receipt.job_digest;
            let in_state = state
                .job(&job)
                .is_some_and(|j| matches!(j.phase, Phase::Taken { .. } | Phase::Standing { .. }));
            let running = in_state || self.taken.contains(&job) || own.taken.contains(&job);
            if !running || self.over.contains(&job) || own.over.contains(&job) {
                return Err("the job is not running");
            }
            own.over.insert(job);
        }
        Ok(own)
    }

    fn admit_entry(&self, own: &mut Self, state: &State, entry: &Entry) -> Result<(), Impossible> {
        state.admits(entry)?;
        self.admit_firing(own, state, entry)?;
        match entry {
            Entry::Taken { job, .. } | Entry::Standing { job, .. } | Entry::Waiting { job, .. }
                if self.taken.contains(job) || own.taken.contains(job) =>
            {
                return Err("the job has been taken before");
            }
            Entry::Taken { job, expires_at, .. } | Entry::Standing { job, expires_at, .. } => {
                if *expires_at <= self.pruned_until.max(own.pruned_until) {
                    return Err("the job may have been taken before and been forgotten");
                }
                own.taken.insert(*job);
            }
            Entry::Acked { job } | Entry::Archived { job } => {
                own.over.insert(*job);
            }
            Entry::Pruned { until } => own.pruned_until = own.pruned_until.max(*until),
            Entry::Base(_) | Entry::Seen { .. } | Entry::Open { .. } | Entry::Finished { .. } => {
                return Err("only the writer itself makes this entry");
            }
            Entry::Waiting { .. }
            | Entry::Passed { .. }
            | Entry::Started { .. }
            | Entry::OutputAcked { .. } => {}
        }
        Ok(())
    }

    /// A firing waits for this and that on its way here, and its schedule may end meanwhile: nothing of a schedule begins
    /// after the receipt that says it is over. Asked here only, and not of a journal that is read.
    fn admit_firing(&self, own: &Self, state: &State, entry: &Entry) -> Result<(), Impossible> {
        let Entry::Taken { decision, .. } = entry else {
            return Ok(());
        };
        let Some(fired) = &decision.fired else {
            return Ok(());
        };
        let stands = state
            .job(&fired.schedule)
            .is_some_and(|j| matches!(j.phase, Phase::Standing { .. }));
        let is_over = self.over.contains(&fired.schedule) || own.over.contains(&fired.schedule);
        match stands && !is_over {
            true => Ok(()),
            false => Err("the schedule of this firing is over"),
        }
    }

    /// The step goes into the file.
    pub(super) fn take_in(&mut self, step: Self) {
        self.taken.extend(step.taken);
        self.over.extend(step.over);
        self.pruned_until = self.pruned_until.max(step.pruned_until);
    }
}
