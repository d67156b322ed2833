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
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_proto::code::Refusal;
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

/// Which labels may be conferred.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enroller {
    /// `"any"`, or label by label.
    pub labels: Labels,
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

/// Values of one label that may be conferred.
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

    /// Whether `operator` may enrol a node with these labels: one of its groups must allow all of them.
    ///
    /// # Errors
    /// [`Code::GrantNotAllowed`].
    pub fn may_confer(&self, operator: &Operator, labels: &BTreeMap<Name, Name>) -> Result<(), Refusal> {
        let mut rules = operator.groups.iter().filter_map(|g| self.enrollers.get(g));
        if rules.any(|r| r.labels.allow(labels)) {
            return Ok(());
        }
        let wanted: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let text = format!(
            "no group of {} may enrol a node with the labels [{}]",
            operator.name,
            wanted.join(", ")
        );
        Err(Refusal::new(Code::GrantNotAllowed, text))
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
