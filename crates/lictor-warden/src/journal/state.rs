//! What the journal's entries add up to. Pure: the same entries give the same state, live and after a crash.
//!
//! ```text
//!            Waiting --(again, with approvals)--> Waiting
//!   offer ->    |
//!            Taken --Started--> Taken --Finished--> Finished --Acked / Archived--> (only in `seen`)
//!   schedule --> Standing --(Taken of a firing, Passed)--> Standing --Finished--> as above
//! ```
//!
//! # Invariants
//! - A job is in `seen` from its `Taken` on, until its validity is over and `pruned_until` says so.
//! - The time that a schedule is past only grows, and with the `Taken` of each firing.
//! - `Taken` for a job in `seen`, and `Finished` for a job that is not taken, are refused. The other entries may be
//!   repeated or come late; they then change nothing.

use std::collections::{BTreeMap, HashMap};

use lictor_audit::Chain;
use lictor_proto::agent::Wire;
use lictor_proto::doc::Fired;
use lictor_proto::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use super::entry::{Base, Decision, Entry, Log};

/// Everything the warden must not forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    seen: HashMap<Digest, Timestamp>,
    jobs: BTreeMap<Digest, Job>,
    pruned_until: Timestamp,
    receipts: u64,
    last_receipt: Option<Digest>,
}

/// A job that is not over and acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The signed job, as it came.
    pub envelope: Wire,
    /// When its validity ends.
    pub expires_at: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// Output acknowledged up to this log position.
    pub acked: u64,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// It waits for approvals.
    Waiting {
        /// The signed ask.
        ask: Wire,
        /// Approvals so far.
        approvals: Vec<Wire>,
    },
    /// It is a schedule, which fires until it ends.
    Standing {
        /// When it was taken.
        at: Timestamp,
        /// It fires after this.
        past: Timestamp,
        /// The signed secrets that it uses, still sealed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<Wire>,
    },
    /// It may have started and has not ended.
    Taken {
        /// What was decided.
        decision: Box<Decision>,
        /// When its process started, and the backend's handle.
        started: Option<(Timestamp, String)>,
    },
    /// It ended and its result waits for an acknowledgement.
    Finished {
        /// The signed receipt.
        receipt: Wire,
        /// Its digest.
        digest: Digest,
        /// Its place in the chain.
        node_seq: u64,
        /// When it was signed.
        at: Timestamp,
        /// When the process had started.
        started_at: Option<Timestamp>,
        /// What is kept of the log.
        log: Log,
    },
}

/// An entry that contradicts the state.
pub type Impossible = &'static str;

impl State {
    /// Whether the entry may follow.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, entry: &Entry) -> Result<(), Impossible> {
        let phase = |job: &Digest| self.jobs.get(job).map(|j| &j.phase);
        match entry {
            Entry::Waiting { job, .. } | Entry::Taken { job, .. } | Entry::Standing { job, .. }
                if self.seen.contains_key(job) =>
            {
                Err("the job has been taken before")
            }
            Entry::Taken { expires_at, .. } | Entry::Standing { expires_at, .. }
                if *expires_at <= self.pruned_until =>
            {
                Err("the job may have been taken before and been forgotten")
            }
            Entry::Finished { job, .. }
                if !matches!(phase(job), Some(Phase::Taken { .. } | Phase::Standing { .. })) =>
            {
                Err("the job is not running")
            }
            Entry::Finished { node_seq, .. } if *node_seq != self.receipts + 1 => {
                Err("the receipt is not the next in the chain")
            }
            _ => Ok(()),
        }
    }

    /// Takes in one entry.
    ///
    /// # Errors
    /// When it contradicts the state, which is then unchanged.
    pub fn apply(&mut self, entry: Entry) -> Result<(), Impossible> {
        self.admits(&entry)?;
        match entry {
            Entry::Base(_) | Entry::Seen { .. } | Entry::Open { .. } => self.restore(entry),
            Entry::Waiting {
                job,
                envelope,
                expires_at,
                ask,
                approvals,
            } => self.open(job, envelope, expires_at, Phase::Waiting { ask, approvals }),
            Entry::Taken {
                job,
                envelope,
                expires_at,
                decision,
            } => {
                self.seen.insert(job, expires_at);
                if let Some(fired) = decision.fired {
                    self.pass(fired);
                }
                let started = None;
                self.open(job, envelope, expires_at, Phase::Taken { decision, started });
            }
            Entry::Standing {
                job,
                envelope,
                expires_at,
                at,
                past,
                secrets,
            } => {
                self.seen.insert(job, expires_at);
                self.open(job, envelope, expires_at, Phase::Standing { at, past, secrets });
            }
            Entry::Passed { last } => self.pass(last),
            Entry::Started { job, at, handle } => {
                if let Some(Phase::Taken { started, .. }) = self.jobs.get_mut(&job).map(|j| &mut j.phase) {
                    *started = Some((at, handle));
                }
            }
            Entry::OutputAcked { job, upto } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.acked = job.acked.max(upto);
                }
            }
            Entry::Finished { .. } => self.finish(entry),
            Entry::Acked { job } | Entry::Archived { job } => {
                self.jobs.remove(&job);
            }
            Entry::Pruned { until } => {
                self.pruned_until = self.pruned_until.max(until);
                let open = &self.jobs;
                self.seen
                    .retain(|job, expires| *expires > until || open.contains_key(job));
            }
        }
        Ok(())
    }

    /// What a rotated journal begins with.
    fn restore(&mut self, entry: Entry) {
        match entry {
            Entry::Base(base) => {
                self.receipts = base.receipts;
                self.last_receipt = base.last_receipt;
                self.pruned_until = base.pruned_until;
            }
            Entry::Seen { job, expires_at } => {
                self.seen.insert(job, expires_at);
            }
            Entry::Open { job, seen, open } => {
                if seen {
                    self.seen.insert(job, open.expires_at);
                }
                self.jobs.insert(job, *open);
            }
            _ => {}
        }
    }

    /// A schedule is past this time: it never comes again, whatever the clock says.
    fn pass(&mut self, fired: Fired) {
        if let Some(Phase::Standing { past, .. }) = self.jobs.get_mut(&fired.schedule).map(|j| &mut j.phase) {
            *past = fired.nominal.max(*past);
        }
    }

    /// The end of a job, and of the chain of receipts so far.
    fn finish(&mut self, entry: Entry) {
        let Entry::Finished {
            job,
            receipt,
            digest,
            node_seq,
            at,
            log,
        } = entry
        else {
            return;
        };
        self.receipts = node_seq;
        self.last_receipt = Some(digest);
        if let Some(open) = self.jobs.get_mut(&job) {
            let started_at = match &open.phase {
                Phase::Taken { started, .. } => started.as_ref().map(|(at, _)| *at),
                Phase::Standing { at, .. } => Some(*at),
                _ => None,
            };
            open.phase = Phase::Finished {
                receipt,
                digest,
                node_seq,
                at,
                started_at,
                log,
            };
        }
    }

    fn open(&mut self, job: Digest, envelope: Wire, expires_at: Timestamp, phase: Phase) {
        let acked = 0;
        self.jobs.insert(
            job,
            Job {
                envelope,
                expires_at,
                phase,
                acked,
            },
        );
    }

    /// Entries that give this state, for a rotated journal. `chain` is the end of the audit log.
    #[must_use]
    pub fn snapshot(&self, chain: &Chain) -> Vec<Entry> {
        let base = Base {
            receipts: self.receipts,
            last_receipt: self.last_receipt,
            audit_seq: chain.seq(),
            audit_head: chain.head(),
            pruned_until: self.pruned_until,
        };
        let over = self.seen.iter().filter(|(job, _)| !self.jobs.contains_key(*job));
        let mut entries = vec![Entry::Base(base)];
        entries.extend(over.map(|(job, expires_at)| Entry::Seen {
            job: *job,
            expires_at: *expires_at,
        }));
        entries.extend(self.jobs.iter().map(|(job, open)| Entry::Open {
            job: *job,
            seen: self.seen.contains_key(job),
            open: Box::new(open.clone()),
        }));
        entries
    }

    /// Whether the job was taken, and is remembered.
    #[must_use]
    pub fn is_seen(&self, job: &Digest) -> bool {
        self.seen.contains_key(job)
    }

    /// Jobs that end at or before this may have been taken and been forgotten.
    #[must_use]
    pub fn pruned_until(&self) -> Timestamp {
        self.pruned_until
    }

    /// A job that is not over.
    #[must_use]
    pub fn job(&self, job: &Digest) -> Option<&Job> {
        self.jobs.get(job)
    }

    /// All jobs that are not over.
    pub fn jobs(&self) -> impl Iterator<Item = (&Digest, &Job)> {
        self.jobs.iter()
    }

    /// Number of receipts signed so far and the digest of the last.
    #[must_use]
    pub fn receipt_head(&self) -> (u64, Option<Digest>) {
        (self.receipts, self.last_receipt)
    }

    /// The latest end of validity among seen jobs that ended at or before `now` and are over.
    #[must_use]
    pub fn prunable(&self, now: Timestamp) -> Option<(Timestamp, usize)> {
        let mut count = 0;
        let mut until = None;
        for (job, expires) in &self.seen {
            if *expires <= now && !self.jobs.contains_key(job) {
                count += 1;
                until = until.max(Some(*expires));
            }
        }
        until.map(|until| (until, count))
    }
}
