//! Secrets on the side of people: sealed here, and never an older version than this home has seen.
//!
//! The hub says which version of a secret is the newest. `trust/secrets.json` keeps the highest that this home has set
//! or used, so that a hub that goes back to an older one is found out here; a home that has never seen the newer one
//! cannot know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lictor_proto::api::SecretDocument;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Sealed, Secret};
use lictor_proto::{Code, Digest, Name, Timestamp, limits};
use lictor_trust::directory::Node;
use lictor_trust::seal::{self, Bound};
use lictor_trust::{OrgTrust, Verified};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::home::{HomeError, replace};
use crate::lock::Lock;

/// How many versions a hub may be ahead of this home without a document that shows it.
const AHEAD: u64 = 1 << 20;
/// Bytes of an envelope around the keys and the value of a secret, at most: names, times, a signature.
const WORDS: usize = 4096;
/// Bytes of an envelope that a key takes which is sealed to one node.
const FOR_ONE: usize = 236;

/// The newest versions that this home has seen.
#[derive(Debug, Clone)]
pub struct SecretMemory {
    trust_dir: PathBuf,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenSecret {
    /// The version.
    pub version: u64,
    /// Digest of its document.
    pub digest: Digest,
}

impl SecretMemory {
    /// The memory below `trust_dir`.
    #[must_use]
    pub fn below(trust_dir: &Path) -> Self {
        Self {
            trust_dir: trust_dir.to_owned(),
        }
    }

    /// The newest version of this secret that was seen.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, name: &Name) -> Result<Option<SeenSecret>, Error> {
        Ok(self.read()?.get(name).copied())
    }

    /// Takes note of a version.
    ///
    /// # Errors
    /// [`Code::SecretOlder`] when a newer one was seen, [`Code::SecretConflict`] when another one of that number was.
    pub fn note(&self, name: &Name, seen: SeenSecret) -> Result<(), Error> {
        let _lock = Lock::take(&self.trust_dir)?;
        let mut all = self.read()?;
        match all.get(name) {
            Some(known) if known.version > seen.version => {
                let (old, new) = (seen.version, known.version);
                let text =
                    format!("secret {name}: the hub serves version {old}, and this home has seen {new}");
                return Err(Error::Untrusted(Refusal::new(Code::SecretOlder, text)));
            }
            Some(known) if *known == seen => return Ok(()),
            Some(known) if known.version == seen.version => {
                let text = format!(
                    "secret {name}: this home has seen another version {}",
                    seen.version
                );
                return Err(Error::Untrusted(Refusal::new(Code::SecretConflict, text)));
            }
            _ => {}
        }
        all.insert(name.clone(), seen);
        let text = serde_json::to_vec_pretty(&all).map_err(|e| self.malformed(&e))?;
        Ok(replace(&self.path(), &text)?)
    }

    fn path(&self) -> PathBuf {
        self.trust_dir.join("secrets.json")
    }

    fn malformed(&self, e: &serde_json::Error) -> HomeError {
        HomeError::Malformed {
            path: self.path(),
            why: e.to_string(),
        }
    }

    fn read(&self) -> Result<BTreeMap<Name, SeenSecret>, Error> {
        let path = self.path();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).map_err(|e| self.malformed(&e))?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(HomeError::io(&path)(e).into()),
        }
    }
}

/// The signed document of what the hub calls the newest version, if it holds and is of that name.
///
/// # Errors
/// [`Error::Untrusted`]: above all [`Code::SecretMissing`] when it was removed.
pub fn verified(
    trust: &OrgTrust,
    name: &Name,
    document: &SecretDocument,
    now: Timestamp,
) -> Result<Verified<Secret>, Error> {
    let Some(wire) = &document.envelope else {
        let text = format!("secret {name} was removed");
        return Err(Error::Untrusted(Refusal::new(Code::SecretMissing, text)));
    };
    let secret = trust.verify_secret(wire, now).map_err(Error::Untrusted)?;
    if secret.name != *name {
        let text = format!("asked for secret {name}, and the hub shows {}", secret.name);
        return Err(Error::Untrusted(Refusal::new(Code::SecretMismatch, text)));
    }
    Ok(secret)
}

/// The version of a new value: the one after the newest that this home has seen, and that the hub shows a signed document of.
///
/// Where none holds (it was removed, or whoever set it has left) there is only the hub's word, which is followed for
/// [`AHEAD`] versions and no further: a number near the end would use up the name for good, in this home as well.
///
/// # Errors
/// [`Code::SecretConflict`] when the hub names a version too far ahead, [`Code::LimitExceeded`] when there is none after it.
pub fn next_version(
    trust: &OrgTrust,
    name: &Name,
    (document, seen): (Option<&SecretDocument>, Option<SeenSecret>),
    now: Timestamp,
) -> Result<u64, Error> {
    let seen = seen.map_or(0, |s| s.version);
    let at_hub = match document.map(|d| (d.secret.version, verified(trust, name, d, now))) {
        None => 0,
        Some((_, Ok(secret))) => secret.version,
        Some((said, Err(_))) if said <= seen.saturating_add(AHEAD) => said,
        Some((said, Err(_))) => {
            let text = format!(
                "secret {name}: the hub says that version {said} was the newest and shows no document of it that holds, \
                 and this home has seen {seen}; look at the hub, or use another name"
            );
            return Err(Error::Untrusted(Refusal::new(Code::SecretConflict, text)));
        }
    };
    let next = at_hub.max(seen).checked_add(1);
    next.filter(|v| *v <= limits::MAX_INTEGER).ok_or_else(|| {
        let text = format!("secret {name}: there is no version after the newest; use another name");
        Error::Untrusted(Refusal::new(Code::LimitExceeded, text))
    })
}

/// Seals a value to each of these nodes.
///
/// # Errors
/// [`Code::LimitExceeded`] for a value that is too short or too long, or for too many nodes at once.
pub fn seal_for(value: &[u8], bound: Bound<'_>, nodes: &[Node]) -> Result<Sealed, Refusal> {
    let sealed = seal::seal(value, bound, nodes.iter().map(|n| (n.id(), &n.keys.seal)))?;
    let most = most_nodes(sealed.ciphertext.len());
    if sealed.keys.len() > most {
        let text = format!("a value of this length fits for {most} nodes at once; use several names");
        return Err(Refusal::new(Code::LimitExceeded, text));
    }
    Ok(sealed)
}

/// For how many nodes there is room beside a ciphertext of so many bytes: base64 within base64, and the words around it.
fn most_nodes(ciphertext: usize) -> usize {
    (limits::ENVELOPE - WORDS - ciphertext * 16 / 9) / FOR_ONE
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use lictor_proto::api::SecretView;
    use lictor_proto::doc::{PAD, Role, Root, RootRoles, SealedKey};
    use lictor_proto::limits::MAX_INTEGER;
    use lictor_proto::{NodeId, OrgId};
    use lictor_trust::sign::to_wire;
    use lictor_trust::{SecretKey, sign};

    use super::*;

    /// An org of nobody yet.
    fn trust() -> OrgTrust {
        let now = Timestamp::now();
        let key = |seed| SecretKey::from_seed(&[seed; 32]);
        let role = |seed| Role {
            keys: vec![key(seed).public()],
            threshold: 1,
        };
        let root = Root {
            tag: Default::default(),
            org: None,
            version: 1,
            name: "example".parse().expect("a name"),
            roles: RootRoles {
                root: role(1),
                bundle: role(2),
                freshness: role(3),
                release: role(4),
            },
            issued_at: now,
            expires_at: now.plus(std::time::Duration::from_secs(3600)),
        };
        let root = sign(&root, &[&key(1)]);
        OrgTrust::pin(&OrgId::from_root(&root.digest()), &to_wire(&root)).expect("a root")
    }

    #[test]
    fn a_hub_can_name_no_version_that_leaves_none_for_the_next_value() {
        let (trust, now) = (trust(), Timestamp::now());
        let name: Name = "db".parse().expect("a name");
        let removed = |version| SecretDocument {
            secret: SecretView {
                name: name.clone(),
                version,
                digest: Digest::of(b"doc"),
                operator: "alice".parse().expect("a name"),
                nodes: 1,
                issued_at: now,
            },
            envelope: None,
        };
        let next = |said: Option<u64>, seen: Option<u64>| {
            let document = said.map(removed);
            let seen = seen.map(|version| SeenSecret {
                version,
                digest: Digest::of(b"doc"),
            });
            next_version(&trust, &name, (document.as_ref(), seen), now).map_err(|e| e.code())
        };
        assert_eq!(next(None, None), Ok(1));
        assert_eq!(next(None, Some(4)), Ok(5));
        assert_eq!(next(Some(3), None), Ok(4));
        assert_eq!(next(Some(3), Some(4)), Ok(5));
        assert_eq!(next(Some(AHEAD + 4), Some(4)), Ok(AHEAD + 5));
        for far in [AHEAD + 5, MAX_INTEGER - 1, MAX_INTEGER, u64::MAX] {
            assert_eq!(next(Some(far), Some(4)), Err(Code::SecretConflict));
        }
        assert_eq!(next(None, Some(MAX_INTEGER)), Err(Code::LimitExceeded));
        assert_eq!(next(None, Some(u64::MAX)), Err(Code::LimitExceeded));
    }

    /// The layout of a document is written down in two places: here it is the same.
    #[test]
    fn the_longest_secret_for_as_many_nodes_as_may_be_is_one_document_and_little_more_would_not() {
        let org = OrgId::from_root(&Digest::of(b"root"));
        let longest = "n".repeat(63);
        // The value with its length, padded, and the tag.
        let ciphertext = vec![7; (4 + limits::SECRET).next_multiple_of(PAD) + 16];
        let most = most_nodes(ciphertext.len());
        assert!(most >= 4000, "docs/secrets.md says so, and it is {most}");
        let bytes = |nodes: usize| {
            let one = SealedKey {
                node_id: NodeId::derive(&org, &[7; 32]),
                enc: [7; 32],
                key: vec![7; 48],
            };
            let secret = Secret {
                tag: Default::default(),
                org: org.clone(),
                operator: longest.parse().expect("a name"),
                name: longest.parse().expect("a name"),
                version: MAX_INTEGER,
                sealed: Sealed {
                    ciphertext: ciphertext.clone(),
                    keys: vec![one; nodes],
                },
                issued_at: Timestamp::now(),
            };
            to_wire(&sign(&secret, &[&SecretKey::from_seed(&[1; 32])])).len()
        };
        assert!(bytes(most) <= limits::ENVELOPE, "{} bytes", bytes(most));
        assert!(
            bytes(most + most / 20) > limits::ENVELOPE,
            "there is room for more"
        );
    }

    #[test]
    fn an_older_version_and_another_one_of_the_same_number_are_found_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let memory = SecretMemory::below(dir.path());
        let name: Name = "db".parse().expect("a name");
        let seen = |version, digest: &[u8]| SeenSecret {
            version,
            digest: Digest::of(digest),
        };
        memory.note(&name, seen(1, b"one")).expect("new");
        memory.note(&name, seen(2, b"two")).expect("newer");
        memory.note(&name, seen(2, b"two")).expect("the same");
        let code = |e: Error| e.code();
        assert_eq!(
            memory.note(&name, seen(1, b"one")).map_err(code),
            Err(Code::SecretOlder)
        );
        assert_eq!(
            memory.note(&name, seen(2, b"other")).map_err(code),
            Err(Code::SecretConflict)
        );
        assert_eq!(memory.newest(&name).expect("read"), Some(seen(2, b"two")));
    }
}
