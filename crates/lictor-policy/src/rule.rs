//! The exact rule (docs/policy.md). Everything else in this crate prepares for it or acts on it.
//!
//! ```text
//! context or entity error                    -> Deny(policy_error)
//! r1 = eval(law);   any error, or not Allow  -> Deny(forbidden by r1.reason | no_match)
//! r2 = eval(gates); any error                -> Deny(policy_error)
//! gates in r2.reason that are not met           none -> Permit      some -> Ask, or Permit by breaking glass
//! ```
//! Cedar skips a policy that fails, and after a denial names only forbids; hence two evaluations, and errors count.

use cedar_policy::{AuthorizationError, Authorizer, Context, Decision, Request, Response};
use lictor_proto::code::Refusal;
use lictor_proto::doc::OpenGate;
use lictor_proto::{Code, Digest};
use lictor_trust::roster::Operator;

use crate::entities::NodeContext;
use crate::evaluate::{Outcome, Verdict};
use crate::law::Law;
use crate::schema;
use crate::tally::{Poll, Tally};

/// Law has allowed: the permits that did, and the gates that stand in the way, both sorted.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) permits: Vec<String>,
    pub(crate) gates: Vec<String>,
}

/// A denial, and the policies that decided it.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) refusal: Refusal,
    pub(crate) rules: Vec<String>,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            rules: Vec::new(),
        }
    }
}

impl Stop {
    /// Something could not be evaluated.
    pub(crate) fn error(e: impl std::fmt::Display) -> Self {
        Refusal::new(Code::PolicyError, e.to_string()).into()
    }

    /// The same, with what it is about before its words.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.refusal.message = format!("{what}: {}", self.refusal.message);
        self
    }

    pub(crate) fn verdict(self, action: &'static str) -> Verdict {
        Verdict {
            outcome: Outcome::Deny(self.refusal),
            action,
            why_opaque: None,
            rules: self.rules,
            approvals: Vec::new(),
        }
    }
}

impl Asked {
    /// Both must be allowed: permits of both, and the gates of either.
    pub(crate) fn join(&mut self, also: Self) {
        self.permits.extend(also.permits);
        self.gates.extend(also.gates);
        for list in [&mut self.permits, &mut self.gates] {
            list.sort_unstable();
            list.dedup();
        }
    }

    pub(crate) fn verdict(self, action: &'static str, outcome: Outcome, approvals: Vec<Digest>) -> Verdict {
        let mut rules = self.permits;
        match &outcome {
            Outcome::Ask(open) => rules.extend(open.iter().map(|g| g.policy_id.clone())),
            _ => rules.extend(self.gates),
        }
        rules.sort_unstable();
        Verdict {
            outcome,
            action,
            why_opaque: None,
            rules,
            approvals,
        }
    }
}

/// The first two steps: law, then which gates stand in the way.
pub(crate) fn ask(
    law: &Law,
    action: &'static str,
    operator: &Operator,
    node: &NodeContext,
    context: Context,
) -> Result<Asked, Stop> {
    let sets = law
        .actions
        .get(action)
        .ok_or_else(|| Stop::error("an action that the schema does not have"))?;
    let scene = law.entities.scene(operator, node).map_err(Stop::error)?;
    let (principal, resource) = (scene.principal.clone(), scene.resource.clone());
    // Checked against the schema: strict validation vouches only for requests that have its shape.
    let request = Request::new(principal, sets.uid.clone(), resource, context, schema::schema())
        .map_err(Stop::error)?;
    let authorizer = Authorizer::new();
    let first = authorizer.is_authorized(&request, &sets.law, &scene.entities);
    refuse_errors(&first)?;
    let permits = reasons(&first);
    if first.decision() != Decision::Allow {
        return Err(denial(law, permits));
    }
    if sets.gates.is_empty() {
        return Ok(Asked {
            permits,
            gates: Vec::new(),
        });
    }
    // Gates are all forbids, so this always denies; what counts is which of them match.
    let second = authorizer.is_authorized(&request, &sets.gates, &scene.entities);
    refuse_errors(&second)?;
    Ok(Asked {
        permits,
        gates: reasons(&second),
    })
}

/// The last step: which of the gates are open.
pub(crate) fn count(
    law: &Law,
    action: &'static str,
    asked: Asked,
    poll: &Poll<'_>,
    may_break_glass: bool,
) -> Result<Verdict, Stop> {
    let (mut open, mut counted) = (Vec::new(), Vec::new());
    for id in &asked.gates {
        let gate = law
            .gates
            .get(id)
            .ok_or_else(|| Stop::error("a gate that nothing is known of"))?;
        match poll.count(gate) {
            Tally::Met(approvals) => counted.extend(approvals),
            Tally::Open => open.push(gate.open()),
            Tally::FactsChanged => {
                let text = format!("{id}: enough people approved, but other facts than those of now");
                return Err(Stop {
                    refusal: Refusal::new(Code::FactsChanged, text),
                    rules: vec![id.clone()],
                });
            }
        }
    }
    counted.sort_unstable();
    counted.dedup();
    // Breaking glass stands for people who cannot be asked. A release holds back a hub, and whoever may break glass can
    // sign one as quickly as a job.
    let holds_back = open.iter().any(|g: &OpenGate| g.release);
    let outcome = match (open.is_empty(), may_break_glass) {
        (true, _) => Outcome::Permit,
        (false, true) if holds_back => Outcome::Ask(open.into_iter().filter(|g| g.release).collect()),
        (false, true) => Outcome::BreakGlass(open),
        (false, false) => Outcome::Ask(open),
    };
    Ok(asked.verdict(action, outcome, counted))
}

fn refuse_errors(response: &Response) -> Result<(), Stop> {
    let errors: Vec<_> = response.diagnostics().errors().collect();
    let Some(first) = errors.first() else {
        return Ok(());
    };
    let mut rules: Vec<_> = errors.iter().map(|e| failed(e)).collect();
    rules.sort_unstable();
    let text = first.to_string().replace(char::is_control, " ");
    Err(Stop {
        refusal: Refusal::new(Code::PolicyError, text),
        rules,
    })
}

fn failed(error: &AuthorizationError) -> String {
    let AuthorizationError::PolicyEvaluationError(error) = error;
    error.policy_id().to_string()
}

fn reasons(response: &Response) -> Vec<String> {
    let mut ids: Vec<_> = response.diagnostics().reason().map(ToString::to_string).collect();
    ids.sort_unstable();
    ids
}

/// After a denial Cedar names the forbids that matched; none means that nothing permits.
fn denial(law: &Law, forbids: Vec<String>) -> Stop {
    if forbids.is_empty() {
        return Refusal::plain(Code::NoMatch).into();
    }
    let said = forbids.iter().map(|id| match law.reason(id) {
        Some(reason) => format!("{id}: {}", reason.replace(char::is_control, " ")),
        None => id.clone(),
    });
    let text = format!("forbidden by {}", said.collect::<Vec<_>>().join("; "));
    Stop {
        refusal: Refusal::new(Code::Forbidden, text),
        rules: forbids,
    }
}
