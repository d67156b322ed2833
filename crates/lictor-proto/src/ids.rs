//! Identifiers, each a type of its own, each checked when it is made.
//!
//! All derived ids are truncated SHA-256 in lower-case base32 without padding (RFC 4648), so they are
//! case-insensitive safe, fit a file name, and commit to what they name.

use std::fmt;
use std::str::FromStr;

use data_encoding::Specification;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Why a string is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct IdError {
    what: &'static str,
    rule: &'static str,
}

fn base32(bytes: &[u8]) -> String {
    static ENCODING: std::sync::OnceLock<data_encoding::Encoding> = std::sync::OnceLock::new();
    ENCODING
        .get_or_init(|| {
            let mut spec = Specification::new();
            spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
            #[allow(clippy::expect_used)] // a constant alphabet of 32 distinct symbols
            spec.encoding().expect("the RFC 4648 alphabet in lower case")
        })
        .encode(bytes)
}

fn is_base32_160(s: &str) -> bool {
    s.len() == 32 && s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

fn is_name(s: &str) -> bool {
    let b = s.as_bytes();
    let head = |c: &u8| matches!(c, b'a'..=b'z' | b'0'..=b'9');
    !b.is_empty()
        && b.len() <= 63
        && head(&b[0])
        && b[1..].iter().all(|c| head(c) || matches!(c, b'.' | b'_' | b'-'))
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(s) { Ok(Self(s.to_owned())) } else { Err(IdError { what: $what, rule: $rule }) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// An org: lower base32 of the first 20 bytes of SHA-256 over root version 1's PAE. Self-certifying.
    OrgId, "an org id", "32 characters of lower-case base32", is_base32_160
);
string_id!(
    /// A node: `n_` and 32 characters of base32, derived from org and identity key.
    NodeId, "a node id", "`n_` and 32 characters of lower-case base32",
    |s| s.strip_prefix("n_").is_some_and(is_base32_160)
);
string_id!(
    /// A job: `j_` and 32 characters of base32, derived from the signed bytes.
    JobId, "a job id", "`j_` and 32 characters of lower-case base32",
    |s| s.strip_prefix("j_").is_some_and(is_base32_160)
);
string_id!(
    /// A name for people: operators, groups, nodes, profiles.
    Name, "a name", "1 to 63 characters of a-z, 0-9, `.`, `_`, `-`, starting with a letter or digit", is_name
);

impl OrgId {
    /// The id of the org whose root version 1 has this digest.
    #[must_use]
    pub fn from_root(root_v1: &Digest) -> Self {
        Self(base32(&root_v1.0[..20]))
    }
}

impl JobId {
    /// The id of the job whose signed bytes have this digest.
    #[must_use]
    pub fn from_digest(job: &Digest) -> Self {
        Self(format!("j_{}", base32(&job.0[..20])))
    }
}

impl NodeId {
    /// The id of the machine that holds this identity key in this org (TRUST.md section 3).
    #[must_use]
    pub fn derive(org: &OrgId, identity_key: &[u8; 32]) -> Self {
        let mut h = Sha256::new();
        h.update(b"lictor-node-v1\0");
        h.update(org.as_str().as_bytes());
        h.update(identity_key);
        Self(format!("n_{}", base32(&h.finalize()[..20])))
    }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let err = IdError { what: $what, rule: $rule };
                let hex = s.strip_prefix($prefix).ok_or(err.clone())?;
                let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|_| err.clone())?;
                Ok(Self(bytes.try_into().map_err(|_| err)?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id!(
    /// SHA-256, written `sha256:<64 hex>`. Of a document: over its PAE, never over its envelope.
    Digest, "a digest", "sha256:", "`sha256:` and 64 lower-case hex digits"
);
hash_id!(
    /// SHA-256 over `lictor-key-v1` 00 alg 00 raw key, written as 64 hex digits.
    KeyId, "a key id", "", "64 lower-case hex digits"
);

impl Digest {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// The signature algorithms there are. It comes from the roster, never from a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// RFC 8032, verified with `verify_strict`.
    Ed25519,
}

/// A public key as documents carry it. Whether it is a *good* key is `lictor-trust`'s question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// What kind of key it is.
    pub alg: Algorithm,
    /// 32 raw bytes, standard base64 on the wire.
    #[serde(with = "crate::json::base64_32")]
    pub key: [u8; 32],
}

impl PublicKey {
    /// The Ed25519 key with these 32 raw bytes.
    #[must_use]
    pub fn ed25519(key: [u8; 32]) -> Self {
        Self {
            alg: Algorithm::Ed25519,
            key,
        }
    }

    /// The id everything refers to this key by.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let Algorithm::Ed25519 = self.alg;
        KeyId::of("ed25519", &self.key)
    }
}

impl KeyId {
    /// SHA-256(`"lictor-key-v1" 00 alg 00 raw key`).
    #[must_use]
    pub fn of(alg: &str, raw: &[u8]) -> Self {
        let mut h = Sha256::new();
        h.update(b"lictor-key-v1\0");
        h.update(alg.as_bytes());
        h.update([0]);
        h.update(raw);
        Self(h.finalize().into())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "web-1", "0", "a.b_c-d", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "é", &"x".repeat(64), "a\n"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_round_trip_and_refuse_other_kinds() {
        let d = Digest::of(b"x");
        assert_eq!(d.to_string().parse::<Digest>().ok(), Some(d));
        let j = JobId::from_digest(&d);
        assert_eq!(j.as_str().len(), 34);
        assert!(j.as_str().parse::<NodeId>().is_err());
        assert!(d.to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
