//! `roster.toml`: who there is, with which keys, in which groups, with which rights.
//!
//! ```toml
//! groups = ["admins", "leads"]        # every group there is
//! break_glass = ["leads"]             # groups whose members turn an ask into a permit, loudly
//!
//! [operators.alice]
//! kind = "person"                     # or "service"
//! groups = ["admins", "leads"]
//! rights = ["revoke"]
//! expires_at = "2027-11-21T00:00:00.000Z"   # optional
//! [[operators.alice.keys]]
//! public = "lictor-ed25519 BASE64 laptop"
//! expires_at = "2027-05-21T00:00:00.000Z"   # optional
//! class = "own"                       # or "web": listed, but signs nothing
//! ```
//!
//! # Invariants
//! - A public key has one holder; weak keys and unknown groups, rights or fields don't load.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::code::Refusal;
use lictor_proto::{Code, KeyId, Name, Timestamp};
use serde::Deserialize;

use crate::keys::{PublicLine, VerifyKey};
use crate::verify::Keyring;

/// The people and services of an org.
#[derive(Debug, Clone)]
pub struct Roster {
    operators: BTreeMap<Name, Operator>,
    groups: BTreeSet<Name>,
    break_glass: BTreeSet<Name>,
    holders: BTreeMap<KeyId, Name>,
    keyring: Keyring,
}

/// One person or service account.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Its name.
    pub name: Name,
    /// Person or service.
    pub kind: OperatorKind,
    /// The groups it is in.
    pub groups: BTreeSet<Name>,
    /// What it may do besides what policy says.
    pub rights: BTreeSet<Right>,
    /// After this none of its keys signs anything new.
    pub expires_at: Option<Timestamp>,
    /// Its keys.
    pub keys: Vec<OperatorKey>,
}

/// Whether somebody can be asked for an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorKind {
    /// A human being.
    Person,
    /// A program.
    Service,
}

impl OperatorKind {
    /// The word in the roster.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
        }
    }
}

/// Rights that policy doesn't give, since they hold while no policy can be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To sign revocations.
    Revoke,
}

/// Where a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyClass {
    /// Only by programs that its operator chose.
    #[default]
    Own,
    /// By a web page that the hub serves, which the hub could change: such a key signs and approves nothing.
    Web,
}

/// A key of an operator.
#[derive(Debug, Clone)]
pub struct OperatorKey {
    /// The key.
    pub key: VerifyKey,
    /// Where it can be used.
    pub class: KeyClass,
    /// After this it signs nothing new.
    pub expires_at: Option<Timestamp>,
    /// A word for people.
    pub comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterToml {
    groups: BTreeSet<Name>,
    #[serde(default)]
    break_glass: BTreeSet<Name>,
    operators: BTreeMap<Name, OperatorToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorToml {
    kind: OperatorKind,
    #[serde(default)]
    groups: BTreeSet<Name>,
    #[serde(default)]
    rights: BTreeSet<Right>,
    expires_at: Option<Timestamp>,
    keys: Vec<KeyToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyToml {
    public: String,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    class: KeyClass,
}

impl Roster {
    /// Reads `roster.toml`.
    ///
    /// # Errors
    /// [`Code::BundleUnloadable`], [`Code::WeakKey`] or [`Code::DuplicateKey`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let toml: RosterToml = crate::law::parse_toml("roster.toml", text)?;
        let mut roster = Self {
            operators: BTreeMap::new(),
            groups: toml.groups,
            break_glass: toml.break_glass,
            holders: BTreeMap::new(),
            keyring: Keyring::default(),
        };
        let declared = roster.groups.clone();
        check_groups("break_glass", &roster.break_glass, &declared)?;
        for (name, operator) in toml.operators {
            check_groups(name.as_str(), &operator.groups, &declared)?;
            roster.add(name, operator)?;
        }
        Ok(roster)
    }

    fn add(&mut self, name: Name, toml: OperatorToml) -> Result<(), Refusal> {
        let mut keys = Vec::with_capacity(toml.keys.len());
        for k in toml.keys {
            let line: PublicLine = k.public.parse().map_err(|e| {
                let text = format!("roster.toml: operators.{name}: {e}");
                Refusal::new(Code::BundleUnloadable, text)
            })?;
            let key = VerifyKey::new(&line.key)?;
            if let Some(other) = self.holders.insert(key.id(), name.clone()) {
                let text = format!("key {} is listed for {other} and for {name}", key.id());
                return Err(Refusal::new(Code::DuplicateKey, text));
            }
            self.keyring.insert(key.clone());
            keys.push(OperatorKey {
                key,
                class: k.class,
                expires_at: k.expires_at,
                comment: line.comment,
            });
        }
        let operator = Operator {
            name: name.clone(),
            kind: toml.kind,
            groups: toml.groups,
            rights: toml.rights,
            expires_at: toml.expires_at,
            keys,
        };
        self.operators.insert(name, operator);
        Ok(())
    }

    /// The operator of that name.
    #[must_use]
    pub fn operator(&self, name: &Name) -> Option<&Operator> {
        self.operators.get(name)
    }

    /// All operators, by name.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.operators.values()
    }

    /// Every group there is.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<Name> {
        &self.groups
    }

    /// The operators in a group.
    pub fn members<'a>(&'a self, group: &'a Name) -> impl Iterator<Item = &'a Operator> {
        self.operators.values().filter(|o| o.groups.contains(group))
    }

    /// Whether this operator is in a group that turns an ask into a permit.
    #[must_use]
    pub fn may_break_glass(&self, operator: &Name) -> bool {
        self.operators
            .get(operator)
            .is_some_and(|o| !o.groups.is_disjoint(&self.break_glass))
    }

    /// Who holds a key, and the key.
    #[must_use]
    pub fn holder(&self, key: &KeyId) -> Option<(&Operator, &OperatorKey)> {
        let operator = self.operators.get(self.holders.get(key)?)?;
        let key = operator.keys.iter().find(|k| k.key.id() == *key)?;
        Some((operator, key))
    }

    /// Ids of all keys.
    pub fn key_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.holders.keys()
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

fn check_groups(what: &str, used: &BTreeSet<Name>, declared: &BTreeSet<Name>) -> Result<(), Refusal> {
    used.difference(declared).next().map_or(Ok(()), |g| {
        let text = format!("roster.toml: {what} uses group {g}, which `groups` does not list");
        Err(Refusal::new(Code::BundleUnloadable, text))
    })
}
