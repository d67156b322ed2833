//! What operators sign: jobs, approvals, cancels, revocations. Exactly one signature, by a key of who is named.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{
    Approval, Cancel, DocKind, Document, FiredWire, Job, Release, Remark, Revocation, RevocationKind,
    Schedule, Secret, Stdin, StdinWord,
};
use lictor_proto::{Code, Digest, JobId, Name, NodeId, Timestamp, limits};

use crate::org_trust::OrgTrust;
use crate::roster::{KeyClass, Operator, OperatorKey, OperatorKind, Right};
use crate::verify::{Historic, Rule, Verified, verify};
use crate::window::Window;

/// A document that names the operator who signs it.
pub(crate) trait BySigner: Document {
    fn named(&self) -> &Name;
}

macro_rules! by_signer {
    ($($doc:ty: $field:ident),*) => {$(
        impl BySigner for $doc {
            fn named(&self) -> &Name { &self.$field }
        }
    )*};
}
by_signer!(Job: operator, Approval: approver, Cancel: operator, Release: operator, Remark: operator, Revocation: operator, Schedule: operator, Secret: operator, lictor_proto::doc::Grant: operator);

impl OrgTrust {
    /// Verifies that exactly one key has signed, and that it is one of the operator whom the document names.
    pub(crate) fn by_operator<T: BySigner>(
        &self,
        wire: &str,
    ) -> Result<(Verified<T>, &Operator, &OperatorKey), Refusal> {
        let roster = &self.held()?.roster;
        let doc = verify::<T>(wire, roster.keyring(), Rule::One, self.org())?;
        let signer = doc.signers().first().ok_or(Code::SignerUnknown)?;
        let (operator, key) = roster.holder(signer).ok_or(Code::SignerUnknown)?;
        if operator.name != *doc.named() {
            let text = format!("signed by a key of {}, and names {}", operator.name, doc.named());
            return Err(Refusal::new(Code::SignerMismatch, text));
        }
        let counts = T::KIND == DocKind::Approval && key.approves;
        if key.class == KeyClass::Web && !counts {
            let text = format!("the key {signer} of {} is of class web", operator.name);
            return Err(Refusal::new(Code::KeyClass, text));
        }
        Ok((doc, operator, key))
    }

    /// As [`OrgTrust::by_operator`], and the key is neither revoked nor expired at `at`.
    pub(crate) fn by_active<T: BySigner>(
        &self,
        wire: &str,
        at: impl Fn(&T) -> Timestamp,
    ) -> Result<(Verified<T>, &Operator), Refusal> {
        let (doc, operator, key) = self.by_operator::<T>(wire)?;
        self.revocations().check_signer(&operator.name, &key.key.id())?;
        check_expiry(operator, key, at(&doc))?;
        Ok((doc, operator))
    }

    /// A job that may be taken now: law to act by, one signature of the named operator, inside its time, not
    /// revoked. Whether it names this node and whether policy allows it are later questions.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_job(&self, wire: &str, system: Timestamp) -> Result<Verified<Job>, Refusal> {
        let law = self.law(system)?;
        let now = self.now(system);
        let (job, _) = self.by_active::<Job>(wire, |_| now)?;
        let id = JobId::from_digest(&job.digest());
        if self.is_revoked(RevocationKind::Job, id.as_str()) {
            return Err(Refusal::new(Code::JobRevoked, format!("{id} has been revoked")));
        }
        let window = Window {
            issued_at: job.issued_at,
            not_before: job.not_before,
            expires_at: job.expires_at,
        };
        window.check(now, law.fleet.max_job_validity)?;
        if job.stdin == Stdin::Word(StdinWord::E2e) {
            let text = "stdin over an end-to-end stream is not built yet";
            return Err(Refusal::new(Code::KindUnsupported, text));
        }
        self.require(job.min_bundle)?;
        Ok(job)
    }

    /// A job that somebody in the roster signed at some time: for showing it, and for receipts of the past. Also one firing
    /// of a schedule, and a schedule in the picture of a job.
    ///
    /// # Errors
    /// When the signature or the shape doesn't hold.
    pub fn historic_job(&self, wire: &str) -> Result<Historic<Job>, Refusal> {
        if let Some(firing) = FiredWire::read(wire) {
            return self.historic_firing(&firing);
        }
        match self.by_operator::<Job>(wire) {
            Ok((job, _, _)) => Ok(Historic::new(job)),
            Err(refusal) if refusal.code == Code::WrongType => {
                let (schedule, _, _) = self.by_operator::<Schedule>(wire)?;
                Ok(Historic::new(schedule.picture()))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// An approval that counts as a signature now. Whether its approver may approve is policy's question.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_approval(&self, wire: &str, system: Timestamp) -> Result<Verified<Approval>, Refusal> {
        let now = self.now(system);
        let (approval, _) = self.by_active::<Approval>(wire, |_| now)?;
        Window::new(approval.issued_at, approval.expires_at).check(now, limits::VALIDITY)?;
        self.require(approval.min_bundle)?;
        Ok(approval)
    }

    /// A cancel that may be obeyed now, also under expired or stale law, if policy lets its operator cancel.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_cancel(&self, wire: &str, system: Timestamp) -> Result<Verified<Cancel>, Refusal> {
        let now = self.now(system);
        let (cancel, _) = self.by_active::<Cancel>(wire, |_| now)?;
        Window::new(cancel.issued_at, cancel.expires_at).check(now, limits::VALIDITY)?;
        self.require(cancel.min_bundle)?;
        Ok(cancel)
    }

    /// A release that counts as a signature now. Whether its operator may release is policy's question.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_release(&self, wire: &str, system: Timestamp) -> Result<Verified<Release>, Refusal> {
        let now = self.now(system);
        let (release, _) = self.by_active::<Release>(wire, |_| now)?;
        Window::new(release.issued_at, release.expires_at).check(now, limits::VALIDITY)?;
        self.require(release.min_bundle)?;
        Ok(release)
    }

    /// A remark that a person of the roster has signed, with a key that was in force when it says it was. Nothing acts on it.
    ///
    /// # Errors
    /// The code of whichever rule it breaks; [`Code::ApprovalIneligible`] for who is no person.
    pub fn verify_remark(&self, wire: &str, system: Timestamp) -> Result<Verified<Remark>, Refusal> {
        let now = self.now(system);
        let (remark, operator) = self.by_active::<Remark>(wire, |r| r.issued_at)?;
        if remark.issued_at > now.plus(limits::CLOCK_AHEAD) {
            return Err(Code::IssuedInFuture.into());
        }
        if operator.kind != OperatorKind::Person {
            let text = format!("{} is no person", operator.name);
            return Err(Refusal::new(Code::ApprovalIneligible, text));
        }
        Ok(remark)
    }

    /// A secret that may be used now: its signer is in the roster, and neither revoked nor expired. Whoever leaves has
    /// known its value, so what they have set ends with them.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_secret(&self, wire: &str, system: Timestamp) -> Result<Verified<Secret>, Refusal> {
        let now = self.now(system);
        let (secret, _) = self.by_active::<Secret>(wire, |_| now)?;
        if secret.issued_at > now.plus(limits::CLOCK_AHEAD) {
            return Err(Code::IssuedInFuture.into());
        }
        Ok(secret)
    }

    /// A revocation by somebody with the right to revoke.
    ///
    /// It holds even if its signer was revoked since: otherwise the order in which revocations arrive would
    /// decide what holds, and a hub chooses that order.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_revocation(&self, wire: &str) -> Result<Verified<Revocation>, Refusal> {
        let (revocation, operator, key) = self.by_operator::<Revocation>(wire)?;
        check_expiry(operator, key, revocation.issued_at)?;
        if !operator.rights.contains(&Right::Revoke) {
            let text = format!("{} has no right to revoke", operator.name);
            return Err(Refusal::new(Code::RightMissing, text));
        }
        Ok(revocation)
    }
}

pub(crate) fn check_expiry(operator: &Operator, key: &OperatorKey, at: Timestamp) -> Result<(), Refusal> {
    let ends = [operator.expires_at, key.expires_at];
    match ends.into_iter().flatten().min() {
        Some(end) if end <= at => {
            let text = format!("the key {} of {} expired at {end}", key.key.id(), operator.name);
            Err(Refusal::new(Code::KeyExpired, text))
        }
        _ => Ok(()),
    }
}

impl Verified<Job> {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        JobId::from_digest(&self.digest())
    }

    /// Refuses if the job does not name this node.
    ///
    /// # Errors
    /// [`Code::WrongNode`].
    pub fn check_node(&self, node: &NodeId) -> Result<(), Refusal> {
        // Sorted, which `validate` has checked; there may be ten thousand.
        if self.nodes.binary_search(node).is_ok() {
            return Ok(());
        }
        Err(Refusal::new(
            Code::WrongNode,
            format!("the job does not name {node}"),
        ))
    }
}

impl Historic<Job> {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        JobId::from_digest(&self.digest())
    }
}

impl Verified<Approval> {
    /// Refuses an approval of another job, or by the job's own requester.
    ///
    /// # Errors
    /// [`Code::WrongJob`], [`Code::SelfApproval`].
    pub fn check_for(&self, job: &Verified<Job>) -> Result<(), Refusal> {
        check_job(&self.job_digest, &job.digest())?;
        if self.approver == job.operator {
            let text = format!("{} asked for this job", self.approver);
            return Err(Refusal::new(Code::SelfApproval, text));
        }
        Ok(())
    }
}

impl Verified<Cancel> {
    /// Refuses a cancel of another job.
    ///
    /// # Errors
    /// [`Code::WrongJob`].
    pub fn check_for(&self, job: &Digest) -> Result<(), Refusal> {
        check_job(&self.job_digest, job)
    }

    /// Whether it is for this node: of all the job's nodes, or of some with this one among them.
    #[must_use]
    pub fn is_for(&self, node: &NodeId) -> bool {
        self.nodes.is_empty() || self.nodes.binary_search(node).is_ok()
    }

    /// Refuses if it is for others of the job's nodes.
    ///
    /// # Errors
    /// [`Code::WrongNode`].
    pub fn check_node(&self, node: &NodeId) -> Result<(), Refusal> {
        if self.is_for(node) {
            return Ok(());
        }
        let text = format!("the cancel does not name {node}");
        Err(Refusal::new(Code::WrongNode, text))
    }
}

impl Verified<Remark> {
    /// Refuses a remark about another job.
    ///
    /// # Errors
    /// [`Code::WrongJob`].
    pub fn check_for(&self, job: &Digest) -> Result<(), Refusal> {
        check_job(&self.job_digest, job)
    }
}

impl Verified<Release> {
    /// Refuses a release of another job, or of other nodes.
    ///
    /// # Errors
    /// [`Code::WrongJob`], [`Code::WrongNode`].
    pub fn check_for(&self, job: &Digest, node: &NodeId) -> Result<(), Refusal> {
        check_job(&self.job_digest, job)?;
        if self.nodes.binary_search(node).is_ok() {
            return Ok(());
        }
        let text = format!("the release does not name {node}");
        Err(Refusal::new(Code::WrongNode, text))
    }
}

pub(crate) fn check_job(named: &Digest, job: &Digest) -> Result<(), Refusal> {
    if named == job {
        return Ok(());
    }
    let (named, id) = (JobId::from_digest(named), JobId::from_digest(job));
    Err(Refusal::new(
        Code::WrongJob,
        format!("it speaks of {named}, not of {id}"),
    ))
}
