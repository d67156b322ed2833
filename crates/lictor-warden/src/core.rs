//! What all parts of the warden share, and the small acts that several of them need.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use lictor_audit::Event;
use lictor_proto::agent::{ExecutionStatus, Heartbeat, LawHeld, OutputPart, ReadOutput, Status, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{NodeKind, NodeRecord, Receipt};
use lictor_proto::{Code, Digest, Envelope, JobId, Timestamp};
use lictor_sandbox::KeptSweep;
use lictor_trust::SecretKey;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::Archive;
use crate::config::Config;
use crate::downloads::Downloads;
use crate::feed::{Along, Feeds};
use crate::journal::entry::Decision;
use crate::journal::state::Phase;
use crate::journal::{Committed, Journal, JournalError, Step};
use crate::law::LawDesk;
use crate::live::LiveJobs;
use crate::offer::order::Behind;
use crate::pulls::Pulls;
use crate::receipt::Issuer;
use crate::sandboxes::Sandboxes;
use crate::spool::stdin::StdinSpool;
use crate::spool::{Paths, ReadError, stored};
use crate::suppress::Suppress;
use crate::work_place::WorkPlace;

/// Largest answer to one read of output.
const READ: usize = 1024 * 1024;

/// The shared state of one warden.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) work_place: WorkPlace,
    pub(crate) record: NodeRecord,
    pub(crate) kind: NodeKind,
    pub(crate) identity: SecretKey,
    /// What secrets are sealed to.
    pub(crate) seal: SecretKey,
    pub(crate) issuer: Issuer,
    pub(crate) journal: Journal,
    pub(crate) archive: Archive,
    pub(crate) law: Arc<LawDesk>,
    pub(crate) live: LiveJobs,
    pub(crate) feeds: Feeds,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) pulls: Pulls,
    pub(crate) downloads: Downloads,
    pub(crate) stdin: Mutex<StdinSpool>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) queue: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) draining: AtomicBool,
    pub(crate) closing: CancellationToken,
    /// Jobs that come after others.
    pub(crate) behind: Behind,
    /// Wakes whoever fires schedules before the next look at the clock.
    pub(crate) schedules: Arc<tokio::sync::Notify>,
    /// Locked while kept sandboxes are being removed.
    pub(crate) sweep: Mutex<KeptSweep>,
    pub(crate) suppress: Mutex<Suppress>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("node", &self.issuer.node_id)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// The time that documents are judged by.
    pub(crate) fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    pub(crate) fn law_held(&self) -> LawHeld {
        self.law.current().law_held(self.now())
    }

    /// Has sandboxes prepared for the law as it is now.
    pub(crate) fn prepare_sandboxes(&self) {
        let held = self.law.current();
        self.sandboxes
            .prepare(held.trust.held().ok().map(|files| &files.profiles));
    }

    /// Begins to remove kept sandboxes whose time is over, unless that is under way: they may be large, and nothing
    /// waits for it.
    pub(crate) fn sweep_kept(self: &Arc<Self>) {
        let core = self.clone();
        self.tasks.spawn_blocking(move || {
            let Ok(mut sweep) = core.sweep.try_lock() else {
                return;
            };
            // Never before the newest document that was verified, however wrong the machine's clock is.
            let now = core.law.current().trust.now(core.now());
            if let Err(error) = sweep.run(core.work_place.path(), now) {
                tracing::warn!(%error, "a kept sandbox could not be removed; it is tried again");
            }
        });
    }

    /// The wire of a firing that has not ended: until the hub hears of its start, nobody has told it that there is one.
    pub(crate) fn firing(&self, job: &Digest) -> Option<Wire> {
        let state = self.journal.state();
        let job = state.job(job)?;
        match &job.phase {
            Phase::Taken { decision, .. } => decision.fired.map(|_| job.envelope.clone()),
            Phase::Waiting { .. } | Phase::Standing { .. } | Phase::Finished { .. } => None,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(crate) fn spool_paths(&self, job: &Digest) -> Paths {
        Paths::of(&self.config.dir.join("spool"), &JobId::from_digest(job))
    }

    /// Where downloads are spooled.
    pub(crate) fn downloads_dir(&self) -> PathBuf {
        self.config.dir.join("spool").join("url")
    }

    pub(crate) fn work_dir(&self, job: &Digest) -> PathBuf {
        self.work_place.path().join(JobId::from_digest(job).as_str())
    }

    /// Writes audit events that belong to no step, rate-limited, and returns when they are durable.
    pub(crate) async fn audit(&self, event: Event) {
        let audit = self
            .suppress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(event, Instant::now());
        if !audit.is_empty() {
            self.write_audit(audit).await;
        }
    }

    /// Writes an audit event that only somebody with a right can cause: never left out.
    pub(crate) async fn audit_always(&self, event: Event) {
        self.write_audit(vec![event]).await;
    }

    async fn write_audit(&self, audit: Vec<Event>) {
        let step = Step {
            audit,
            ..Step::default()
        };
        if let Err(e) = self.journal.commit(step).await {
            tracing::error!(error = %e, "an audit event could not be written");
        }
    }

    /// Writes a step, trying again until it is in the journal: for ends, which must not be lost.
    pub(crate) async fn commit_surely(&self, make: impl Fn() -> Step) -> Result<Committed, JournalError> {
        let mut wait = std::time::Duration::from_millis(100);
        loop {
            match self.journal.commit(make()).await {
                // Neither when the warden is ending nor for a journal that is broken: the next start finds the job taken,
                // and ends it as interrupted.
                Err(e @ (JournalError::DiskFull(_) | JournalError::Failed(_))) if !self.is_closed() => {
                    tracing::error!(error = %e, "an end waits for the journal");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(std::time::Duration::from_secs(5));
                }
                done => return done,
            }
        }
    }

    /// What the node says about itself.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let (running, unacknowledged) = {
            let state = self.journal.state();
            state.jobs().fold((0, 0), |(r, u), (_, job)| match job.phase {
                Phase::Waiting { .. } | Phase::Standing { .. } => (r, u),
                Phase::Taken { .. } => (r + 1, u),
                Phase::Finished { .. } => (r, u + 1),
            })
        };
        Heartbeat {
            org: self.record.org.clone(),
            node_id: self.record.node_id.clone(),
            name: self.record.name.clone(),
            kind: self.kind,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            law: self.law_held(),
            host: self.sandboxes.host_facts(&self.config.dir),
            backends: self.sandboxes.reports(),
            running,
            unacknowledged,
            at: Timestamp::now(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        let executions = {
            let state = self.journal.state();
            state
                .jobs()
                .filter_map(|(digest, job)| self.execution(digest, job))
                .collect()
        };
        Status {
            law: self.law_held(),
            executions,
            audit_head: self.journal.audit_head(),
        }
    }

    fn execution(&self, digest: &Digest, job: &crate::journal::state::Job) -> Option<ExecutionStatus> {
        let (outcome, log_end) = match &job.phase {
            Phase::Waiting { .. } | Phase::Standing { .. } => return None,
            Phase::Taken { .. } => {
                let spool = self.live.get(digest).and_then(|l| l.spool.get().cloned());
                (None, spool.map_or(0, |s| s.end()))
            }
            Phase::Finished { receipt, log, .. } => (outcome_of(receipt), log.end),
        };
        Some(ExecutionStatus {
            job: *digest,
            job_id: JobId::from_digest(digest),
            running: matches!(job.phase, Phase::Taken { .. }),
            outcome,
            acked: job.acked,
            log_end,
        })
    }

    /// Reads a log, waiting for more if asked to.
    pub(crate) async fn read_output(&self, read: ReadOutput) -> Result<(OutputPart, Bytes), Refusal> {
        let max = usize::try_from(read.max).unwrap_or(READ).min(READ);
        if read.wait
            && let Some(spool) = self.live.get(&read.job).and_then(|l| l.spool.get().cloned())
        {
            spool.wait_readable(read.from).await;
        }
        self.read_now(&read.job, read.from, max)
    }

    fn read_now(&self, job: &Digest, from: u64, max: usize) -> Result<(OutputPart, Bytes), Refusal> {
        let refusal = |e: ReadError| {
            let code = match &e {
                ReadError::Position(_) => Code::BadRequest,
                ReadError::Io(_) => Code::Internal,
            };
            Refusal::new(code, e.to_string())
        };
        if let Some(spool) = self.live.get(job).and_then(|l| l.spool.get().cloned()) {
            return spool.read(from, max).map_err(refusal);
        }
        let found = match self.journal.state().job(job).map(|j| &j.phase) {
            Some(Phase::Finished { log, .. }) => Some(Some(log.clone())),
            // Taken, and its output has not begun.
            Some(Phase::Taken { .. }) if from == 0 => Some(None),
            _ => None,
        };
        let log = match found {
            Some(Some(log)) => log,
            Some(None) => {
                let end = false;
                return Ok((OutputPart { from, to: from, end }, Bytes::new()));
            }
            None => {
                let none = || Refusal::new(Code::NotFound, "this node holds no output of this job");
                let archived = self.archive.output(job, from, max).ok_or_else(none)?;
                return archived.map_err(refusal);
            }
        };
        stored::read(&log, &self.spool_paths(job).log, from, max).map_err(refusal)
    }

    /// Output to send along with events.
    pub(crate) fn output_along(&self, job: &Digest, from: u64, max: usize) -> Option<Along> {
        match self.read_now(job, from, max) {
            Ok((part, bytes)) => Some((part.from, part.to, bytes)),
            Err(e) => {
                tracing::warn!(%job, error = %e, "output cannot be sent along");
                None
            }
        }
    }

    /// What belongs to jobs that are not over: everything else in the spool directory can go.
    pub(crate) fn open_jobs(&self) -> BTreeSet<Digest> {
        self.journal.state().jobs().map(|(digest, _)| *digest).collect()
    }

    /// A decision that lets nothing start, for receipts.
    pub(crate) fn refusing(
        &self,
        text: &str,
        profile: &lictor_proto::Name,
        policy_ids: Vec<String>,
    ) -> Decision {
        let held = self.law.current();
        let bundle = held.trust.bundle();
        Decision {
            text: text.to_owned(),
            bundle_version: bundle.map_or(0, |b| b.version),
            bundle_digest: bundle.map_or(Digest([0; 32]), lictor_trust::Verified::digest),
            policy_ids,
            approvals: Vec::new(),
            break_glass: false,
            fired: None,
            facts_digest: None,
            profile: profile.clone(),
            backend: None,
            engine: None,
            rootfs: None,
            capabilities: Vec::new(),
            plan_digest: None,
            sandbox: None,
        }
    }
}

/// The outcome in a receipt of our own.
fn outcome_of(receipt: &str) -> Option<lictor_proto::doc::Outcome> {
    let envelope = Envelope::parse(receipt.as_bytes(), lictor_proto::limits::ENVELOPE).ok()?;
    let receipt: Receipt = serde_json::from_slice(&envelope.payload).ok()?;
    Some(receipt.outcome)
}
