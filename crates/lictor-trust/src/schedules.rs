//! Schedules, and the jobs that they fire: what a node may do at a nominal time because somebody signed for it.
//!
//! ```text
//! wire --by_active, window, revocations--> Verified<Schedule> --fire(nominal)--> Verified<Job>
//! ```
//!
//! # Invariants
//! - A firing is verified from the schedule's bytes each time, under the law held now: nothing is remembered from when
//!   the schedule was taken.
//! - Only a time of the signed expression, inside the signed span, makes a job.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Fired, FiredWire, Job, Origin, RevocationKind, Schedule};
use lictor_proto::{Code, Digest, Envelope, JobId, NodeId, Timestamp, limits};

use crate::org_trust::OrgTrust;
use crate::people::check_expiry;
use crate::verify::{Historic, Verified};
use crate::window::Window;

/// Whether what a node says of a time could be judged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It holds.
    Yes,
    /// It may hold: only a version that knows the node's time zones can tell.
    No,
}

impl Judged {
    /// What can be said here of this being a time of that schedule; `None` where no version could have it.
    #[must_use]
    pub fn of(schedule: &Schedule, nominal: Timestamp) -> Option<Self> {
        let table = schedule.timetable().ok().filter(|_| schedule.spans(nominal))?;
        if table.has(nominal) {
            return Some(Self::Yes);
        }
        table.could_have(nominal).then_some(Self::No)
    }
}

impl OrgTrust {
    /// A schedule that may be kept and fired now, at the times that it names.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_schedule(&self, wire: &str, system: Timestamp) -> Result<Verified<Schedule>, Refusal> {
        let law = self.law(system)?;
        let now = self.now(system);
        let (schedule, _) = self.by_active::<Schedule>(wire, |_| now)?;
        if let Some(refusal) = self.revoked_schedule(&schedule.digest()) {
            return Err(refusal);
        }
        // It may be given to its nodes before its first time.
        Window::new(schedule.issued_at, schedule.ends_at).check(now, limits::VALIDITY)?;
        if schedule.window() > law.fleet.max_job_validity {
            let text = format!(
                "a firing may wait {} s, jitter included, and the law allows a job {} s",
                schedule.window().as_secs(),
                law.fleet.max_job_validity.as_secs()
            );
            return Err(Refusal::new(Code::ValidityTooLong, text));
        }
        self.require(schedule.min_bundle)?;
        Ok(schedule)
    }

    /// A firing that may begin now: everything that [`OrgTrust::verify_schedule`] asks, and that now is inside the
    /// firing's own time.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_firing(&self, wire: &str, system: Timestamp) -> Result<Verified<Job>, Refusal> {
        let Some(read) = FiredWire::read(wire) else {
            return Err(Refusal::new(
                Code::EnvelopeMalformed,
                "it is no firing of a schedule",
            ));
        };
        let job = self.verify_schedule(&read.schedule, system)?.fire(read.nominal)?;
        if self.is_revoked(RevocationKind::Job, job.id().as_str()) {
            let text = format!("{} has been revoked", job.id());
            return Err(Refusal::new(Code::JobRevoked, text));
        }
        let window = Window {
            issued_at: job.issued_at,
            not_before: job.not_before,
            expires_at: job.expires_at,
        };
        window.check(self.now(system), limits::VALIDITY)?;
        Ok(job)
    }

    /// Why a schedule may never fire again, whatever comes: it, its signer or their key is revoked, or the key's time is
    /// over. `None` also where that cannot be said, such as under law that does not load; then nothing fires anyway.
    #[must_use]
    pub fn schedule_is_over(&self, wire: &str, now: Timestamp) -> Option<Refusal> {
        // Also one whose signer has left the roster: who revokes it names what is signed, and not by whom.
        let envelope = Envelope::parse(wire.as_bytes(), limits::JOB_ENVELOPE).ok()?;
        if let Some(refusal) = self.revoked_schedule(&envelope.digest()) {
            return Some(refusal);
        }
        let (_, operator, key) = self.by_operator::<Schedule>(wire).ok()?;
        let signer = self.revocations().check_signer(&operator.name, &key.key.id());
        signer.and_then(|()| check_expiry(operator, key, now)).err()
    }

    /// Whether a schedule is revoked: as one, or as a job, since it goes by an id like a job's and people name it by that.
    #[must_use]
    pub fn is_schedule_revoked(&self, id: &JobId) -> bool {
        let kinds = [RevocationKind::Schedule, RevocationKind::Job];
        kinds.into_iter().any(|kind| self.is_revoked(kind, id.as_str()))
    }

    fn revoked_schedule(&self, schedule: &Digest) -> Option<Refusal> {
        let id = JobId::from_digest(schedule);
        self.is_schedule_revoked(&id).then(|| {
            let text = format!("the schedule {id} has been revoked");
            Refusal::new(Code::ScheduleRevoked, text)
        })
    }

    /// A job, or a schedule in the picture of one: for a hub, which gives no verdict and starts nothing.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_request(&self, wire: &str, system: Timestamp) -> Result<Verified<Job>, Refusal> {
        match self.verify_job(wire, system) {
            Err(refusal) if refusal.code == Code::WrongType => {
                self.verify_schedule(wire, system).map(Verified::picture)
            }
            job => job,
        }
    }

    /// What is to be ended by a cancel: a job, or a schedule, whose signer need not be able to sign new ones.
    ///
    /// # Errors
    /// When nobody in the roster has signed it.
    pub fn verify_to_end(&self, wire: &str, system: Timestamp) -> Result<Verified<Job>, Refusal> {
        match self.verify_job(wire, system) {
            Err(refusal) if refusal.code == Code::WrongType => {
                let (schedule, operator, key) = self.by_operator::<Schedule>(wire)?;
                check_expiry(operator, key, schedule.issued_at)?;
                Ok(schedule.picture())
            }
            job => job,
        }
    }

    /// A firing that somebody in the roster asked for at some time: for showing it, and for receipts of the past.
    pub(crate) fn historic_firing(&self, read: &FiredWire) -> Result<Historic<Job>, Refusal> {
        let (schedule, _, _) = self.by_operator::<Schedule>(&read.schedule)?;
        schedule.fire(read.nominal).map(Historic::new)
    }

    /// As [`OrgTrust::historic_job`], for a hub, which decides nothing and keeps what nodes tell: of a firing also one that is
    /// none by the time zones known here, where those of another version could have it. Nothing that acts takes it, and
    /// clients judge by what they know themselves.
    ///
    /// # Errors
    /// When the signature or the shape doesn't hold, and for a time that no version can have.
    pub fn reported_job(&self, wire: &str) -> Result<(Historic<Job>, Judged), Refusal> {
        let refusal = match self.historic_job(wire) {
            Ok(job) => return Ok((job, Judged::Yes)),
            Err(refusal) => refusal,
        };
        let Some(read) = FiredWire::read(wire) else {
            return Err(refusal);
        };
        let (schedule, _, _) = self.by_operator::<Schedule>(&read.schedule)?;
        let judged = Judged::of(&schedule, read.nominal).ok_or(refusal)?;
        Ok((Historic::new(schedule.fired_at(read.nominal)), judged))
    }

    /// As [`OrgTrust::historic_job`], of a schedule itself.
    ///
    /// # Errors
    /// When the signature or the shape doesn't hold.
    pub fn historic_schedule(&self, wire: &str) -> Result<Historic<Schedule>, Refusal> {
        self.by_operator(wire)
            .map(|(schedule, _, _)| Historic::new(schedule))
    }
}

impl Verified<Schedule> {
    /// The job that it is at this time.
    ///
    /// # Errors
    /// [`Code::NotYetValid`] for a time that is none of its own.
    pub fn fire(&self, nominal: Timestamp) -> Result<Verified<Job>, Refusal> {
        let table = self.timetable();
        if !self.spans(nominal) || !table.is_ok_and(|t| t.has(nominal)) {
            let text = format!("{nominal} is no time of this schedule");
            return Err(Refusal::new(Code::NotYetValid, text));
        }
        Ok(self.fired_at(nominal))
    }

    /// The job that it would be at this time, if that is one of its.
    fn fired_at(&self, nominal: Timestamp) -> Verified<Job> {
        let fired = Fired {
            schedule: self.digest(),
            nominal,
        };
        let wire = FiredWire {
            nominal,
            schedule: self.wire().to_owned(),
        };
        let job = self.doc().fire(fired);
        self.recast(job, fired.digest(), &wire.to_wire())
    }

    /// It as a job: its origin says that it is none.
    #[must_use]
    pub fn picture(self) -> Verified<Job> {
        let job = self.doc().picture();
        debug_assert_eq!(job.origin, Origin::Schedule);
        self.recast(job, self.digest(), self.wire())
    }

    /// Refuses if it does not name this node.
    ///
    /// # Errors
    /// [`Code::WrongNode`].
    pub fn check_node(&self, node: &NodeId) -> Result<(), Refusal> {
        if self.nodes.binary_search(node).is_ok() {
            return Ok(());
        }
        let text = format!("the schedule does not name {node}");
        Err(Refusal::new(Code::WrongNode, text))
    }
}
