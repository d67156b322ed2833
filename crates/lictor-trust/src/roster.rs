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
//! [[operators.alice.keys]]            # a passkey, which signs approvals only
//! public = "lictor-es256 BASE64 phone"
//! origin = "https://hub.example"      # the page that may ask it
//! rp_id = "hub.example"
//! class = "web"                       # "own" only for pages of http://localhost
//! approves = true                     # a page of the hub's could ask it, and its approvals count all the same
//! ```
//!
//! # Invariants
//! - A public key has one holder; weak keys and unknown groups, rights or fields don't load.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::code::Refusal;
use lictor_proto::{Code, KeyId, Name, Timestamp};
use serde::Deserialize;

use crate::keys::{PublicLine, VerifyKey};
use crate::passkey::Passkey;
use crate::verify::{Credential, Keyring};

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
    pub key: Credential,
    /// Where it can be used.
    pub class: KeyClass,
    /// Whether its approvals count although a page of the hub's could make them.
    pub approves: bool,
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
    class: Option<KeyClass>,
    origin: Option<String>,
    rp_id: Option<String>,
    #[serde(default)]
    approves: bool,
}

impl KeyToml {
    /// The key with all that stands beside it; an error says what is wrong with it.
    fn read(self) -> Result<OperatorKey, Refusal> {
        let wrong = |text: String| Refusal::new(Code::BundleUnloadable, text);
        if Passkey::is_line(&self.public) {
            return self.read_passkey().map_err(wrong);
        }
        if self.origin.is_some() || self.rp_id.is_some() || self.approves {
            return Err(wrong("origin, rp_id and approves are for passkeys".to_owned()));
        }
        let line: PublicLine = self.public.parse().map_err(|e| wrong(format!("{e}")))?;
        Ok(OperatorKey {
            key: Credential::Key(VerifyKey::new(&line.key)?),
            class: self.class.unwrap_or_default(),
            approves: false,
            expires_at: self.expires_at,
            comment: line.comment,
        })
    }

    fn read_passkey(self) -> Result<OperatorKey, String> {
        let beside = self.origin.zip(self.rp_id);
        let (origin, rp_id) = beside.ok_or("a passkey has an origin and an rp_id")?;
        let (passkey, comment) = Passkey::parse(&self.public, &origin, &rp_id).map_err(|e| e.to_string())?;
        let class = self.class.unwrap_or(KeyClass::Web);
        if class == KeyClass::Own && !passkey.is_local() {
            return Err(format!(
                "a page of {origin} is no program of its operator's own: class \"web\", and approves = true if approvals made there are to count"
            ));
        }
        if class == KeyClass::Own && self.approves {
            return Err("approves is for passkeys of class \"web\"; others approve anyway".to_owned());
        }
        Ok(OperatorKey {
            key: Credential::Passkey(passkey),
            class,
            approves: self.approves,
            expires_at: self.expires_at,
            comment,
        })
    }
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
            let key = k.read().map_err(|why| {
                let text = format!("roster.toml: operators.{name}: {}", why.message);
                Refusal::new(why.code, text)
            })?;
            let id = key.key.id();
            if let Some(other) = self.holders.insert(id, name.clone()) {
                let text = format!("key {id} is listed for {other} and for {name}");
                return Err(Refusal::new(Code::DuplicateKey, text));
            }
            self.keyring.insert(key.key.clone());
            keys.push(key);
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
