//! What a job's nodes ask, in as few words as it takes: equal asks once, with the nodes that ask so; whom nobody has heard; and
//! whose signatures are still wanted.

use std::collections::{BTreeMap, BTreeSet};

use lictor_policy::Law;
use lictor_proto::doc::{ApprovalFacts, Ask, OpenGate};
use lictor_proto::{Digest, Name, NodeId};
use lictor_trust::Roster;
use serde_json::{Value, json};

use super::{facts, gate_text};
use crate::commands::dossier::Dossier;
use crate::escape::escape;

/// The verified asks of a job, the newest of each node.
pub(super) struct Asks<'a> {
    dossier: &'a Dossier,
    newest: BTreeMap<&'a NodeId, &'a Ask>,
}

/// A gate that waits, on some nodes.
pub(super) struct Wanted {
    gate: OpenGate,
    /// How many signatures are missing, on the node where most are.
    missing: u32,
    nodes: usize,
    /// Whether one of whoever looks would count.
    yours: bool,
}

impl<'a> Asks<'a> {
    pub(super) fn of(dossier: &'a Dossier) -> Self {
        let mut newest: BTreeMap<&NodeId, &Ask> = BTreeMap::new();
        for ask in &dossier.asks {
            let held = newest.entry(&ask.node_id).or_insert(ask);
            if held.issued_at < ask.issued_at {
                *held = ask;
            }
        }
        Self { dossier, newest }
    }

    /// How many nodes have asked.
    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    /// The nodes that have not asked, and have not ended either, by their names; those that nothing proves by their ids. A hub
    /// can withhold a node's papers as well as its ask, so that nothing but a signed revocation takes a node out of the count.
    pub(super) fn silent(&self) -> Vec<String> {
        let ended = |id: &NodeId| self.dossier.receipts.iter().any(|r| r.node_id == *id);
        let nodes = self.dossier.nodes.iter();
        let mut silent: Vec<String> = nodes
            .filter(|n| !self.newest.contains_key(n.id()) && !ended(n.id()))
            .map(|n| n.name().to_string())
            .collect();
        silent.sort();
        let withheld = self.dossier.unproven.iter().filter(|u| !u.is_for_good());
        silent.extend(withheld.map(|u| u.id.to_string()));
        silent
    }

    /// `490 of 500 nodes have asked`.
    pub(super) fn sum(&self) -> String {
        format!(
            "{} of {} nodes have asked",
            self.len(),
            self.dossier.job.nodes.len()
        )
    }

    /// What the signature under an approval is to bind.
    pub(super) fn facts(&self) -> Vec<ApprovalFacts> {
        let facts = self.newest.iter().map(|(node_id, ask)| ApprovalFacts {
            node_id: NodeId::clone(node_id),
            facts_digest: ask.facts_digest,
        });
        facts.collect()
    }

    /// All that they ask and found out, what is equal once.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut groups: BTreeMap<(u64, Vec<String>, Digest), Vec<&Ask>> = BTreeMap::new();
        for ask in self.newest.values() {
            let gates = ask.gates.iter().map(gate_text).collect();
            let group = groups.entry((ask.bundle_version, gates, ask.facts_digest));
            group.or_default().push(ask);
        }
        // Most of all first: what is unlike them stands out behind.
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, asks)| std::cmp::Reverse(asks.len()));
        let mut lines = vec![format!("\n{}", self.sum())];
        for ((law, gates, _), asks) in &groups {
            let mut names: Vec<String> = asks.iter().map(|ask| self.name(&ask.node_id)).collect();
            names.sort_unstable();
            lines.push(match names.as_slice() {
                [one] => format!("\n{one} asks, under law {law}:"),
                many => format!("\n{} nodes ask, under law {law}: {}", many.len(), many.join(", ")),
            });
            lines.extend(gates.iter().map(|gate| format!("  {gate}")));
            lines.push(match names.len() {
                1 => "  it found out:".to_owned(),
                _ => "  each of them found out:".to_owned(),
            });
            lines.extend(asks.first().iter().flat_map(|ask| facts(&ask.facts)));
        }
        let silent = self.silent();
        if !silent.is_empty() {
            lines.push(format!(
                "\n{} have not asked, and what they will find out is not here: {}",
                silent.len(),
                silent.join(", ")
            ));
        }
        lines
    }

    fn name(&self, id: &NodeId) -> String {
        let node = self.dossier.nodes.iter().find(|n| n.id() == id);
        node.map_or_else(|| id.to_string(), |n| format!("{} ({id})", n.name()))
    }

    /// Who has approved it, each person once, and never who asks for it.
    pub(super) fn approved_by(&self) -> BTreeSet<&'a Name> {
        let names = self.dossier.approvals.iter().map(|a| &a.approver);
        names.filter(|name| **name != self.dossier.job.operator).collect()
    }

    /// The gates that wait, by the law held here where it has them.
    pub(super) fn wanted(&self, law: &Law, roster: &Roster, whoever: &Name) -> Vec<Wanted> {
        let mut wanted: BTreeMap<(&str, &Name), Wanted> = BTreeMap::new();
        for ask in self.newest.values() {
            for gate in &ask.gates {
                let have = self.counted(law, roster, (ask, gate));
                let missing = gate
                    .n
                    .saturating_sub(u32::try_from(have.len()).unwrap_or(u32::MAX));
                let one = wanted
                    .entry((&gate.policy_id, &gate.group))
                    .or_insert_with(|| Wanted {
                        gate: gate.clone(),
                        missing: 0,
                        nodes: 0,
                        yours: false,
                    });
                one.missing = one.missing.max(missing);
                if missing > 0 {
                    one.nodes += 1;
                    let may = *whoever != self.dossier.job.operator && !have.contains(whoever);
                    one.yours |= (gate.release || may) && takes(law, roster, (gate, whoever));
                }
            }
        }
        wanted.into_values().filter(|w| w.missing > 0).collect()
    }

    /// Whose signatures count for a gate of one node.
    fn counted(&self, law: &Law, roster: &Roster, (ask, gate): (&Ask, &OpenGate)) -> BTreeSet<&'a Name> {
        if gate.release {
            let releases = self.dossier.releases.iter();
            let here = releases.filter(|r| r.nodes.binary_search(&ask.node_id).is_ok());
            let names = here.map(|r| &r.operator);
            return names.filter(|name| takes(law, roster, (gate, name))).collect();
        }
        let binds = law.gates().get(&gate.policy_id).is_none_or(|g| g.binds_facts);
        let seen = ApprovalFacts {
            node_id: ask.node_id.clone(),
            facts_digest: ask.facts_digest,
        };
        let approvals = self.dossier.approvals.iter();
        let names = approvals
            .filter(|a| !binds || a.facts.contains(&seen))
            .map(|a| &a.approver);
        names
            .filter(|name| **name != self.dossier.job.operator && takes(law, roster, (gate, name)))
            .collect()
    }
}

/// Whether a gate takes this operator's signature; one that the law held here does not have takes all of its group.
fn takes(law: &Law, roster: &Roster, (gate, name): (&OpenGate, &Name)) -> bool {
    roster
        .operator(name)
        .is_some_and(|operator| match law.gates().get(&gate.policy_id) {
            Some(known) => known.takes(operator),
            None => operator.groups.contains(&gate.group),
        })
}

impl Wanted {
    /// `1 of leads on 3 nodes (host-needs-a-lead)`.
    pub(super) fn text(&self) -> String {
        let id = escape(&self.gate.policy_id);
        let on = match self.nodes {
            1 => String::new(),
            n => format!(" on {n} nodes"),
        };
        let what = match self.gate.release {
            true => format!("a release by {}", self.gate.group),
            false => format!("{} of {}", self.missing, self.gate.group),
        };
        let yours = if self.yours { ", you may" } else { "" };
        format!("{what}{on} ({id}{yours})")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "policy_id": self.gate.policy_id, "group": self.gate.group, "release": self.gate.release, "missing": self.missing,
            "nodes": self.nodes, "yours": self.yours,
        })
    }
}
