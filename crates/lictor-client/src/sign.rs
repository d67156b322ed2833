//! Makes the documents that people sign: jobs, cancels, approvals, grants.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{
    Approval, ApprovalFacts, Cancel, Document, Expect, Grant, Job, Missed, NodeKind, Overlap, Release,
    Remark, Says, Schedule, Sealed, Secret, SecretUse, Spec, Stdin,
};
use lictor_proto::envelope::Envelope;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Digest, JobId, Name, NodeId, OrgId, Timestamp};
use lictor_trust::{OrgTrust, SecretKey, sign};

/// Who signs, for which org, under which law.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// The org.
    pub org: &'a OrgId,
    /// The operator whose key it is.
    pub operator: &'a Name,
    /// The key.
    pub key: &'a SecretKey,
    /// Version of the law held here; nodes with an older one wait for it.
    pub min_bundle: u64,
}

/// A signed document, with what it is called.
#[derive(Debug, Clone)]
pub struct SignedDoc {
    /// The envelope as JSON.
    pub wire: String,
    /// Its digest.
    pub digest: Digest,
}

impl SignedDoc {
    /// The job id, when it is a job.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        JobId::from_digest(&self.digest)
    }
}

/// What a job asks for besides the command.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// The nodes; sorted and made distinct here.
    pub nodes: Vec<NodeId>,
    /// The profile.
    pub profile: Name,
    /// Standard input.
    pub stdin: Stdin,
    /// Why.
    pub reason: String,
    /// How long it may wait before it starts.
    pub valid: Duration,
    /// The job that this one tries again.
    pub retry_of: Option<Digest>,
    /// What the nodes were chosen for, and must be.
    pub expect: Expect,
    /// The secrets that it uses, sorted by name.
    pub secrets: Vec<SecretUse>,
    /// The jobs that it comes after; sorted and made distinct here.
    pub after: Vec<Digest>,
}

impl JobOptions {
    /// What is asked for where nothing else is said: no input, no secrets, no reason, no order, no retry.
    #[must_use]
    pub fn new(nodes: Vec<NodeId>, profile: Name, valid: Duration) -> Self {
        Self {
            nodes,
            profile,
            stdin: Stdin::NONE,
            reason: String::new(),
            valid,
            retry_of: None,
            expect: Expect::default(),
            secrets: Vec::new(),
            after: Vec::new(),
        }
    }
}

/// When a job is to be done again and again.
#[derive(Debug, Clone)]
pub struct Recurrence {
    /// A cron expression.
    pub cron: String,
    /// An IANA time zone.
    pub tz: String,
    /// Over how long its nodes are spread.
    pub jitter: Duration,
    /// What becomes of missed times.
    pub missed: Missed,
    /// What becomes of times that come too early.
    pub overlap: Overlap,
    /// How long after its time a firing may begin.
    pub start_within: Duration,
}

/// What a grant confers.
#[derive(Debug, Clone)]
pub struct GrantOptions {
    /// The public half of the token's seed.
    pub join_key: PublicKey,
    /// The node's name, or a prefix when `uses` is more than 1.
    pub name: Name,
    /// What the machine is.
    pub kind: NodeKind,
    /// Its labels.
    pub labels: BTreeMap<Name, Name>,
    /// How many machines.
    pub uses: u32,
    /// How long it may be used.
    pub ttl: Duration,
    /// The node whose name it takes over.
    pub replaces: Option<NodeId>,
}

impl<'a> Signer<'a> {
    /// A signer under the law that `trust` holds.
    #[must_use]
    pub fn new(trust: &'a OrgTrust, operator: &'a Name, key: &'a SecretKey) -> Self {
        Self {
            org: trust.org(),
            operator,
            key,
            min_bundle: trust.bundle().map_or(0, |b| b.version),
        }
    }

    /// Signs a job.
    ///
    /// # Errors
    /// The refusal of whichever rule the job breaks, or [`Code::Internal`] without randomness.
    pub fn job(&self, work: impl Into<Spec>, options: JobOptions) -> Result<SignedDoc, Refusal> {
        let spec = work.into();
        let mut nonce = vec![0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|e| Refusal::new(Code::Internal, format!("no randomness: {e}")))?;
        let now = Timestamp::now();
        let nodes = sorted(options.nodes);
        self.seal(&Job {
            tag: Default::default(),
            org: self.org.clone(),
            operator: self.operator.clone(),
            nonce,
            nodes,
            kind: spec.kind(),
            spec,
            profile: options.profile,
            stdin: options.stdin,
            secrets: options.secrets,
            after: sorted(options.after),
            expect: options.expect,
            output_to: Default::default(),
            reason: options.reason,
            retry_of: options.retry_of,
            min_bundle: self.min_bundle,
            issued_at: now,
            not_before: now,
            expires_at: now.plus(options.valid),
            origin: Default::default(),
        })
    }

    /// Signs a schedule: the job again and again, for as long as its options say that it is valid. It has no standard
    /// input, and tries nothing again.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks, or [`Code::Internal`] without randomness.
    pub fn schedule(
        &self,
        work: impl Into<Spec>,
        options: JobOptions,
        when: Recurrence,
    ) -> Result<SignedDoc, Refusal> {
        let spec = work.into();
        let mut nonce = vec![0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|e| Refusal::new(Code::Internal, format!("no randomness: {e}")))?;
        let now = Timestamp::now();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        self.seal(&Schedule {
            tag: Default::default(),
            org: self.org.clone(),
            operator: self.operator.clone(),
            nonce,
            nodes: sorted(options.nodes),
            kind: spec.kind(),
            spec,
            profile: options.profile,
            secrets: options.secrets,
            expect: options.expect,
            reason: options.reason,
            cron: when.cron,
            tz: when.tz,
            jitter_ms: millis(when.jitter),
            missed: when.missed,
            overlap: when.overlap,
            start_within_ms: millis(when.start_within),
            min_bundle: self.min_bundle,
            issued_at: now,
            not_before: now,
            ends_at: now.plus(options.valid),
        })
    }

    /// Signs the end of a job on these of its nodes, or on all when none is named.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn cancel(&self, job: Digest, reason: &str, nodes: Vec<NodeId>) -> Result<SignedDoc, Refusal> {
        let now = Timestamp::now();
        let nodes = sorted(nodes);
        self.seal(&Cancel {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            operator: self.operator.clone(),
            reason: reason.to_owned(),
            nodes,
            min_bundle: self.min_bundle,
            issued_at: now,
            // As long as any job may run: a cancel that waits for a node to come back must still count.
            expires_at: now.plus(lictor_proto::limits::VALIDITY),
        })
    }

    /// Signs an approval of a job, with the facts that were looked at.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn approval(
        &self,
        job: Digest,
        mut facts: Vec<ApprovalFacts>,
        valid: Duration,
    ) -> Result<SignedDoc, Refusal> {
        facts.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        facts.dedup_by(|a, b| a.node_id == b.node_id);
        let now = Timestamp::now();
        self.seal(&Approval {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            approver: self.operator.clone(),
            facts,
            min_bundle: self.min_bundle,
            issued_at: now,
            expires_at: now.plus(valid),
        })
    }

    /// Signs leave for a job to begin on these of its nodes.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn release(&self, job: Digest, nodes: Vec<NodeId>, valid: Duration) -> Result<SignedDoc, Refusal> {
        let now = Timestamp::now();
        self.seal(&Release {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            operator: self.operator.clone(),
            nodes: sorted(nodes),
            min_bundle: self.min_bundle,
            issued_at: now,
            expires_at: now.plus(valid),
        })
    }

    /// Signs a word about a job, for people: by which receipts, where it is a review, and why.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn remark(
        &self,
        job: Digest,
        says: Says,
        (receipts, reason): (Vec<Digest>, &str),
    ) -> Result<SignedDoc, Refusal> {
        self.seal(&Remark {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            operator: self.operator.clone(),
            says,
            receipts,
            reason: reason.to_owned(),
            issued_at: Timestamp::now(),
        })
    }

    /// Signs a version of a secret, sealed to nodes.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn secret(&self, name: &Name, version: u64, sealed: Sealed) -> Result<SignedDoc, Refusal> {
        self.seal(&Secret {
            tag: Default::default(),
            org: self.org.clone(),
            operator: self.operator.clone(),
            name: name.clone(),
            version,
            sealed,
            issued_at: Timestamp::now(),
        })
    }

    /// Signs leave to enrol.
    ///
    /// # Errors
    /// The refusal of whichever rule it breaks.
    pub fn grant(&self, options: GrantOptions) -> Result<SignedDoc, Refusal> {
        let now = Timestamp::now();
        let (name, name_prefix) = match options.uses {
            1 => (Some(options.name), None),
            _ => (None, Some(options.name)),
        };
        self.seal(&Grant {
            tag: Default::default(),
            org: self.org.clone(),
            operator: self.operator.clone(),
            join_key: options.join_key,
            name,
            name_prefix,
            kind: options.kind,
            labels: options.labels,
            max_uses: options.uses,
            issued_at: now,
            expires_at: now.plus(options.ttl),
            replaces: options.replaces,
        })
    }

    fn seal<T: Document>(&self, doc: &T) -> Result<SignedDoc, Refusal> {
        // A client finds its own mistakes: the hub and the node would only say the same, later.
        doc.validate().map_err(|e| Refusal::new(e.code, e.to_string()))?;
        Ok(SignedDoc::of(&sign(doc, &[self.key])))
    }
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all.dedup();
    all
}

impl SignedDoc {
    /// What an envelope is called.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        Self {
            wire: lictor_trust::sign::to_wire(envelope),
            digest: envelope.digest(),
        }
    }
}
