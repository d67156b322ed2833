//! What a probe has found: what is held, how that is known, and of everything else why it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lictor_trust::profiles::Backend;

use super::{Capability, reasons};

/// What one backend can do here, and of the rest why it cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    held: BTreeSet<Capability>,
    /// Those of them that the probe has seen at work on this host.
    tried: BTreeSet<Capability>,
    why_not: BTreeMap<Capability, String>,
    engine: Option<String>,
    agent: Vec<PathBuf>,
}

impl Capabilities {
    /// Whether it can.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.held.contains(&capability)
    }

    /// Whether the probe has seen it at work here. What it has not, this backend has wherever it works, and a case of the
    /// conformance suite proves it.
    #[must_use]
    pub fn was_tried(&self, capability: Capability) -> bool {
        self.tried.contains(&capability)
    }

    /// The same, with the reason why one is not among them.
    #[must_use]
    pub fn lacking(mut self, capability: Capability, why: impl Into<String>) -> Self {
        self.held.remove(&capability);
        self.tried.remove(&capability);
        self.why_not.insert(capability, why.into());
        self
    }

    /// With one that this backend has wherever it works.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn and(mut self, capability: Capability) -> Self {
        self.held.insert(capability);
        self
    }

    /// With one that was seen at work, or the reason why it was not.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn with(mut self, capability: Capability, found: Result<(), String>) -> Self {
        match found {
            Ok(()) => {
                self.held.insert(capability);
                self.tried.insert(capability);
                self
            }
            Err(why) => self.lacking(capability, why),
        }
    }

    /// Why it cannot, where that is known.
    #[must_use]
    pub fn why_not(&self, capability: Capability) -> Option<&str> {
        self.why_not.get(&capability).map(String::as_str)
    }

    /// What a backend lacks by its nature comes with the reason, too.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn explained(mut self, backend: Backend) -> Self {
        for capability in Capability::ALL.into_iter().filter(|c| !self.held.contains(c)) {
            let by_nature = || reasons::by_nature(backend, capability).to_owned();
            self.why_not.entry(capability).or_insert_with(by_nature);
        }
        self
    }

    /// Which program makes its sandboxes, where several could.
    #[must_use]
    pub fn engine(&self) -> Option<&str> {
        self.engine.as_deref()
    }

    /// The same, with that program's name.
    #[must_use]
    pub fn made_by(mut self, engine: Option<&str>) -> Self {
        self.engine = engine.map(str::to_owned);
        self
    }

    /// What is the agent's own, which no job sees: every path that leads there, without links.
    #[must_use]
    pub fn agent(&self) -> &[PathBuf] {
        &self.agent
    }

    /// The same for an agent whose own these paths are.
    #[must_use]
    pub fn of_agent_in(mut self, own: &[PathBuf]) -> Self {
        self.agent = own.to_vec();
        self
    }

    /// The words, sorted.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<_> = self.held.iter().map(|c| c.as_str().to_owned()).collect();
        words.sort_unstable();
        words
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        Self {
            held: iter.into_iter().collect(),
            ..Self::default()
        }
    }
}
