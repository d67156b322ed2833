//! The law as it is loaded: everything of a bundle that is not Cedar, checked as a whole or not at all.
//!
//! Policies stay text here; `lictor-policy` loads them, and tells [`crate::OrgTrust::mark_unloadable`] when it can't.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, Root, Script, ScriptSource};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, KeyId, Timestamp};
use serde::de::DeserializeOwned;

use crate::fleet::Fleet;
use crate::profiles::Profiles;
use crate::roster::Roster;

/// The one policy schema that this version knows.
pub const SCHEMA_VERSION: u64 = 1;

/// A loaded bundle.
#[derive(Debug, Clone)]
pub struct LawFiles {
    /// What the bundle says about itself.
    pub meta: LawMeta,
    /// `roster.toml`.
    pub roster: Roster,
    /// `fleet.toml`.
    pub fleet: Fleet,
    /// `profiles.toml`.
    pub profiles: Profiles,
    /// File name without directory and `.cedar`, to text.
    pub policies: BTreeMap<String, String>,
    /// File name without directory, to text.
    pub scripts: BTreeMap<String, String>,
}

/// A bundle's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LawMeta {
    /// Bundle version.
    pub version: u64,
    /// Bundle digest.
    pub digest: Digest,
    /// The root version that it needs at least.
    pub min_root: u64,
    /// Version of the policy schema.
    pub schema_version: u64,
    /// Oldest agent that may act under it.
    pub min_agent: Option<Version>,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// After this: no new work.
    pub expires_at: Timestamp,
    /// How old a freshness statement may be.
    pub max_staleness: Duration,
}

/// `major.minor.patch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads three numbers with dots between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|p| {
            let digits = !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| p.parse().ok()).flatten()
        });
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl LawFiles {
    /// Loads a bundle under the root it is to be used with.
    ///
    /// # Errors
    /// [`Code::MinRoot`], [`Code::SchemaUnsupported`], [`Code::DuplicateKey`], [`Code::WeakKey`], or [`Code::BundleUnloadable`] with
    /// file and reason. Whatever it is, a node that gets this for authentic law denies everything.
    pub fn load(bundle: &Bundle, digest: Digest, root: &Root) -> Result<Self, Refusal> {
        if bundle.min_root > root.version {
            let text = format!(
                "it asks for root {}, and {} is held",
                bundle.min_root, root.version
            );
            return Err(Refusal::new(Code::MinRoot, text));
        }
        let meta = LawMeta::of(bundle, digest)?;
        let file = |name: &str| {
            bundle
                .files
                .get(name)
                .map(String::as_str)
                .ok_or_else(|| Refusal::new(Code::BundleUnloadable, format!("the bundle has no {name}")))
        };
        let roster = Roster::parse(file("roster.toml")?)?;
        check_distinct(root, &roster)?;
        let fleet = Fleet::parse(file("fleet.toml")?, &roster)?;
        let mut profiles: Profiles = parse_toml("profiles.toml", file("profiles.toml")?)?;
        profiles
            .settle()
            .map_err(|e| Refusal::new(Code::BundleUnloadable, format!("profiles.toml: {e}")))?;
        Ok(Self {
            meta,
            roster,
            fleet,
            profiles,
            policies: under(bundle, "policies/", ".cedar"),
            scripts: under(bundle, "scripts/", ""),
        })
    }

    /// The text of a script: the job's own, or that of the bundle if it is what the job was signed for.
    ///
    /// # Errors
    /// [`Code::ScriptUnknown`] when the bundle has none of that name, [`Code::ScriptMismatch`] when it is another.
    pub fn script<'a>(&'a self, script: &'a Script) -> Result<&'a str, Refusal> {
        let name = match script.source() {
            Some(ScriptSource::Content(text)) => return Ok(text),
            Some(ScriptSource::Bundle(name)) => name,
            None => return Err(Code::DocumentInvalid.into()),
        };
        let text = self.scripts.get(name.as_str()).ok_or_else(|| {
            Refusal::new(
                Code::ScriptUnknown,
                format!("bundle {} has no scripts/{name}", self.meta.version),
            )
        })?;
        let found = Digest::of(text.as_bytes());
        if found != script.sha256 {
            let why = format!(
                "scripts/{name} of bundle {} is {found}, and the job was signed for {}",
                self.meta.version, script.sha256
            );
            return Err(Refusal::new(Code::ScriptMismatch, why));
        }
        Ok(text)
    }
}

impl LawMeta {
    fn of(bundle: &Bundle, digest: Digest) -> Result<Self, Refusal> {
        if bundle.schema_version != SCHEMA_VERSION {
            let text = format!(
                "the bundle is written against policy schema {}, this version knows {SCHEMA_VERSION}",
                bundle.schema_version
            );
            return Err(Refusal::new(Code::SchemaUnsupported, text));
        }
        let min_agent = match &bundle.min_versions.agent {
            None => None,
            Some(text) => Some(Version::parse(text).ok_or_else(|| {
                let text = format!("min_versions.agent {text:?} is not MAJOR.MINOR.PATCH");
                Refusal::new(Code::BundleUnloadable, text)
            })?),
        };
        Ok(Self {
            version: bundle.version,
            digest,
            min_root: bundle.min_root,
            schema_version: bundle.schema_version,
            min_agent,
            issued_at: bundle.issued_at,
            expires_at: bundle.expires_at,
            max_staleness: Duration::from_secs(bundle.max_staleness),
        })
    }
}

/// Ids of all keys that a root names.
pub(crate) fn root_keys(root: &Root) -> impl Iterator<Item = &PublicKey> {
    let r = &root.roles;
    [&r.root, &r.bundle, &r.freshness, &r.release]
        .into_iter()
        .flat_map(|role| &role.keys)
}

/// A key that is in the root has no other holder.
fn check_distinct(root: &Root, roster: &Roster) -> Result<(), Refusal> {
    let in_both = root_keys(root).map(PublicKey::id).find_map(|id: KeyId| {
        let (operator, _) = roster.holder(&id)?;
        Some(format!(
            "key {id} is in the root and listed for {}",
            operator.name
        ))
    });
    in_both.map_or(Ok(()), |text| Err(Refusal::new(Code::DuplicateKey, text)))
}

fn under(bundle: &Bundle, prefix: &str, suffix: &str) -> BTreeMap<String, String> {
    let named = bundle.files.iter().filter_map(|(path, text)| {
        let name = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
        Some((name.to_owned(), text.clone()))
    });
    named.collect()
}

/// Reads a TOML file of the bundle; unknown and repeated keys are errors.
pub(crate) fn parse_toml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Refusal> {
    toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map_or(0, |s| text[..s.start.min(text.len())].lines().count());
        let text = format!("{file}, near line {line}: {}", e.message());
        Refusal::new(Code::BundleUnloadable, text)
    })
}
