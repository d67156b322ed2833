//! What of a profile cannot be held, and what to do about it.

use lictor_proto::code::{Code, Refusal};

use crate::capability::Capability;

/// Something that the profile promises and this host cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unenforceable {
    /// The backend lacks it here.
    #[error("{backend} cannot enforce {capability} on this host{}", fix(*.capability))]
    Missing {
        /// Which backend.
        backend: &'static str,
        /// What it lacks.
        capability: Capability,
    },
    /// Its rights only add up, so that what is read-only in a writable path would be writable.
    #[error(
        "{backend} cannot keep {path} read-only within a path that the profile makes writable; name bubblewrap in the \
         profile, or leave one of the two out"
    )]
    ReadOnlyWithin {
        /// Which backend.
        backend: &'static str,
        /// Which path.
        path: String,
    },
    /// A namespaced job would run as root.
    #[error("a profile that isolates needs a run-as user who is not root; leave run_as out or name another")]
    Root,
    /// The profile has a way out, and no rules for it that could be read.
    #[error("the profile's egress rules cannot be used")]
    Rules,
    /// The permit is about something else than what was resolved.
    #[error("the permit is not about this program")]
    OtherFacts,
}

fn fix(capability: Capability) -> String {
    capability
        .fix()
        .map_or_else(String::new, |fix| format!("; {fix}"))
}

impl Unenforceable {
    /// As a refusal with its code.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::OtherFacts => Code::FactsChanged,
            _ => Code::Unenforceable,
        };
        Refusal::new(code, self.to_string())
    }
}
