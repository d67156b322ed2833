//! Values sealed to nodes: encrypted once, by a key of their own that is sealed to each node.
//!
//! ```text
//! value --length, padding--> plaintext --ChaCha20-Poly1305(key, aad = org, name, version, operator)--> ciphertext
//! key   --HPKE(seal_key of a node, info = org, node, name, version, operator; aad = SHA-256(ciphertext))--> enc, key of that node
//! ```
//!
//! HPKE (RFC 9180) is in base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! # Invariants
//! - What one operator sealed for one org, node, name and version opens as nothing else, and in nobody else's document:
//!   whoever signs another one around it gets no value, and policy's `set_by` is who sealed it.
//! - A key encrypts one value, ever, so its nonce is nought; and what is sealed of it opens beside that ciphertext alone.
//! - A ciphertext says how long its value is only to the next multiple of [`PAD`].

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305 as Cipher, Key, KeyInit as _, Nonce};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{PAD, Sealed, SealedKey, Secret};
use lictor_proto::{Code, Digest, Name, NodeId, OrgId, limits};
use zeroize::Zeroizing;

use crate::keys::SecretKey;

/// What every `info` begins with.
const OF_KEYS: &str = "lictor-secret-v2";
/// What the associated data of every value begins with.
const OF_VALUES: &str = "lictor-secret-value-v2";
/// Of the length before a value.
const LENGTH: usize = 4;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;
/// What encrypts one value.
type ContentKey = Zeroizing<[u8; 32]>;

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

    /// `lictor-secret-v2 00 org 00 node_id 00 name 00 version 00 operator`.
    fn info(&self, node: &NodeId) -> Vec<u8> {
        let version = self.version.to_string();
        let [org, name, operator] = [self.org.as_str(), self.name.as_str(), self.operator.as_str()];
        words([OF_KEYS, org, node.as_str(), name, &version, operator])
    }

    /// `lictor-secret-value-v2 00 org 00 name 00 version 00 operator`.
    fn associated(&self) -> Vec<u8> {
        let version = self.version.to_string();
        let [org, name, operator] = [self.org.as_str(), self.name.as_str(), self.operator.as_str()];
        words([OF_VALUES, org, name, &version, operator])
    }

    fn unreadable(&self) -> Refusal {
        let text = format!(
            "what was sealed to this node as version {} does not open with its key",
            self.version
        );
        Refusal::new(Code::SecretUnreadable, text)
    }
}

/// With a zero byte between them, which none of them holds.
fn words<const N: usize>(words: [&str; N]) -> Vec<u8> {
    words.join("\0").into_bytes()
}

/// Seals a value to each of these nodes, by their `seal_key`s.
///
/// # Errors
/// [`Code::LimitExceeded`] for a value that is too short or too long, [`Code::WeakKey`] for a key that nothing can be
/// sealed to, [`Code::Internal`] without randomness.
pub fn seal<'n>(
    value: &[u8],
    bound: Bound<'_>,
    nodes: impl IntoIterator<Item = (&'n NodeId, &'n [u8; 32])>,
) -> Result<Sealed, Refusal> {
    check_length(value)?;
    let mut key = ContentKey::default();
    getrandom::fill(&mut *key).map_err(|e| Refusal::new(Code::Internal, format!("no randomness: {e}")))?;
    let plaintext = padded(value);
    let payload = Payload {
        msg: &plaintext,
        aad: &bound.associated(),
    };
    let ciphertext = cipher(&key).encrypt(&Nonce::default(), payload);
    let ciphertext = ciphertext.map_err(|_| Refusal::new(Code::Internal, "the value cannot be encrypted"))?;
    let beside = Digest::of(&ciphertext);
    let each = nodes.into_iter().map(|to| seal_key(&key, bound, &beside, to));
    let mut keys = each.collect::<Result<Vec<_>, _>>()?;
    keys.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    keys.dedup_by(|a, b| a.node_id == b.node_id);
    Ok(Sealed { ciphertext, keys })
}

fn seal_key(
    key: &ContentKey,
    bound: Bound<'_>,
    beside: &Digest,
    (node, to): (&NodeId, &[u8; 32]),
) -> Result<SealedKey, Refusal> {
    let weak = || {
        let text = format!("nothing can be sealed to the key of {node}");
        Refusal::new(Code::WeakKey, text)
    };
    let public = PublicKey::from_bytes(to).map_err(|_| weak())?;
    let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &bound.info(node),
        key.as_slice(),
        &beside.0,
    );
    let (enc, key) = sealed.map_err(|_| weak())?;
    Ok(SealedKey {
        node_id: node.clone(),
        enc: enc.to_bytes().into(),
        key,
    })
}

/// Opens a document with the secret half of this node's `seal_key`.
///
/// # Errors
/// [`Code::SecretNotForNode`] when it is not sealed to the node, [`Code::SecretUnreadable`].
pub fn open(secret: &Secret, node: &NodeId, key: &SecretKey) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let bound = Bound::of(secret);
    let sealed = secret.sealed_for(node).ok_or(Code::SecretNotForNode)?;
    let ciphertext = &secret.sealed.ciphertext;
    let content = open_key(sealed, bound, &Digest::of(ciphertext), key).ok_or_else(|| bound.unreadable())?;
    let payload = Payload {
        msg: ciphertext,
        aad: &bound.associated(),
    };
    let opened = cipher(&content).decrypt(&Nonce::default(), payload);
    let plaintext = Zeroizing::new(opened.map_err(|_| bound.unreadable())?);
    let value = unpadded(&plaintext).map(|v| Zeroizing::new(v.to_vec()));
    value.ok_or_else(|| bound.unreadable())
}

fn open_key(sealed: &SealedKey, bound: Bound<'_>, beside: &Digest, key: &SecretKey) -> Option<ContentKey> {
    let private = PrivateKey::from_bytes(key.x25519_secret().as_slice()).ok()?;
    let enc = Encapped::from_bytes(&sealed.enc).ok()?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &enc,
        &bound.info(&sealed.node_id),
        &sealed.key,
        &beside.0,
    );
    let opened = Zeroizing::new(opened.ok()?);
    Some(Zeroizing::new(opened.as_slice().try_into().ok()?))
}

fn cipher(key: &ContentKey) -> Cipher {
    Cipher::new(<&Key>::from(&**key))
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
    use lictor_proto::doc::{DocKind, Document as _};
    use lictor_proto::{Envelope, Timestamp};

    use super::*;
    use crate::sign::{sign, to_wire};

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
        fn bound(&self) -> Bound<'_> {
            Bound {
                org: &self.org,
                name: &self.name,
                version: 3,
                operator: &self.operator,
            }
        }

        fn sealed_to(&self, to: &[(NodeId, [u8; 32])], value: &[u8]) -> Result<Secret, Refusal> {
            Ok(Secret {
                tag: Default::default(),
                org: self.org.clone(),
                operator: self.operator.clone(),
                name: self.name.clone(),
                version: 3,
                sealed: seal(value, self.bound(), to.iter().map(|(id, key)| (id, key)))?,
                issued_at: Timestamp::now(),
            })
        }

        fn to(&self) -> (NodeId, [u8; 32]) {
            (self.node.clone(), self.key.x25519_public())
        }

        fn sealed(&self) -> Secret {
            self.sealed_to(&[self.to()], VALUE).expect("sealed")
        }
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_and_the_words_that_it_was_sealed_for() {
        let case = case();
        let opened = open(&case.sealed(), &case.node, &case.key).expect("opens");
        assert_eq!(opened.as_slice(), VALUE);
    }

    #[test]
    fn info_and_associated_data_are_the_words_of_the_protocol() {
        let case = case();
        let (org, node) = (case.org.as_str(), case.node.as_str());
        let words = ["lictor-secret-v2", org, node, "db", "3", "alice"].join("\0");
        assert_eq!(case.bound().info(&case.node), words.as_bytes());
        let words = ["lictor-secret-value-v2", org, "db", "3", "alice"].join("\0");
        assert_eq!(case.bound().associated(), words.as_bytes());
    }

    #[test]
    fn a_value_of_4_kib_for_500_nodes_is_one_document_of_which_each_opens_its_own_part() {
        let case = case();
        let value = [b'v'; 4096];
        let key = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let mut seed = [high; 32];
            seed[0] = low;
            SecretKey::from_seed(&seed)
        };
        let node = |n: u16| NodeId::derive(&case.org, &key(n).public().key);
        let to: Vec<_> = (0..500).map(|n| (node(n), key(n).x25519_public())).collect();
        let secret = case.sealed_to(&to, &value).expect("sealed");
        assert_eq!(secret.validate(), Ok(()));
        let wire = to_wire(&sign(&secret, &[&case.key]));
        assert!(wire.len() < 160 * 1024, "{} bytes", wire.len());
        assert!(Envelope::parse(wire.as_bytes(), DocKind::Secret.limit()).is_ok());
        for n in 0..500 {
            let opened = open(&secret, &node(n), &key(n)).expect("opens");
            assert_eq!(opened.as_slice(), value);
        }
        let not_its_own = open(&secret, &node(0), &key(1)).expect_err("must not open");
        assert_eq!(not_its_own.code, Code::SecretUnreadable);
        let nobody = open(&secret, &case.node, &case.key).expect_err("must not open");
        assert_eq!(nobody.code, Code::SecretNotForNode);
    }

    #[test]
    fn it_opens_for_no_other_key_org_node_name_version_or_operator_and_not_changed() {
        let case = case();
        let sealed = case.sealed();
        let other_node = NodeId::derive(&case.org, &[6; 32]);
        let refused = |change: &dyn Fn(&mut Secret), key: &SecretKey| {
            let mut secret = sealed.clone();
            change(&mut secret);
            let node = secret.sealed.keys[0].node_id.clone();
            let refusal = open(&secret, &node, key).expect_err("must not open");
            assert_eq!(refusal.code, Code::SecretUnreadable);
            assert!(!refusal.message.contains("horse"));
        };
        refused(&|_| {}, &SecretKey::from_seed(&[8; 32]));
        refused(&|s| s.version = 2, &case.key);
        refused(&|s| s.org = OrgId::from_root(&Digest::of(b"other")), &case.key);
        refused(&|s| s.name = "d".parse().expect("a name"), &case.key);
        refused(&|s| s.operator = "mallory".parse().expect("a name"), &case.key);
        refused(&|s| s.sealed.keys[0].node_id = other_node.clone(), &case.key);
        for at in 0..sealed.sealed.ciphertext.len() {
            refused(&|s| s.sealed.ciphertext[at] ^= 1, &case.key);
        }
        for at in 0..sealed.sealed.keys[0].key.len() {
            refused(&|s| s.sealed.keys[0].key[at] ^= 1, &case.key);
        }
        refused(&|s| s.sealed.keys[0].enc[0] ^= 1, &case.key);
        refused(&|s| s.sealed.ciphertext.truncate(64), &case.key);
        // Of the same words and the same value: a key opens beside its own ciphertext alone.
        let again = case.sealed();
        refused(
            &|s| s.sealed.ciphertext.clone_from(&again.sealed.ciphertext),
            &case.key,
        );
        refused(&|s| s.sealed.keys.clone_from(&again.sealed.keys), &case.key);
    }

    /// Whatever is put beside it here opens by its key and with its words; only what was sealed of the key says no.
    #[test]
    fn whoever_has_the_key_of_a_value_puts_no_other_value_beside_it_and_gives_it_no_other_words() {
        let case = case();
        let sealed = case.sealed();
        let bound = case.bound();
        let Sealed { ciphertext, keys } = &sealed.sealed;
        let key = open_key(&keys[0], bound, &Digest::of(ciphertext), &case.key).expect("its key");
        let (msg, aad) = (padded(b"battery staple"), bound.associated());
        let payload = Payload { msg: &msg, aad: &aad };
        let other = cipher(&key)
            .encrypt(&Nonce::default(), payload)
            .expect("encrypted");
        let payload = Payload {
            msg: &other,
            aad: &aad,
        };
        assert!(cipher(&key).decrypt(&Nonce::default(), payload).is_ok());
        let mut swapped = sealed.clone();
        swapped.sealed.ciphertext = other;
        let refusal = open(&swapped, &case.node, &case.key).expect_err("must not open");
        assert_eq!(refusal.code, Code::SecretUnreadable);
        // The key sealed anew as another version's, beside the old ciphertext: that says of which version it is.
        let mut newer = sealed.clone();
        newer.version = 4;
        let (node, public) = case.to();
        let beside = Digest::of(ciphertext);
        let anew = seal_key(&key, Bound::of(&newer), &beside, (&node, &public)).expect("sealed");
        assert!(open_key(&anew, Bound::of(&newer), &beside, &case.key).is_some());
        newer.sealed.keys = vec![anew];
        let refusal = open(&newer, &case.node, &case.key).expect_err("must not open");
        assert_eq!(refusal.code, Code::SecretUnreadable);
    }

    #[test]
    fn a_ciphertext_hides_the_length_of_its_value_and_is_never_the_same() {
        let case = case();
        let short = case.sealed_to(&[case.to()], b"12345678").expect("sealed");
        let longer = case.sealed_to(&[case.to()], &[b'x'; 60]).expect("sealed");
        assert_eq!(short.sealed.ciphertext.len(), longer.sealed.ciphertext.len());
        let (one, other) = (case.sealed().sealed, case.sealed().sealed);
        assert_ne!(one.ciphertext, other.ciphertext);
        assert_ne!(one.keys[0].enc, other.keys[0].enc);
    }

    #[test]
    fn values_that_could_not_be_taken_out_of_output_are_refused() {
        let case = case();
        for bad in [
            &b"1234567"[..],
            b"",
            b"  1234567\n\n",
            &[b'x'; limits::SECRET + 1],
        ] {
            let refusal = case.sealed_to(&[case.to()], bad).expect_err("must not be sealed");
            assert_eq!(refusal.code, Code::LimitExceeded);
        }
        assert!(case.sealed_to(&[case.to()], &[b'x'; limits::SECRET]).is_ok());
        let weak = case.sealed_to(&[(case.node.clone(), [0; 32])], VALUE);
        assert_eq!(weak.expect_err("weak").code, Code::WeakKey);
    }
}
