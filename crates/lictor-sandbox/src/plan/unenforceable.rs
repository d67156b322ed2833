//! What of a profile cannot be held, and what to do about it.

use std::fmt::Write as _;

use lictor_proto::code::{Code, Refusal};
use lictor_trust::profiles::Backend;

use crate::capability::{Capabilities, Capability};

/// Something that the profile promises and this host cannot hold. Each says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unenforceable {
    /// The backend lacks it here.
    #[error("{}", missing(*.backend, .lacks))]
    Missing {
        /// Which backend.
        backend: Backend,
        /// All that it lacks; never empty.
        lacks: Vec<Lack>,
    },
    /// Its rights only add up, so that what is read-only in a writable path would be writable.
    #[error(
        "{backend} cannot keep {path} read-only within a path that the profile makes writable; say backend = \
         \"bubblewrap\" in the profile, or leave one of the two out"
    )]
    ReadOnlyWithin {
        /// Which backend.
        backend: Backend,
        /// Which path.
        path: String,
    },
    /// A namespaced job would run as root.
    #[error(
        "a profile that isolates needs a run-as user who is not root; leave run_as out, or name another: run_as = \"NAME\""
    )]
    Root,
    /// A limit that nothing could start under.
    #[error("a start in a sandbox takes two processes for a moment; set limits.pids to 2 or more")]
    TooFewPids,
    /// The profile has a way out, and no rules for it that could be read.
    #[error("the profile's egress rules cannot be used; mend its egress section and sign the law anew")]
    Rules,
    /// A secret was to reach the job by a descriptor.
    #[error(
        "{backend} hands no descriptors on to a job, so a secret reaches one there as standard input only: \
         --secret NAME=stdin, or name another backend in the profile"
    )]
    Descriptors {
        /// Which backend.
        backend: Backend,
    },
    /// A secret was to be a file in mounts of the job's own.
    #[error(
        "{backend} puts no secret into a file of the job's own here: --secret NAME hands it over in memory, --secret NAME=stdin \
         as standard input; or name a profile with backend = \"bubblewrap\", or have the agent run as root, and show nothing of the \
         host's at or above /dev/secrets in the profile"
    )]
    SecretFiles {
        /// Which backend.
        backend: Backend,
    },
    /// The permit is about something else than what was resolved.
    #[error("the permit is not about this program; submit the job again, for what is there now to be judged")]
    OtherFacts,
}

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What.
    pub capability: Capability,
    /// Why, where the probe knows it.
    pub why: Option<String>,
}

impl Lack {
    pub(crate) fn new(capability: Capability, found: &Capabilities) -> Self {
        Self {
            capability,
            why: found.why_not(capability).map(str::to_owned),
        }
    }
}

fn missing(backend: Backend, lacks: &[Lack]) -> String {
    let words = lacks.iter().map(|lack| match &lack.why {
        Some(why) => format!("{} ({why})", lack.capability),
        None => lack.capability.to_string(),
    });
    let words: Vec<String> = words.collect();
    let mut text = format!("{backend} cannot enforce {} on this host", words.join(", "));
    let mut fixes: Vec<&str> = Vec::new();
    for fix in lacks.iter().map(|lack| lack.capability.fix(backend)) {
        if !fixes.contains(&fix) {
            fixes.push(fix);
            // To a string, which cannot fail.
            let _ = write!(text, "; {fix}");
        }
    }
    text
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
