//! Gates: forbids that enough approvals lift, or a release of the node.

use cedar_policy::{Effect, Policy};
use lictor_proto::Name;
use lictor_proto::doc::OpenGate;
use lictor_trust::roster::{Operator, OperatorKind};

/// A forbid with `@approvals` and `@approvers`, or with `@releasers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Its `@id`.
    pub id: String,
    /// How many distinct operators it takes, 1 to 9.
    pub n: u32,
    /// The roster group that they must be in.
    pub group: Name,
    /// Whether they must be persons.
    pub kind: ApproverKind,
    /// Whether an approval counts only for the facts that its signer saw.
    pub binds_facts: bool,
    /// Whether what lifts it is a release of the node, and not approvals.
    pub release: bool,
}

/// `@approver_kind`. There is no way to ask for services only, so that leaving the annotation out is never laxer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApproverKind {
    /// `person`, the default.
    Person,
    /// `any`: persons and services.
    Any,
}

/// The annotations that a policy may carry.
const ANNOTATIONS: &[&str] = &[
    "id",
    "approvals",
    "approvers",
    "approver_kind",
    "binds",
    "releasers",
    "reason",
];
/// Those that only a gate may carry.
const GATE_ONLY: &[&str] = &["approver_kind", "binds"];

impl Gate {
    /// Reads a policy's annotations: `None` for plain law.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub(crate) fn read(id: &str, policy: &Policy) -> Result<Option<Self>, String> {
        if let Some((key, _)) = policy.annotations().find(|(k, _)| !ANNOTATIONS.contains(k)) {
            return Err(format!(
                "annotation @{key} is unknown; there are {}",
                ANNOTATIONS.join(", ")
            ));
        }
        let (n, group) = match (policy.annotation("approvals"), policy.annotation("approvers")) {
            (None, None) => return Self::release(id, policy),
            (Some(n), Some(group)) => (n, group),
            _ => return Err("@approvals and @approvers come only together".into()),
        };
        if policy.effect() != Effect::Forbid {
            return Err("only a forbid can wait for approvals".into());
        }
        if policy.annotation("releasers").is_some() {
            return Err("@releasers and @approvals are for two policies: each is counted alone".into());
        }
        let n = match n.as_bytes() {
            [digit @ b'1'..=b'9'] => u32::from(digit - b'0'),
            _ => return Err(format!("@approvals({n:?}) must be \"1\" to \"9\"")),
        };
        let group: Name = group.parse().map_err(|e| format!("@approvers({group:?}): {e}"))?;
        let kind = match policy.annotation("approver_kind") {
            None | Some("person") => ApproverKind::Person,
            Some("any") => ApproverKind::Any,
            Some(other) => return Err(format!("@approver_kind({other:?}) must be \"person\" or \"any\"")),
        };
        let binds_facts = match policy.annotation("binds") {
            None => false,
            Some("facts") => true,
            Some(other) => return Err(format!("@binds({other:?}) must be \"facts\"")),
        };
        let id = id.to_owned();
        Ok(Some(Self {
            id,
            n,
            group,
            kind,
            binds_facts,
            release: false,
        }))
    }

    /// A forbid that a release lifts, or plain law. Whoever asked may release too: what it holds back is a hub that
    /// begins everywhere at once, not the person.
    fn release(id: &str, policy: &Policy) -> Result<Option<Self>, String> {
        if let Some(key) = GATE_ONLY.iter().find(|key| policy.annotation(key).is_some()) {
            return Err(format!(
                "@{key} belongs to a gate, beside @approvals and @approvers"
            ));
        }
        let Some(group) = policy.annotation("releasers") else {
            return Ok(None);
        };
        if policy.effect() != Effect::Forbid {
            return Err("only a forbid can wait for a release".into());
        }
        Ok(Some(Self {
            id: id.to_owned(),
            n: 1,
            group: group.parse().map_err(|e| format!("@releasers({group:?}): {e}"))?,
            kind: ApproverKind::Any,
            binds_facts: false,
            release: true,
        }))
    }

    /// Whether this operator is one whose approval this gate takes.
    #[must_use]
    pub fn takes(&self, operator: &Operator) -> bool {
        let kind = self.kind == ApproverKind::Any || operator.kind == OperatorKind::Person;
        kind && operator.groups.contains(&self.group)
    }

    /// As it stands in an ask.
    #[must_use]
    pub fn open(&self) -> OpenGate {
        OpenGate {
            policy_id: self.id.clone(),
            n: self.n,
            group: self.group.clone(),
            release: self.release,
        }
    }
}
