//! `fleet.toml`: groups of nodes, who may enrol what, and how long a job may be valid.
//!
//! ```toml
//! max_job_validity = "24h"            # optional, this is the default; never over 30 days
//!
//! [groups.web]                        # a node is in it by signed label, or by name
//! labels = { role = "web" }           # all of these
//! names = ["web-1"]                   # or one of these
//!
//! [enrollers.admins]                  # a roster group: its members may sign grants
//! labels = "any"                      # or { role = ["web", "db"], site = "any" }
//! names = ["web-1"]                   # optional, or "any": see below
//! ```
//!
//! A name is worth as much as a label: a group may go by names, and a grant that `replaces` a node takes its name
//! over. So who may not confer every label may neither grant a name that some group lists, nor replace a node,
//! but for the names that the rule lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_proto::code::Refusal;
use lictor_proto::doc::Grant;
use lictor_proto::{Code, Name, limits};
use serde::{Deserialize, Deserializer};

use crate::profiles::parse_duration;
use crate::roster::{Operator, Roster};

/// The rules about nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// The longest validity that a job may have.
    #[serde(default = "default_validity", deserialize_with = "duration")]
    pub max_job_validity: Duration,
    /// Node groups, by name.
    #[serde(default)]
    pub groups: BTreeMap<Name, NodeGroup>,
    /// What members of a roster group may confer on nodes.
    #[serde(default)]
    pub enrollers: BTreeMap<Name, Enroller>,
}

/// Which nodes are in a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeGroup {
    /// Nodes whose grant gives all of these labels; nothing here matches nothing.
    #[serde(default)]
    pub labels: BTreeMap<Name, Name>,
    /// Nodes of these names.
    #[serde(default)]
    pub names: BTreeSet<Name>,
}

/// What may be conferred.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enroller {
    /// `"any"`, or label by label.
    pub labels: Labels,
    /// Names that groups go by, or that are taken over: `"any"`, or these. Left out: any if the labels are any, else
    /// none. Every other name is free.
    #[serde(default)]
    pub names: Option<Values>,
}

/// Labels that may be conferred.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// Every label with every value.
    Any(Any),
    /// These labels only; an empty table means nodes without labels.
    Only(BTreeMap<Name, Values>),
}

/// Values of one label, or names, that may be conferred.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// Every value.
    Any(Any),
    /// These values.
    Only(BTreeSet<Name>),
}

/// The word `any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Any {
    /// `"any"`.
    #[serde(rename = "any")]
    Any,
}

fn default_validity() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

impl Fleet {
    /// Reads `fleet.toml`; enrollers must be groups of the roster.
    ///
    /// # Errors
    /// [`Code::BundleUnloadable`].
    pub fn parse(text: &str, roster: &Roster) -> Result<Self, Refusal> {
        let fleet: Self = crate::law::parse_toml("fleet.toml", text)?;
        let refuse = |text: String| Err(Refusal::new(Code::BundleUnloadable, text));
        if fleet.max_job_validity.is_zero() || fleet.max_job_validity > limits::VALIDITY {
            return refuse("fleet.toml: max_job_validity is more than 0 and at most 30d".into());
        }
        let unknown = fleet.enrollers.keys().find(|g| !roster.groups().contains(*g));
        unknown.map_or(Ok(fleet.clone()), |g| {
            refuse(format!("fleet.toml: enrollers.{g} is no group of the roster"))
        })
    }

    /// The groups that a node of this name with these signed labels is in, sorted.
    #[must_use]
    pub fn groups_of(&self, name: &Name, labels: &BTreeMap<Name, Name>) -> Vec<Name> {
        let matching = self.groups.iter().filter(|(_, g)| g.contains(name, labels));
        matching.map(|(n, _)| n.clone()).collect()
    }

    /// Whether `operator` may sign this grant: one of its groups must allow all of it.
    ///
    /// # Errors
    /// [`Code::GrantNotAllowed`].
    pub fn may_grant(&self, operator: &Operator, grant: &Grant) -> Result<(), Refusal> {
        let of = |g| self.enrollers.get(g);
        let rules: Vec<_> = operator.groups.iter().filter_map(of).collect();
        let mut by_labels = rules.iter().filter(|r| r.labels.allow(&grant.labels)).peekable();
        let refuse = |what: String| {
            let text = format!("no group of {} may enrol a node {what}", operator.name);
            Err(Refusal::new(Code::GrantNotAllowed, text))
        };
        if by_labels.peek().is_none() {
            let wanted: Vec<_> = grant.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            return refuse(format!("with the labels [{}]", wanted.join(", ")));
        }
        let special = self.special_names(grant);
        if by_labels.any(|r| r.allows_names(&special)) {
            return Ok(());
        }
        match special {
            Special::Names(names) => {
                let names: Vec<_> = names.iter().map(|n| n.as_str()).collect();
                refuse(format!("with these labels and the name {}", names.join(", ")))
            }
            Special::Every => refuse("with these labels that takes over any name".into()),
        }
    }

    /// The names that a grant could confer and that mean something already.
    fn special_names<'a>(&'a self, grant: &'a Grant) -> Special<'a> {
        let listed = self.groups.values().flat_map(|g| &g.names);
        match (&grant.name, &grant.replaces) {
            (Some(name), Some(_)) => Special::Names(BTreeSet::from([name])),
            (None, Some(_)) => Special::Every,
            (_, None) => Special::Names(listed.filter(|n| grant.allows_name(n)).collect()),
        }
    }
}

/// Names that it takes an allowance for.
enum Special<'a> {
    /// These.
    Names(BTreeSet<&'a Name>),
    /// More than can be listed.
    Every,
}

impl Enroller {
    fn allows_names(&self, special: &Special<'_>) -> bool {
        let any = Values::Any(Any::Any);
        let allowed = match (&self.names, &self.labels) {
            (Some(names), _) => names,
            (None, Labels::Any(_)) => &any,
            (None, Labels::Only(_)) => &Values::Only(BTreeSet::new()),
        };
        match special {
            Special::Names(names) => names.iter().all(|n| allowed.allow(n)),
            Special::Every => *allowed == any,
        }
    }
}

impl NodeGroup {
    fn contains(&self, name: &Name, labels: &BTreeMap<Name, Name>) -> bool {
        let by_label = !self.labels.is_empty() && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v));
        by_label || self.names.contains(name)
    }
}

impl Labels {
    fn allow(&self, labels: &BTreeMap<Name, Name>) -> bool {
        match self {
            Self::Any(Any::Any) => true,
            Self::Only(rules) => labels
                .iter()
                .all(|(k, v)| rules.get(k).is_some_and(|values| values.allow(v))),
        }
    }
}

impl Values {
    fn allow(&self, value: &Name) -> bool {
        match self {
            Self::Any(Any::Any) => true,
            Self::Only(values) => values.contains(value),
        }
    }
}
