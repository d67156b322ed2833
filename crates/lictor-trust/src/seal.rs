//! Values sealed to nodes: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
//!
//! ```text
//! value --length, padding--> plaintext --seal(seal_key, info = org, node, name, version, operator)--> enc, ciphertext
//! ```
//!
//! # Invariants
//! - What one operator sealed for one org, node, name and version opens as nothing else, and in nobody else's document:
//!   whoever signs another one around it gets no value, and policy's `set_by` is who sealed it.
//! - A ciphertext says how long its value is only to the next multiple of [`PAD`].

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{PAD, SealedFor, Secret};
use lictor_proto::{Code, Name, NodeId, OrgId, limits};
use zeroize::{Zeroize as _, Zeroizing};

use crate::keys::SecretKey;

/// What every `info` begins with.
const DOMAIN: &[u8] = b"lictor-secret-v1";
/// Of the length before a value.
const LENGTH: usize = 4;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

/// What a sealed value is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The org.
    pub org: &'a OrgId,
    /// The secret's name.
    pub name: &'a Name,
    /// Its version.
    pub version: u64,
    /// Who sets it, and so signs the document.
    pub operator: &'a Name,
}

impl<'a> Bound<'a> {
    /// What a document says that its values are bound to.
    #[must_use]
    pub fn of(secret: &'a Secret) -> Self {
        Self {
            org: &secret.org,
            name: &secret.name,
            version: secret.version,
            operator: &secret.operator,
        }
    }

    /// `lictor-secret-v1 00 org 00 node_id 00 name 00 version 00 operator`; none of these words holds a zero byte.
    fn info(&self, node: &NodeId) -> Vec<u8> {
        let version = self.version.to_string();
        let words = [
            self.org.as_str(),
            node.as_str(),
            self.name.as_str(),
            &version,
            self.operator.as_str(),
        ];
        let mut info = DOMAIN.to_vec();
        for word in words {
            info.push(0);
            info.extend_from_slice(word.as_bytes());
        }
        info
    }
}

/// Seals a value to a node.
///
/// # Errors
/// [`Code::LimitExceeded`] for a value that is too short or too long, [`Code::WeakKey`] for a key that nothing can be
/// sealed to, [`Code::Internal`] without randomness.
pub fn seal(
    value: &[u8],
    bound: Bound<'_>,
    (node, seal_key): (&NodeId, &[u8; 32]),
) -> Result<SealedFor, Refusal> {
    check_length(value)?;
    let weak = || {
        Refusal::new(
            Code::WeakKey,
            format!("nothing can be sealed to the key of {node}"),
        )
    };
    let key = PublicKey::from_bytes(seal_key).map_err(|_| weak())?;
    let plaintext = padded(value);
    let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        &bound.info(node),
        &plaintext,
        b"",
    );
    let (enc, ciphertext) = sealed.map_err(|_| weak())?;
    Ok(SealedFor {
        node_id: node.clone(),
        enc: enc.to_bytes().into(),
        ciphertext,
    })
}

/// Opens what was sealed to this key.
///
/// # Errors
/// [`Code::SecretUnreadable`].
pub fn open(sealed: &SealedFor, bound: Bound<'_>, key: &SecretKey) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let unreadable = || {
        let text = format!("secret {} version {}", bound.name, bound.version);
        Refusal::new(
            Code::SecretUnreadable,
            format!("{text}: what was sealed to this node does not open with its key"),
        )
    };
    let scalar = key.x25519_secret();
    let private = PrivateKey::from_bytes(scalar.as_slice()).map_err(|_| unreadable())?;
    let enc = Encapped::from_bytes(&sealed.enc).map_err(|_| unreadable())?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &enc,
        &bound.info(&sealed.node_id),
        &sealed.ciphertext,
        b"",
    );
    let mut plaintext = Zeroizing::new(opened.map_err(|_| unreadable())?);
    let value = unpadded(&plaintext).map(|v| Zeroizing::new(v.to_vec()));
    plaintext.zeroize();
    value.ok_or_else(unreadable)
}

/// Refuses a value that nothing could be done with.
///
/// # Errors
/// [`Code::LimitExceeded`].
pub fn check_length(value: &[u8]) -> Result<(), Refusal> {
    let seen = value.trim_ascii().len();
    if seen < limits::SECRET_LEAST {
        let text = format!(
            "a secret has at least {} bytes besides white space: a shorter one could not be told from other output, \
             and so not be taken out of it",
            limits::SECRET_LEAST
        );
        return Err(Refusal::new(Code::LimitExceeded, text));
    }
    if value.len() > limits::SECRET {
        let text = format!("a secret has at most {} bytes", limits::SECRET);
        return Err(Refusal::new(Code::LimitExceeded, text));
    }
    Ok(())
}

fn padded(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let whole = (LENGTH + value.len()).next_multiple_of(PAD);
    // All of it at once: a list that grows leaves copies behind.
    let mut plaintext = Zeroizing::new(vec![0; whole]);
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    plaintext[..LENGTH].copy_from_slice(&length.to_be_bytes());
    plaintext[LENGTH..LENGTH + value.len()].copy_from_slice(value);
    plaintext
}

fn unpadded(plaintext: &[u8]) -> Option<&[u8]> {
    let (length, rest) = plaintext.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let value = rest.get(..length)?;
    let padding = rest.get(length..)?;
    let is_ours =
        plaintext.len() == (LENGTH + length).next_multiple_of(PAD) && padding.iter().all(|b| *b == 0);
    (is_ours && check_length(value).is_ok()).then_some(value)
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use lictor_proto::Digest;

    use super::*;

    const VALUE: &[u8] = b"correct horse";

    struct Case {
        org: OrgId,
        node: NodeId,
        name: Name,
        operator: Name,
        key: SecretKey,
    }

    fn case() -> Case {
        let org = OrgId::from_root(&Digest::of(b"root"));
        Case {
            node: NodeId::derive(&org, &[7; 32]),
            org,
            name: "db".parse().expect("a name"),
            operator: "alice".parse().expect("a name"),
            key: SecretKey::from_seed(&[9; 32]),
        }
    }

    impl Case {
        fn bound(&self, version: u64) -> Bound<'_> {
            Bound {
                org: &self.org,
                name: &self.name,
                version,
                operator: &self.operator,
            }
        }

        fn sealed(&self) -> SealedFor {
            let to = (&self.node, &self.key.x25519_public());
            seal(VALUE, self.bound(3), to).expect("sealed")
        }
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_and_the_words_that_it_was_sealed_for() {
        let case = case();
        let sealed = case.sealed();
        let opened = open(&sealed, case.bound(3), &case.key).expect("opens");
        assert_eq!(opened.as_slice(), VALUE);
    }

    #[test]
    fn info_is_the_words_of_the_protocol() {
        let case = case();
        let (org, node) = (case.org.as_str(), case.node.as_str());
        let words = ["lictor-secret-v1", org, node, "db", "3", "alice"].join("\0");
        assert_eq!(case.bound(3).info(&case.node), words.as_bytes());
    }

    #[test]
    fn it_opens_for_no_other_key_org_node_name_version_or_operator_and_not_changed() {
        let case = case();
        let sealed = case.sealed();
        let refused = |sealed: &SealedFor, bound: Bound<'_>, key: &SecretKey| {
            let refusal = open(sealed, bound, key).expect_err("must not open");
            assert_eq!(refusal.code, Code::SecretUnreadable);
            assert!(!refusal.message.contains("horse"));
        };
        refused(&sealed, case.bound(3), &SecretKey::from_seed(&[8; 32]));
        refused(&sealed, case.bound(2), &case.key);
        let (org, name) = (
            OrgId::from_root(&Digest::of(b"other")),
            "d".parse().expect("a name"),
        );
        let other_org = Bound {
            org: &org,
            ..case.bound(3)
        };
        refused(&sealed, other_org, &case.key);
        let other_name = Bound {
            name: &name,
            ..case.bound(3)
        };
        refused(&sealed, other_name, &case.key);
        let operator = "mallory".parse().expect("a name");
        let other_operator = Bound {
            operator: &operator,
            ..case.bound(3)
        };
        refused(&sealed, other_operator, &case.key);
        let mut other_node = sealed.clone();
        other_node.node_id = NodeId::derive(&case.org, &[6; 32]);
        refused(&other_node, case.bound(3), &case.key);
        for at in 0..sealed.ciphertext.len() {
            let mut changed = sealed.clone();
            changed.ciphertext[at] ^= 1;
            refused(&changed, case.bound(3), &case.key);
        }
        let mut changed = sealed.clone();
        changed.enc[0] ^= 1;
        refused(&changed, case.bound(3), &case.key);
        let mut cut = sealed;
        cut.ciphertext.pop();
        refused(&cut, case.bound(3), &case.key);
    }

    #[test]
    fn a_ciphertext_hides_the_length_of_its_value_and_is_never_the_same() {
        let case = case();
        let to = (&case.node, &case.key.x25519_public());
        let short = seal(b"12345678", case.bound(1), to).expect("sealed");
        let longer = seal(&[b'x'; 60], case.bound(1), to).expect("sealed");
        assert_eq!(short.ciphertext.len(), longer.ciphertext.len());
        assert_ne!(case.sealed(), case.sealed());
    }

    #[test]
    fn values_that_could_not_be_taken_out_of_output_are_refused() {
        let case = case();
        let to = (&case.node, &case.key.x25519_public());
        for bad in [
            &b"1234567"[..],
            b"",
            b"  1234567\n\n",
            &[b'x'; limits::SECRET + 1],
        ] {
            let refusal = seal(bad, case.bound(1), to).expect_err("must not be sealed");
            assert_eq!(refusal.code, Code::LimitExceeded);
        }
        assert!(seal(&[b'x'; limits::SECRET], case.bound(1), to).is_ok());
        let weak = seal(VALUE, case.bound(1), (&case.node, &[0; 32])).expect_err("weak");
        assert_eq!(weak.code, Code::WeakKey);
    }
}
