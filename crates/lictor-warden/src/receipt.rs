//! What a receipt says: the decision, what was applied, how it ended. Its place in the chain is the journal's.

use lictor_audit::{Event, EventType};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{AppliedBackend, Artifact, Exit, LimitHit, Outcome, Receipt, StreamSummary, Usage};
use lictor_proto::egress::Totals;
use lictor_proto::{Digest, NodeId, OrgId, Timestamp};
use lictor_trust::SecretKey;
use lictor_trust::sign::{sign, to_wire};

use crate::journal::entry::{Decision, Log};
use crate::journal::{Draft, Signer};
use crate::spool;

/// Who signs.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The org.
    pub org: OrgId,
    /// This node.
    pub node_id: NodeId,
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub struct End {
    /// In one word.
    pub outcome: Outcome,
    /// Why, when it did not simply run to its end.
    pub why: Option<Refusal>,
    /// When its process was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How its process ended.
    pub exit: Option<Exit>,
    /// Limits that made a difference.
    pub limits_hit: Vec<LimitHit>,
    /// What it used.
    pub usage: Option<Usage>,
    /// What it did through the egress proxy; `None` when it had no way out.
    pub egress: Option<Totals>,
    /// Its output; `None` when nothing was started.
    pub output: Option<spool::Ended>,
    /// Files that it has carried.
    pub artifacts: Vec<Artifact>,
}

impl End {
    /// The end of something that was never started.
    #[must_use]
    pub fn unstarted(outcome: Outcome, why: Refusal) -> Self {
        Self {
            outcome,
            why: Some(why),
            started_at: None,
            finished_at: Timestamp::now(),
            exit: None,
            limits_hit: Vec::new(),
            usage: None,
            egress: None,
            output: None,
            artifacts: Vec::new(),
        }
    }
}

impl Issuer {
    /// The draft of a job's receipt, with the audit event that goes with it.
    #[must_use]
    pub fn draft(&self, job: Digest, decision: &Decision, end: End) -> Draft {
        let started = end.output.is_some();
        let (log, stdout, stderr) = match end.output {
            Some(o) => (o.log, o.stdout, o.stderr),
            None => (Log::default(), StreamSummary::empty(), StreamSummary::empty()),
        };
        let event = event(job, decision, end.outcome, end.why.as_ref(), end.exit);
        let backend = decision
            .backend
            .clone()
            .filter(|_| started)
            .map(|name| AppliedBackend {
                name,
                engine: decision.engine.clone(),
                capabilities: decision.capabilities.clone(),
                rootfs: decision.rootfs,
            });
        let receipt = Receipt {
            tag: Default::default(),
            org: self.org.clone(),
            node_id: self.node_id.clone(),
            job_digest: job,
            fired: decision.fired,
            outcome: end.outcome,
            code: end.why.as_ref().map(|r| r.code),
            message: end.why.map(|r| clean(&r.message)).unwrap_or_default(),
            bundle_version: decision.bundle_version,
            bundle_digest: decision.bundle_digest,
            policy_ids: decision.policy_ids.clone(),
            approvals: decision.approvals.clone(),
            break_glass: decision.break_glass,
            facts_digest: decision.facts_digest,
            profile: decision.profile.clone(),
            backend,
            plan_digest: decision.plan_digest,
            started_at: end.started_at,
            finished_at: end.finished_at,
            exit: end.exit,
            limits_hit: end.limits_hit,
            usage: end.usage,
            stdout,
            stderr,
            egress: end.egress,
            sandbox: decision.sandbox.clone(),
            artifacts: end.artifacts,
            // The journal's writer fills these in.
            node_seq: 0,
            prev: None,
            audit_head: Digest([0; 32]),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Draft { receipt, log, event }
    }
}

/// One sentence for people, without control characters.
fn clean(message: &str) -> String {
    let end = message.floor_char_boundary(1000);
    message[..end]
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn event(
    job: Digest,
    decision: &Decision,
    outcome: Outcome,
    why: Option<&Refusal>,
    exit: Option<Exit>,
) -> Event {
    let kind = match outcome {
        Outcome::Denied => EventType::JobDenied,
        Outcome::Expired => EventType::JobExpired,
        Outcome::Interrupted => EventType::JobInterrupted,
        Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut | Outcome::Canceled => {
            EventType::JobFinished
        }
    };
    let word = serde_json::to_string(&outcome).unwrap_or_default();
    let event = Event::new(kind)
        .with_id("job", &job)
        .with("outcome", word.trim_matches('"'))
        .with("bundle", decision.bundle_version)
        .with("rules", decision.policy_ids.as_slice());
    let event = match exit {
        Some(Exit::Status(n)) => event.with("exit", n.to_string()),
        Some(Exit::Signal(n)) => event.with("signal", n.to_string()),
        None => event,
    };
    match why {
        Some(refusal) => event.refused(refusal),
        None => event,
    }
}

/// The identity key, in the hands of the journal's writer.
#[derive(Debug)]
pub struct IdentitySigner(pub SecretKey);

impl Signer for IdentitySigner {
    fn sign(&self, receipt: &Receipt) -> (String, Digest) {
        let envelope = sign(receipt, &[&self.0]);
        (to_wire(&envelope), envelope.digest())
    }
}
