//! What people ask for: job, approval, cancel; and the node's question back: ask (TRUST.md sections 4 and 6).

use serde::{Deserialize, Serialize};

use super::schedule::{Fired, Origin};
use super::secret::{Delivery, SecretUse, check_uses};
use super::work::{JobKind, Process, Spec};
use super::workspace::GitCommit;
use super::{
    DocKind, Document, Empty, Expect, Fetch, FileUrl, Invalid, check_reason, check_validity, ensure, tag,
};
use crate::code::Code;
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::limits;
use crate::time::Timestamp;

tag!(JobTag, "job");
tag!(ApprovalTag, "approval");
tag!(CancelTag, "cancel");
tag!(AskTag, "ask");

/// One signed request of work for one or more nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Job {
    /// `job`.
    #[serde(rename = "type")]
    pub tag: JobTag,
    /// The org.
    pub org: OrgId,
    /// Who asks; the one signing key must be this operator's.
    pub operator: Name,
    /// 16 random bytes: two equal requests are two jobs.
    #[serde(with = "crate::json::base64_bytes")]
    pub nonce: Vec<u8>,
    /// Node ids, sorted, distinct.
    pub nodes: Vec<NodeId>,
    /// What kind of work.
    pub kind: JobKind,
    /// The work itself.
    pub spec: Spec,
    /// Name of a sandbox profile in the bundle.
    pub profile: Name,
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// The secrets that it uses, sorted by name.
    pub secrets: Vec<SecretUse>,
    /// Digests of jobs that it comes after, sorted, distinct: on each node it begins only when all of them have ended there.
    pub after: Vec<Digest>,
    /// What its nodes were chosen for, by what they say about themselves; each holds itself against it.
    pub expect: Expect,
    /// Not built yet: always empty.
    pub output_to: Empty,
    /// Why, for people and for policy.
    pub reason: String,
    /// The job that this one tries again.
    pub retry_of: Option<Digest>,
    /// Oldest bundle under which it may run.
    pub min_bundle: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Not to be started before.
    pub not_before: Timestamp,
    /// Not to be started at or after.
    pub expires_at: Timestamp,
    /// Which signed document says all this; not part of one, and never read from one.
    #[serde(skip)]
    pub origin: Origin,
}

/// Where a job's standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stdin {
    /// `"none"` or `"e2e"`.
    Word(StdinWord),
    /// Bytes sent along, spooled and checked on the node before start.
    Bytes(StdinBytes),
}

/// The two sources that need no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdinWord {
    /// `/dev/null`.
    None,
    /// Only over an end-to-end stream; not built yet, refused by nodes.
    E2e,
}

/// Digest and length of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinBytes {
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// How many bytes.
    pub size: u64,
}

impl Stdin {
    /// `/dev/null`.
    pub const NONE: Self = Self::Word(StdinWord::None);

    /// These bytes.
    #[must_use]
    pub fn bytes(content: &[u8]) -> Self {
        Self::Bytes(StdinBytes {
            sha256: Digest::of(content),
            size: content.len() as u64,
        })
    }
}

impl Document for Job {
    const KIND: DocKind = DocKind::Job;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.nonce.len() == 16, || Invalid::field("nonce", "16 bytes"))?;
        ensure(!self.nodes.is_empty(), || Invalid::field("nodes", "at least one"))?;
        ensure(self.nodes.len() <= limits::NODES, || {
            Invalid::limit("nodes", "at most 10000")
        })?;
        ensure(self.nodes.is_sorted_by(|a, b| a < b), || {
            Invalid::field("nodes", "sorted and distinct")
        })?;
        self.expect.validate()?;
        ensure(self.after.len() <= limits::AFTER, || {
            Invalid::limit("after", "at most 16")
        })?;
        ensure(self.after.is_sorted_by(|a, b| a < b), || {
            Invalid::field("after", "sorted and distinct")
        })?;
        check_reason(&self.reason)?;
        check_validity(self.issued_at, self.expires_at)?;
        ensure(self.not_before < self.expires_at, || {
            Invalid::field("not_before", "must be before expires_at")
        })?;
        if let Stdin::Bytes(b) = &self.stdin {
            ensure(b.size <= limits::STDIN, || {
                Invalid::limit("stdin", "at most 256 MiB")
            })?;
        }
        let is_own = matches!(self.spec, Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_));
        ensure(!is_own || self.stdin == Stdin::NONE, || {
            Invalid::field("stdin", "a job of this kind reads none")
        })?;
        let shown = self
            .secrets
            .iter()
            .filter(|used| used.delivery == Delivery::Git)
            .count();
        let takes = self.spec.git().is_some_and(GitCommit::takes_credential);
        ensure(shown <= usize::from(takes), || {
            let why = "one may be shown to the host of spec.git, by https; nobody else is shown any";
            Invalid::field("secrets", why)
        })?;
        let may_use = match &self.spec {
            Spec::Workspace(workspace) if workspace.takes_credential() => {
                matches!(
                    &self.secrets[..],
                    [] | [SecretUse {
                        delivery: Delivery::Stdin,
                        ..
                    }]
                )
            }
            _ => !is_own || self.secrets.is_empty(),
        };
        ensure(may_use, || {
            Invalid::field(
                "secrets",
                "a job of this kind uses none; one that clones by https: one, as its standard input",
            )
        })?;
        ensure(self.kind == self.spec.kind(), || {
            Invalid::field("kind", "says another kind than the spec is of")
        })?;
        let takes_stdin = self.stdin != Stdin::NONE;
        check_uses(&self.secrets, takes_stdin, self.process().env.keys())?;
        self.spec.validate()
    }

    fn misread(payload: &[u8]) -> Code {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
        }
        let kind = serde_json::from_slice::<Head>(payload).map(|head| head.kind);
        match kind {
            Ok(kind) if JobKind::from_word(&kind).is_none() => Code::KindUnsupported,
            _ => Code::PayloadMalformed,
        }
    }
}

impl Job {
    /// What it says about the process that it runs.
    #[must_use]
    pub fn process(&self) -> Process<'_> {
        self.spec.process()
    }

    /// The firing of a schedule that it is, if it is one.
    #[must_use]
    pub fn fired(&self) -> Option<Fired> {
        match self.origin {
            Origin::Firing(fired) => Some(fired),
            Origin::Job | Origin::Schedule => None,
        }
    }

    /// The bytes that the hub has to bring before it can start: standard input, or the file.
    #[must_use]
    pub fn input(&self) -> Option<StdinBytes> {
        match (&self.spec, &self.stdin) {
            (Spec::Fetch(Fetch { url: Some(_), .. }), _) => None,
            (Spec::Fetch(fetch), _) => Some(fetch.content()),
            (_, Stdin::Bytes(bytes)) => Some(*bytes),
            (_, Stdin::Word(_)) => None,
        }
    }

    /// The file that the node itself has to fetch before it can start, and where from.
    #[must_use]
    pub fn download(&self) -> Option<(&FileUrl, StdinBytes)> {
        match &self.spec {
            Spec::Fetch(fetch) => fetch.url.as_ref().map(|url| (url, fetch.content())),
            _ => None,
        }
    }

    /// How many bytes of its output are kept, where its profile keeps so many.
    #[must_use]
    pub fn keeps(&self, of_profile: u64) -> u64 {
        match &self.spec {
            Spec::Collect(collect) => collect.keeps(),
            Spec::Workspace(workspace) => workspace.keeps().unwrap_or(of_profile),
            _ => self.process().keep_bytes.unwrap_or(of_profile).min(of_profile),
        }
    }
}

/// A job as it is written: what its spec is like is known when its kind is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    tag: JobTag,
    org: OrgId,
    operator: Name,
    #[serde(with = "crate::json::base64_bytes")]
    nonce: Vec<u8>,
    nodes: Vec<NodeId>,
    kind: JobKind,
    spec: serde_json::Value,
    profile: Name,
    stdin: Stdin,
    secrets: Vec<SecretUse>,
    after: Vec<Digest>,
    expect: Expect,
    output_to: Empty,
    reason: String,
    retry_of: Option<Digest>,
    min_bundle: u64,
    issued_at: Timestamp,
    not_before: Timestamp,
    expires_at: Timestamp,
}

impl TryFrom<Written> for Job {
    type Error = String;

    fn try_from(job: Written) -> Result<Self, String> {
        Ok(Self {
            spec: Spec::read(job.kind, job.spec)?,
            tag: job.tag,
            org: job.org,
            operator: job.operator,
            nonce: job.nonce,
            nodes: job.nodes,
            kind: job.kind,
            profile: job.profile,
            stdin: job.stdin,
            secrets: job.secrets,
            after: job.after,
            expect: job.expect,
            output_to: job.output_to,
            reason: job.reason,
            retry_of: job.retry_of,
            min_bundle: job.min_bundle,
            issued_at: job.issued_at,
            not_before: job.not_before,
            expires_at: job.expires_at,
            origin: Origin::Job,
        })
    }
}

/// Another person's signature under a job, made over its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// `approval`.
    #[serde(rename = "type")]
    pub tag: ApprovalTag,
    /// The org.
    pub org: OrgId,
    /// The job that is approved.
    pub job_digest: Digest,
    /// Who approves; the signing key must be this operator's.
    pub approver: Name,
    /// The facts that were looked at, per node, for gates that bind them.
    pub facts: Vec<ApprovalFacts>,
    /// Oldest bundle under which it counts.
    pub min_bundle: u64,
    /// When.
    pub issued_at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

/// The facts that an approver saw for one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalFacts {
    /// The node.
    pub node_id: NodeId,
    /// Digest of the facts in its ask.
    pub facts_digest: Digest,
}

impl Document for Approval {
    const KIND: DocKind = DocKind::Approval;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.facts.len() <= limits::NODES, || {
            Invalid::limit("facts", "at most 10000")
        })?;
        ensure(self.facts.is_sorted_by(|a, b| a.node_id < b.node_id), || {
            Invalid::field("facts", "sorted by node, distinct")
        })?;
        check_validity(self.issued_at, self.expires_at)
    }
}

/// Ends a job, before or while it runs, on all of its nodes or on some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// `cancel`.
    #[serde(rename = "type")]
    pub tag: CancelTag,
    /// The org.
    pub org: OrgId,
    /// The job to end.
    pub job_digest: Digest,
    /// Who cancels; the signing key must be this operator's, and policy must allow the action `cancel`.
    pub operator: Name,
    /// Why.
    pub reason: String,
    /// On which nodes: ids, sorted, distinct; left out for all of the job's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// Oldest bundle under which it counts.
    pub min_bundle: u64,
    /// When.
    pub issued_at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

impl Document for Cancel {
    const KIND: DocKind = DocKind::Cancel;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_reason(&self.reason)?;
        ensure(self.nodes.len() <= limits::NODES, || {
            Invalid::limit("nodes", "at most 10000")
        })?;
        ensure(self.nodes.is_sorted_by(|a, b| a < b), || {
            Invalid::field("nodes", "sorted and distinct")
        })?;
        check_validity(self.issued_at, self.expires_at)
    }
}

/// The node's signed question: policy allows this job once these gates are met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// `ask`.
    #[serde(rename = "type")]
    pub tag: AskTag,
    /// The org.
    pub org: OrgId,
    /// The job.
    pub job_digest: Digest,
    /// The node that asks; the signing key is its identity key.
    pub node_id: NodeId,
    /// The law that it judged by.
    pub bundle_version: u64,
    /// What it found out about the job, as JSON in text form, for people to read.
    pub facts: String,
    /// SHA-256 of that text.
    pub facts_digest: Digest,
    /// The gates that are not met.
    pub gates: Vec<OpenGate>,
    /// When.
    pub issued_at: Timestamp,
}

/// A gate that waits for approvals, or for a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenGate {
    /// `@id` of the policy.
    pub policy_id: String,
    /// How many distinct people it takes.
    pub n: u32,
    /// From which roster group.
    pub group: Name,
    /// Whether it waits for a release of this node, and not for approvals; left out where it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
}

impl Document for Ask {
    const KIND: DocKind = DocKind::Ask;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(!self.gates.is_empty(), || {
            Invalid::field("gates", "an ask names what it asks for")
        })?;
        ensure(Digest::of(self.facts.as_bytes()) == self.facts_digest, || {
            Invalid::field("facts_digest", "is not the digest of facts")
        })
    }
}
