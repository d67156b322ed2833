//! What an org says about itself: root of trust, law, freshness, revocations (TRUST.md section 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Invalid, check_reason, ensure, tag};
use crate::ids::{Digest, Name, OrgId, PublicKey};
use crate::limits;
use crate::time::Timestamp;

tag!(RootTag, "root");
tag!(BundleTag, "bundle");
tag!(FreshnessTag, "freshness");
tag!(RevocationTag, "revocation");

/// Which keys may sign what for an org, and how many of them it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// `root`.
    #[serde(rename = "type")]
    pub tag: RootTag,
    /// `null` in version 1, whose digest makes the org id; the id from version 2 on.
    pub org: Option<OrgId>,
    /// 1, then exactly one more each time.
    pub version: u64,
    /// For people; binds nothing.
    pub name: Name,
    /// The roles.
    pub roles: RootRoles,
    /// When it was made.
    pub issued_at: Timestamp,
    /// After this, no newer bundle is accepted under it.
    pub expires_at: Timestamp,
}

/// The four roles of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRoles {
    /// Signs the next root.
    pub root: Role,
    /// Signs bundles.
    pub bundle: Role,
    /// Signs freshness statements; no keys means the org does without.
    pub freshness: Role,
    /// Signs releases of the agent; no keys means none are accepted.
    pub release: Role,
}

/// Keys, and how many distinct ones must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The keys, distinct.
    pub keys: Vec<PublicKey>,
    /// At least 1 when there are keys, at most their number; 0 when there are none.
    pub threshold: u32,
}

/// The name of a role of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // see RootRoles
pub enum RoleName {
    Root,
    Bundle,
    Freshness,
    Release,
}

impl RoleName {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 4] = [Self::Root, Self::Bundle, Self::Freshness, Self::Release];

    /// The word in the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Bundle => "bundle",
            Self::Freshness => "freshness",
            Self::Release => "release",
        }
    }
}

impl RootRoles {
    /// The role of that name.
    #[must_use]
    pub fn get(&self, name: RoleName) -> &Role {
        match name {
            RoleName::Root => &self.root,
            RoleName::Bundle => &self.bundle,
            RoleName::Freshness => &self.freshness,
            RoleName::Release => &self.release,
        }
    }

    /// The role of that name, to change it.
    pub fn get_mut(&mut self, name: RoleName) -> &mut Role {
        match name {
            RoleName::Root => &mut self.root,
            RoleName::Bundle => &mut self.bundle,
            RoleName::Freshness => &mut self.freshness,
            RoleName::Release => &mut self.release,
        }
    }
}

impl Role {
    fn validate(&self, optional: bool) -> Result<(), Invalid> {
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        keys.dedup();
        ensure(keys.len() == self.keys.len(), || {
            Invalid::field("roles", "a role lists a key twice")
        })?;
        ensure(keys.len() <= limits::SIGNATURES, || {
            Invalid::limit("roles", "at most 16 keys a role")
        })?;
        if optional && keys.is_empty() {
            return ensure(self.threshold == 0, || {
                Invalid::field("roles", "a role without keys has threshold 0")
            });
        }
        ensure(
            self.threshold >= 1 && self.threshold as usize <= keys.len(),
            || {
                Invalid::field(
                    "roles",
                    "a threshold is at least 1 and at most the number of keys",
                )
            },
        )
    }
}

impl Document for Root {
    const KIND: DocKind = DocKind::Root;

    fn org(&self) -> Option<&OrgId> {
        self.org.as_ref()
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.version >= 1, || Invalid::field("version", "starts at 1"))?;
        ensure(self.org.is_none() == (self.version == 1), || {
            Invalid::field("org", "null in version 1, the org id from version 2 on")
        })?;
        ensure(self.expires_at > self.issued_at, || {
            Invalid::field("expires_at", "must be after issued_at")
        })?;
        self.roles.root.validate(false)?;
        self.roles.bundle.validate(false)?;
        self.roles.freshness.validate(true)?;
        self.roles.release.validate(true)
    }
}

/// The law: an org's roster, fleet, policies and profiles, signed as one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// `bundle`.
    #[serde(rename = "type")]
    pub tag: BundleTag,
    /// The org.
    pub org: OrgId,
    /// Grows with every bundle; a node never goes back.
    pub version: u64,
    /// The root version that a verifier must hold at least.
    pub min_root: u64,
    /// Version of the policy schema that the policies are written against.
    pub schema_version: u64,
    /// Oldest programs that may act under it.
    pub min_versions: MinVersions,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// After this: no new work.
    pub expires_at: Timestamp,
    /// How old a freshness statement may be, in seconds.
    pub max_staleness: u64,
    /// Path to text.
    pub files: BTreeMap<String, String>,
    /// Digests of the revocations known when it was signed, sorted and distinct: each holds, whoever signed it.
    /// Left out when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<Digest>,
}

/// Oldest versions that may act under a bundle; `null` sets no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinVersions {
    /// Oldest agent, as `major.minor.patch`.
    pub agent: Option<String>,
}

impl Document for Bundle {
    const KIND: DocKind = DocKind::Bundle;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.version >= 1, || Invalid::field("version", "starts at 1"))?;
        ensure(self.expires_at > self.issued_at, || {
            Invalid::field("expires_at", "must be after issued_at")
        })?;
        ensure(self.max_staleness >= 1, || {
            Invalid::field("max_staleness", "at least one second")
        })?;
        for path in self.files.keys() {
            ensure(is_bundle_path(path), || {
                Invalid::field("files", format!("{path:?} has no place in a bundle"))
            })?;
        }
        ensure(self.revocations.len() <= limits::REVOCATIONS, || {
            Invalid::limit("revocations", "at most 10,000")
        })?;
        ensure(self.revocations.is_sorted_by(|a, b| a < b), || {
            Invalid::field("revocations", "must be sorted and distinct")
        })
    }
}

/// `roster.toml`, `fleet.toml`, `profiles.toml`, `policies/[a-z0-9_-]+.cedar`, `scripts/NAME`.
fn is_bundle_path(path: &str) -> bool {
    let plain = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    match path {
        "roster.toml" | "fleet.toml" | "profiles.toml" => true,
        _ => {
            path.strip_prefix("policies/")
                .and_then(|p| p.strip_suffix(".cedar"))
                .is_some_and(plain)
                || path
                    .strip_prefix("scripts/")
                    .is_some_and(|p| p.parse::<Name>().is_ok())
        }
    }
}

/// "This is the newest law, and these are all revocations", by a key that is not on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// `freshness`.
    #[serde(rename = "type")]
    pub tag: FreshnessTag,
    /// The org.
    pub org: OrgId,
    /// Newest root version.
    pub root_version: u64,
    /// Newest bundle version.
    pub bundle_version: u64,
    /// Its digest.
    pub bundle_digest: Digest,
    /// All revocations so far.
    pub revocations: RevocationSet,
    /// When it was said.
    pub issued_at: Timestamp,
    /// Until when it holds, whatever the bundle's `max_staleness`.
    pub expires_at: Timestamp,
}

/// How many revocations there are, and which: SHA-256 over their digests (raw 32 bytes), sorted, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationSet {
    /// Number of distinct revocations.
    pub count: u64,
    /// Digest over their sorted digests.
    pub digest: Digest,
}

impl RevocationSet {
    /// The summary of these revocations; order and repetition don't matter.
    #[must_use]
    pub fn of(digests: impl IntoIterator<Item = Digest>) -> Self {
        let set: std::collections::BTreeSet<Digest> = digests.into_iter().collect();
        let bytes: Vec<u8> = set.iter().flat_map(|d| d.0).collect();
        Self {
            count: set.len() as u64,
            digest: Digest::of(&bytes),
        }
    }
}

impl Document for Freshness {
    const KIND: DocKind = DocKind::Freshness;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.expires_at > self.issued_at, || {
            Invalid::field("expires_at", "must be after issued_at")
        })
    }
}

/// Takes something away for good. It only ever subtracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// `revocation`.
    #[serde(rename = "type")]
    pub tag: RevocationTag,
    /// The org.
    pub org: OrgId,
    /// Who revokes; needs the `revoke` right in the roster.
    pub operator: Name,
    /// What kind of thing `target` names.
    pub kind: RevocationKind,
    /// Key id, operator name, node id, job id, schedule's id (of a job's form), session, or grant digest.
    pub target: String,
    /// Why, for people.
    pub reason: String,
    /// When.
    pub issued_at: Timestamp,
}

/// What can be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the words say it
pub enum RevocationKind {
    Key,
    Operator,
    Node,
    Job,
    Schedule,
    Session,
    Grant,
}

impl Document for Revocation {
    const KIND: DocKind = DocKind::Revocation;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        use RevocationKind as K;
        check_reason(&self.reason)?;
        let t = &self.target;
        let fits = match self.kind {
            K::Key => t.parse::<crate::KeyId>().is_ok(),
            K::Operator => t.parse::<Name>().is_ok(),
            K::Node => t.parse::<crate::NodeId>().is_ok(),
            K::Job | K::Schedule => t.parse::<crate::JobId>().is_ok(),
            K::Grant => t.parse::<Digest>().is_ok(),
            K::Session => !t.is_empty() && t.len() <= 128,
        };
        ensure(fits, || {
            Invalid::field("target", "is not an id of the kind that is revoked")
        })
    }
}
