//! What people ask for: job, approval, cancel; and the node's question back: ask (TRUST.md sections 4 and 6).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Empty, Expect, Invalid, check_reason, check_validity, ensure, tag};
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::limits;
use crate::time::Timestamp;

tag!(JobTag, "job");
tag!(ApprovalTag, "approval");
tag!(CancelTag, "cancel");
tag!(AskTag, "ask");

/// One signed request of work for one or more nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Not built yet: always empty.
    pub secrets: Empty,
    /// Not built yet: always empty.
    pub after: Empty,
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
}

/// The kinds of job. Only `exec` is built so far; a node refuses the others by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// A program and its arguments.
    Exec,
}

/// The work of a job; its shape goes with [`JobKind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Spec {
    /// For [`JobKind::Exec`].
    Exec(Exec),
}

/// Run one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments. A program without `/` is looked up in the profile's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment besides what the profile sets; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Working directory; `null` means the profile's.
    pub cwd: Option<String>,
    /// Wall time after which the whole process tree is ended, in milliseconds; `null` means the profile's.
    pub timeout_ms: Option<u64>,
    /// Between SIGTERM and SIGKILL, in milliseconds; `null` means the profile's.
    pub grace_ms: Option<u64>,
    /// How many bytes of output to keep (head and tail), both streams together; `null` means the profile's.
    pub keep_bytes: Option<u64>,
    /// The kept sandbox of the profile to work in, by its name; left out for one of the job's own, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
}

impl Exec {
    /// Just this command, everything else as the profile says.
    #[must_use]
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            env: BTreeMap::new(),
            cwd: None,
            timeout_ms: None,
            grace_ms: None,
            keep_bytes: None,
            sandbox: None,
        }
    }

    /// The wall time limit, if the job sets one.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.argv.first().is_some_and(|p| !p.is_empty()), || {
            Invalid::field("spec.argv", "names a program")
        })?;
        let nul = |s: &str| s.contains('\0');
        ensure(!self.argv.iter().any(|a| nul(a)), || {
            Invalid::field("spec.argv", "contains a NUL byte")
        })?;
        let bad_name = |k: &str| k.is_empty() || k.contains('=') || nul(k);
        ensure(!self.env.iter().any(|(k, v)| bad_name(k) || nul(v)), || {
            Invalid::field(
                "spec.env",
                "a name is empty or contains `=`, or a NUL byte occurs",
            )
        })?;
        ensure(self.env.len() <= limits::ENV_VARS, || {
            Invalid::limit("spec.env", "at most 1024 variables")
        })?;
        let bytes: usize = self.argv.iter().map(|a| a.len() + 1).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        ensure(bytes <= limits::ARGV_ENV, || {
            Invalid::limit(
                "spec.argv",
                format!("argv and environment are {bytes} bytes, at most 131072"),
            )
        })?;
        ensure(
            self.cwd.as_deref().is_none_or(|c| c.starts_with('/') && !nul(c)),
            || Invalid::field("spec.cwd", "an absolute path"),
        )?;
        ensure(
            self.timeout_ms
                .is_none_or(|t| (1..=limits::VALIDITY.as_millis() as u64).contains(&t)),
            || Invalid::limit("spec.timeout_ms", "1 ms to 30 days"),
        )?;
        ensure(self.grace_ms.is_none_or(|g| g <= 600_000), || {
            Invalid::limit("spec.grace_ms", "at most 10 minutes")
        })
    }
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
        let Spec::Exec(exec) = &self.spec;
        exec.validate()
    }
}

impl Job {
    /// The command.
    #[must_use]
    pub fn exec(&self) -> &Exec {
        let Spec::Exec(exec) = &self.spec;
        exec
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

/// Ends a job, before or while it runs, on all of its nodes.
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

/// A gate that waits for approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenGate {
    /// `@id` of the policy.
    pub policy_id: String,
    /// How many distinct people it takes.
    pub n: u32,
    /// From which roster group.
    pub group: Name,
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

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::Exec;

    /// What was signed before there were kept sandboxes reads as before, and is written as before.
    #[test]
    fn a_job_without_a_kept_sandbox_is_written_as_if_there_were_none() {
        const BEFORE: &str =
            r#"{"argv":["true"],"env":{},"cwd":null,"timeout_ms":null,"grace_ms":null,"keep_bytes":null}"#;
        let exec = Exec::new(vec!["true".to_owned()]);
        assert_eq!(serde_json::to_string(&exec).expect("JSON"), BEFORE);
        assert_eq!(serde_json::from_str::<Exec>(BEFORE).expect("a spec"), exec);
        let named = BEFORE.replace("null}", "null,\"sandbox\":\"work\"}");
        let named: Exec = serde_json::from_str(&named).expect("a spec");
        assert_eq!(named.sandbox.expect("named").as_str(), "work");
        let odd = BEFORE.replace("null}", "null,\"sandbox\":\"../up\"}");
        assert!(serde_json::from_str::<Exec>(&odd).is_err());
    }
}
