//! The only door to a [`Permit`]: a verified job, under the law held now, with facts found on this node.
//!
//! Behind the feature `authorise`, which the hub may not enable; a test over the dependency graph holds that.
//!
//! # Invariants
//! - A [`Permit`] is made here and nowhere else: private fields, no `Deserialize`, no `Default`.
//! - Everything is judged again at this moment: time, roster, keys, approvals. That something was verified when it
//!   arrived proves only who signed it.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Cancel, Job, OpenGate, Origin, Release};
use lictor_proto::{Code, Digest, KeyId, Name, Timestamp};
use lictor_trust::profiles::Profile;
use lictor_trust::{LawFiles, Verified};

use crate::Law;
use crate::entities::NodeContext;
use crate::evaluate::{Inputs, Outcome, Verdict, judge, judge_cancel};
use crate::facts::Facts;
use crate::tally::{Leave, Signer, Vote, is_current};
use lictor_proto::doc::Approval;

/// What is asked.
#[derive(Debug)]
pub struct Authorise<'a> {
    /// The policies.
    pub law: &'a Law,
    /// The bundle that they were loaded from.
    pub files: &'a LawFiles,
    /// The job.
    pub job: Verified<Job>,
    /// This node.
    pub node: &'a NodeContext,
    /// What was found in the profile's root.
    pub facts: Facts,
    /// Approvals, verified under the law held now.
    pub approvals: &'a [Verified<Approval>],
    /// Releases, likewise.
    pub releases: &'a [Verified<Release>],
    /// The node's time (never behind what signed documents prove).
    pub now: Timestamp,
}

/// What policy decided.
#[derive(Debug)]
pub enum Decision {
    /// It may run.
    Permit(Box<Permit>),
    /// It may run once people have approved.
    Ask(Box<Asked>),
    /// It may not.
    Deny(Denial),
}

/// Leave to run one job on this node, once. Nothing starts without one.
#[derive(Debug)]
pub struct Permit {
    job: Verified<Job>,
    profile: Profile,
    facts: Facts,
    action: &'static str,
    policy_ids: Vec<String>,
    approvals: Vec<Digest>,
    broken_gates: Vec<OpenGate>,
    bundle_version: u64,
    bundle_digest: Digest,
}

/// The gates that wait, and what was found: the content of an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The open gates.
    pub gates: Vec<OpenGate>,
    /// What was found; approvers look at it, and may bind it.
    pub facts: Facts,
    /// The permits and the open gates, sorted.
    pub policy_ids: Vec<String>,
    /// Approvals that count for none of the open gates, nor for one that is met.
    pub ineligible: Vec<Digest>,
    /// Releases that counted for no gate.
    pub idle_releases: Vec<Digest>,
}

/// Why it may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub struct Denial {
    /// Code and words.
    pub refusal: Refusal,
    /// The policies that decided, sorted.
    pub policy_ids: Vec<String>,
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            policy_ids: Vec::new(),
        }
    }
}

impl Permit {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &Verified<Job> {
        &self.job
    }

    /// The profile that it runs in.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The profile's name.
    #[must_use]
    pub fn profile_name(&self) -> &Name {
        &self.job.profile
    }

    /// What was found; a plan must start exactly this.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// `exec`, `shell`, `shell_opaque` or `script`.
    #[must_use]
    pub fn action(&self) -> &'static str {
        self.action
    }

    /// The policies that decided, sorted.
    #[must_use]
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }

    /// Digests of the approvals and releases that counted, sorted.
    #[must_use]
    pub fn approvals(&self) -> &[Digest] {
        &self.approvals
    }

    /// Whether gates were open and the operator broke the glass. Whoever sees this must say it loudly.
    #[must_use]
    pub fn break_glass(&self) -> bool {
        !self.broken_gates.is_empty()
    }

    /// The gates that were open when the glass was broken.
    #[must_use]
    pub fn broken_gates(&self) -> &[OpenGate] {
        &self.broken_gates
    }

    /// Version of the bundle that it was judged by.
    #[must_use]
    pub fn bundle_version(&self) -> u64 {
        self.bundle_version
    }

    /// Digest of that bundle.
    #[must_use]
    pub fn bundle_digest(&self) -> Digest {
        self.bundle_digest
    }
}

/// Judges a job on this node, now.
#[must_use]
pub fn authorise(ask: Authorise<'_>) -> Decision {
    if let Err(refusal) = still_holds(&ask) {
        return Decision::Deny(refusal.into());
    }
    let votes: Vec<_> = ask.approvals.iter().map(vote).collect();
    let leaves: Vec<_> = ask.releases.iter().map(leave).collect();
    let verdict = judge(
        ask.law,
        &Inputs {
            files: ask.files,
            job: ask.job.doc(),
            job_digest: ask.job.digest(),
            node: ask.node,
            facts: &ask.facts,
            votes: &votes,
            leaves: &leaves,
            now: ask.now,
        },
    );
    decide(ask, verdict)
}

fn decide(ask: Authorise<'_>, verdict: Verdict) -> Decision {
    let Verdict {
        outcome,
        action,
        rules,
        approvals,
        ..
    } = verdict;
    let broken_gates = match outcome {
        Outcome::Permit => Vec::new(),
        Outcome::BreakGlass(gates) => gates,
        Outcome::Ask(gates) => {
            let ineligible = ineligible(&ask, &gates, &approvals);
            let all = ask.releases.iter().map(Verified::digest);
            let idle_releases = all.filter(|d| !approvals.contains(d)).collect();
            return Decision::Ask(Box::new(Asked {
                gates,
                ineligible,
                idle_releases,
                facts: ask.facts,
                policy_ids: rules,
            }));
        }
        Outcome::Deny(refusal) => {
            return Decision::Deny(Denial {
                refusal,
                policy_ids: rules,
            });
        }
    };
    let Some(profile) = ask.files.profiles.profiles.get(&ask.job.profile).cloned() else {
        return Decision::Deny(Refusal::plain(Code::ProfileUnknown).into());
    };
    Decision::Permit(Box::new(Permit {
        job: ask.job,
        profile,
        facts: ask.facts,
        action,
        policy_ids: rules,
        approvals,
        broken_gates,
        bundle_version: ask.law.version(),
        bundle_digest: *ask.law.digest(),
    }))
}

/// Approvals by people whom no open gate takes, and that counted for no other.
fn ineligible(ask: &Authorise<'_>, open: &[OpenGate], counted: &[Digest]) -> Vec<Digest> {
    let may = |approval: &Verified<Approval>| {
        let approver = ask.files.roster.operator(&approval.approver);
        let mut gates = open.iter().filter_map(|g| ask.law.gates.get(&g.policy_id));
        approver.is_some_and(|a| gates.any(|g| g.takes(a)))
    };
    let all = ask.approvals.iter();
    all.filter(|a| !counted.contains(&a.digest()) && !may(a))
        .map(Verified::digest)
        .collect()
}

fn vote(approval: &Verified<Approval>) -> Vote<'_> {
    Vote {
        approval: approval.doc(),
        digest: approval.digest(),
        signer: Signer::Keys(approval.signers()),
    }
}

fn leave(release: &Verified<Release>) -> Leave<'_> {
    Leave {
        release: release.doc(),
        digest: release.digest(),
        signer: Signer::Keys(release.signers()),
    }
}

/// What held when the job arrived, and may not hold any more.
fn still_holds(ask: &Authorise<'_>) -> Result<(), Refusal> {
    let job = &ask.job;
    if job.origin == Origin::Schedule {
        let text = "a schedule is no job; only its firings are";
        return Err(Refusal::new(Code::WrongType, text));
    }
    job.check_node(&ask.node.id)?;
    if ask.law.version() < job.min_bundle {
        let text = format!(
            "the job asks for bundle {}, held is {}",
            job.min_bundle,
            ask.law.version()
        );
        return Err(Refusal::new(Code::StaleBundle, text));
    }
    if job.not_before > ask.now {
        return Err(Refusal::new(
            Code::NotYetValid,
            format!("not before {}", job.not_before),
        ));
    }
    if job.expires_at <= ask.now {
        return Err(Refusal::new(
            Code::Expired,
            format!("it expired at {}", job.expires_at),
        ));
    }
    signed_by(ask.files, &job.operator, job.signers(), ask.now)
}

/// The operator is in the roster held now, and so is the key that signed.
fn signed_by(files: &LawFiles, name: &Name, signers: &[KeyId], now: Timestamp) -> Result<(), Refusal> {
    let operator = files
        .roster
        .operator(name)
        .ok_or_else(|| Refusal::new(Code::SignerUnknown, format!("{name} is not in the roster")))?;
    if is_current(operator, now) && Signer::Keys(signers).is(operator, now) {
        return Ok(());
    }
    let held = operator.keys.iter().any(|k| signers.contains(&k.key.id()));
    let code = if held {
        Code::KeyExpired
    } else {
        Code::SignerMismatch
    };
    Err(Refusal::new(
        code,
        format!("no key of {name} that signed it counts now"),
    ))
}

/// Leave to end a job.
#[derive(Debug)]
pub struct CancelPermit {
    cancel: Verified<Cancel>,
    policy_ids: Vec<String>,
}

impl CancelPermit {
    /// The cancel.
    #[must_use]
    pub fn cancel(&self) -> &Verified<Cancel> {
        &self.cancel
    }

    /// The job to end.
    #[must_use]
    pub fn job_digest(&self) -> Digest {
        self.cancel.job_digest
    }

    /// The policies that decided, sorted.
    #[must_use]
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }
}

/// What is asked of a cancel.
#[derive(Debug)]
pub struct AuthoriseCancel<'a> {
    /// The policies.
    pub law: &'a Law,
    /// The bundle that they were loaded from.
    pub files: &'a LawFiles,
    /// The cancel, verified under the law held now.
    pub cancel: Verified<Cancel>,
    /// The digest of the job that is to end: one that was verified now, or when it came.
    pub digest: Digest,
    /// That job.
    pub job: &'a Job,
    /// This node.
    pub node: &'a NodeContext,
    /// The node's time.
    pub now: Timestamp,
}

/// Judges a cancel on this node, now.
///
/// # Errors
/// [`Denial`] with the rules that decided.
pub fn authorise_cancel(ask: AuthoriseCancel<'_>) -> Result<CancelPermit, Denial> {
    ask.cancel.check_for(&ask.digest)?;
    ask.cancel.check_node(&ask.node.id)?;
    if ask.cancel.expires_at <= ask.now {
        return Err(Refusal::new(Code::Expired, format!("it expired at {}", ask.cancel.expires_at)).into());
    }
    signed_by(ask.files, &ask.cancel.operator, ask.cancel.signers(), ask.now)?;
    let verdict = judge_cancel(ask.law, ask.files, ask.cancel.doc(), ask.job, ask.node);
    match verdict.outcome {
        Outcome::Permit => Ok(CancelPermit {
            cancel: ask.cancel,
            policy_ids: verdict.rules,
        }),
        Outcome::Deny(refusal) => Err(Denial {
            refusal,
            policy_ids: verdict.rules,
        }),
        Outcome::Ask(_) | Outcome::BreakGlass(_) => Err(Refusal::plain(Code::Forbidden).into()),
    }
}
