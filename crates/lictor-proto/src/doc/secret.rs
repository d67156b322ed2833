//! Secrets: sealed on an operator's machine to the keys of nodes, and named by the jobs that use them.

use serde::{Deserialize, Serialize};

use super::{DocKind, Document, Invalid, ensure, tag};
use crate::ids::{Digest, Name, NodeId, OrgId};
use crate::limits;
use crate::time::Timestamp;

tag!(SecretTag, "secret");

/// What a sealed value is longer than the longest value by, at most: its length, padding, and the cipher's tag.
const OVERHEAD: usize = 4 + PAD + 16;
/// Bytes of a sealed key: its own, and the cipher's tag.
const KEY: usize = 32 + 16;
/// Values are padded to a multiple of this, so that their exact length is nobody's to see.
pub const PAD: usize = 64;

/// One version of a secret, sealed to each node that may open it. The hub keeps it and can read nothing of its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// `secret`.
    #[serde(rename = "type")]
    pub tag: SecretTag,
    /// The org.
    pub org: OrgId,
    /// Who set it; the one signing key must be this operator's.
    pub operator: Name,
    /// What it is called.
    pub name: Name,
    /// Grows with each value; never used twice for a name.
    pub version: u64,
    /// Its value, for the nodes that may open it.
    pub sealed: Sealed,
    /// When it was set.
    pub issued_at: Timestamp,
}

/// A value encrypted once, by a key of its own that is sealed to each node; docs/protocol.md says what each part binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// By ChaCha20-Poly1305 (RFC 8439): the value with its length before it, padded; behind it the tag of 16 bytes.
    #[serde(with = "crate::json::base64_bytes")]
    pub ciphertext: Vec<u8>,
    /// The key of that for each node, sorted by node.
    pub keys: Vec<SealedKey>,
}

/// A key sealed to one node's `seal_key`: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
/// ChaCha20-Poly1305.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedKey {
    /// The node.
    pub node_id: NodeId,
    /// The encapsulated key, 32 bytes.
    #[serde(with = "crate::json::base64_32")]
    pub enc: [u8; 32],
    /// What encrypts the value: 32 bytes, encrypted, with the tag of 16 bytes behind them.
    #[serde(with = "crate::json::base64_bytes")]
    pub key: Vec<u8>,
}

impl Document for Secret {
    const KIND: DocKind = DocKind::Secret;

    fn org(&self) -> Option<&OrgId> {
        Some(&self.org)
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.version >= 1 && self.version <= limits::MAX_INTEGER, || {
            Invalid::field("version", "from 1 on")
        })?;
        let Sealed { ciphertext, keys } = &self.sealed;
        ensure(!keys.is_empty(), || {
            Invalid::field("sealed.keys", "for at least one node")
        })?;
        ensure(keys.len() <= limits::NODES, || {
            Invalid::limit("sealed.keys", "at most 10000 nodes")
        })?;
        ensure(keys.is_sorted_by(|a, b| a.node_id < b.node_id), || {
            Invalid::field("sealed.keys", "sorted by node, distinct")
        })?;
        ensure(keys.iter().all(|k| k.key.len() == KEY), || {
            Invalid::field("sealed.keys", "a sealed key has 48 bytes")
        })?;
        ensure(ciphertext.len() <= limits::SECRET + OVERHEAD, || {
            Invalid::limit("sealed.ciphertext", "a value is at most 16 KiB")
        })
    }
}

impl Secret {
    /// What is sealed to a node.
    #[must_use]
    pub fn sealed_for(&self, node: &NodeId) -> Option<&SealedKey> {
        let keys = &self.sealed.keys;
        let at = keys.binary_search_by(|s| s.node_id.cmp(node)).ok()?;
        keys.get(at)
    }
}

/// A secret that a job uses: exactly this document, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// What it is called.
    pub name: Name,
    /// Which version.
    pub version: u64,
    /// Digest of the signed document.
    pub digest: Digest,
    /// How it reaches the job.
    pub delivery: Delivery,
}

/// How a secret reaches a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// As a sealed file in memory, inherited as a descriptor; its path is in a variable.
    Memfd,
    /// As standard input.
    Stdin,
    /// As a file in memory of the job's own mounts; its path, which differs from one sandbox to another, is in a variable.
    File,
    /// Not at all: it is shown to the host of the repository that a commit is brought from before the job begins.
    Git,
}

impl Delivery {
    /// The word in a job.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memfd => "memfd",
            Self::Stdin => "stdin",
            Self::File => "file",
            Self::Git => "git",
        }
    }

    /// Whether the job finds it by a variable.
    #[must_use]
    pub const fn has_path(self) -> bool {
        matches!(self, Self::Memfd | Self::File)
    }

    /// The delivery of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Memfd, Self::Stdin, Self::File, Self::Git]
            .into_iter()
            .find(|d| d.as_str() == word)
    }
}

/// What the names of variables that lead to secrets begin with; a job that uses secrets sets none of these itself.
pub const SECRET_VARIABLE: &str = "LICTOR_SECRET_";

/// Where the files of secrets are, as a job sees them.
pub const SECRET_FILES: &str = "/run/secrets";

impl SecretUse {
    /// The variable that says where the job finds it; `None` for standard input, and where it does not.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let word = |c: char| match c {
            '.' | '-' => '_',
            c => c.to_ascii_uppercase(),
        };
        let name: String = self.name.as_str().chars().map(word).collect();
        self.delivery
            .has_path()
            .then(|| format!("{SECRET_VARIABLE}{name}"))
    }
}

/// Checks the secrets of a job against each other; `takes_stdin` is whether it has standard input besides.
pub(super) fn check_uses<'a>(
    uses: &[SecretUse],
    takes_stdin: bool,
    mut variables: impl Iterator<Item = &'a String>,
) -> Result<(), Invalid> {
    ensure(uses.len() <= limits::SECRETS, || {
        Invalid::limit("secrets", "at most 8")
    })?;
    ensure(uses.is_sorted_by(|a, b| a.name < b.name), || {
        Invalid::field("secrets", "sorted by name, distinct")
    })?;
    let on_stdin = uses.iter().filter(|u| u.delivery == Delivery::Stdin).count();
    ensure(on_stdin <= usize::from(!takes_stdin), || {
        Invalid::field(
            "secrets",
            "standard input is one secret, or what the job has besides, not both",
        )
    })?;
    let mut own: Vec<String> = uses.iter().filter_map(SecretUse::variable).collect();
    own.sort_unstable();
    let distinct = own.windows(2).all(|two| two[0] != two[1]);
    ensure(distinct, || {
        Invalid::field("secrets", "two names make the same variable")
    })?;
    let sets_one = !uses.is_empty() && variables.any(|v| v.starts_with(SECRET_VARIABLE));
    ensure(!sets_one, || {
        Invalid::field("spec.env", "LICTOR_SECRET_... is set by the node")
    })
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn using(name: &str, delivery: Delivery) -> SecretUse {
        SecretUse {
            name: name.parse().expect("a name"),
            version: 1,
            digest: Digest::of(b"doc"),
            delivery,
        }
    }

    #[test]
    fn a_job_names_its_secrets_once_and_none_of_their_variables() {
        let none: [String; 0] = [];
        let own = ["LICTOR_SECRET_B".to_owned()];
        let (a, b) = (using("a", Delivery::Stdin), using("b.c", Delivery::Memfd));
        let both = [a.clone(), b.clone()];
        assert_eq!(check_uses(&both, false, none.iter()), Ok(()));
        assert_eq!(b.variable().as_deref(), Some("LICTOR_SECRET_B_C"));
        assert!(check_uses(&both, true, none.iter()).is_err());
        assert!(check_uses(&[b.clone(), a], false, none.iter()).is_err());
        assert!(check_uses(&[b.clone(), b.clone()], false, none.iter()).is_err());
        let clash = [using("b-c", Delivery::Memfd), b.clone()];
        assert!(check_uses(&clash, false, none.iter()).is_err());
        assert!(check_uses(std::slice::from_ref(&b), false, own.iter()).is_err());
        assert_eq!(check_uses(&[], false, own.iter()), Ok(()));
        let many: Vec<_> = (0..9).map(|n| using(&format!("n{n}"), Delivery::Memfd)).collect();
        assert!(check_uses(&many, false, none.iter()).is_err());
    }
}
