//! Ed25519 keys: secret ones that are wiped when dropped, public ones that have been looked at.
//!
//! # Invariants
//! - A [`VerifyKey`] is on the curve, canonically encoded and not of small order; nothing is ever verified with
//!   a key that has not become one.
//! - Verification is `verify_strict` (RFC 8032 with the checks that make a signature belong to one key only).

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use lictor_proto::code::Refusal;
use lictor_proto::ids::{Algorithm, PublicKey};
use lictor_proto::{Code, KeyId};
use zeroize::Zeroizing;

/// A secret signing key. Its memory is wiped when it is dropped; it is never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// Not a point of the curve, another encoding of one, or of small order.
    #[error("the public key {0} is weak: of small order, not canonical, or not on the curve")]
    Weak(KeyId),
    /// Not a public key line.
    #[error("a public key is written `lictor-ed25519 BASE64 [NAME]`")]
    Line,
}

impl From<KeyError> for Refusal {
    fn from(e: KeyError) -> Self {
        let code = match e {
            KeyError::Random(_) => Code::Internal,
            KeyError::Weak(_) => Code::WeakKey,
            KeyError::Line => Code::DocumentInvalid,
        };
        Self::new(code, e.to_string())
    }
}

impl SecretKey {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(KeyError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key that this seed (RFC 8032 private key) stands for.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, wiped when dropped.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::ed25519(self.0.verifying_key().to_bytes())
    }

    /// The public half as an X25519 key (RFC 7748), for a key that is made for sealing only.
    #[must_use]
    pub fn x25519_public(&self) -> [u8; 32] {
        self.0.verifying_key().to_montgomery().to_bytes()
    }

    /// The secret half of that X25519 key, wiped when dropped.
    pub(crate) fn x25519_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    /// The public half's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.public().id()
    }

    /// 64 bytes of signature over `message`. Documents are signed with [`crate::sign()`], which adds the PAE.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    pub(crate) fn from_signing_key(key: SigningKey) -> Self {
        Self(key)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id())
    }
}

/// A public key that has been found good.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyKey {
    public: PublicKey,
    id: KeyId,
    key: VerifyingKey,
}

impl VerifyKey {
    /// Looks at a public key.
    ///
    /// # Errors
    /// When it is no point of the curve, not its canonical encoding, or of small order.
    pub fn new(public: &PublicKey) -> Result<Self, KeyError> {
        let Algorithm::Ed25519 = public.alg;
        let id = public.id();
        let key = VerifyingKey::from_bytes(&public.key).map_err(|_| KeyError::Weak(id))?;
        // A second encoding of the same point would be a second key id for the same holder.
        let canonical = key.to_edwards().compress().to_bytes() == public.key;
        if key.is_weak() || !canonical {
            return Err(KeyError::Weak(id));
        }
        Ok(Self {
            public: *public,
            id,
            key,
        })
    }

    /// The key as documents carry it.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Its id, computed here.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` is this key's over `message`, strictly.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| self.key.verify_strict(message, &s).is_ok())
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({})", self.id)
    }
}

/// Whether an X25519 public key leads to a shared secret that anybody knows: u of a point of small order (RFC 7748
/// section 6.1), in any encoding.
#[must_use]
pub fn is_weak_x25519(public: &[u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ];
    let mut u = *public;
    u[31] &= 0x7f; // the top bit is ignored by everybody
    let small = u[0] <= 1 && u[1..].iter().all(|b| *b == 0);
    // p - 1, p and p + 1.
    let near_p = matches!(u[0], 0xec..=0xee) && u[31] == 0x7f && u[1..31].iter().all(|b| *b == 0xff);
    small || near_p || ORDER_8.contains(&u)
}

const LINE_PREFIX: &str = "lictor-ed25519";

/// A public key as one line of text, `lictor-ed25519 BASE64 [NAME]`: what is exported and what the roster holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicLine {
    /// The key.
    pub key: PublicKey,
    /// A word for people; binds nothing.
    pub comment: Option<String>,
}

impl fmt::Display for PublicLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = lictor_proto::json::encode_base64(&self.key.key);
        write!(f, "{LINE_PREFIX} {base64}")?;
        self.comment.as_ref().map_or(Ok(()), |c| write!(f, " {c}"))
    }
}

impl FromStr for PublicLine {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        let mut words = line.trim().split(' ');
        let (prefix, base64, comment) = (words.next(), words.next(), words.next());
        let too_many = words.next().is_some();
        let printable = comment.is_none_or(|c| !c.is_empty() && c.len() <= 63 && c.is_ascii());
        if prefix != Some(LINE_PREFIX) || too_many || !printable {
            return Err(KeyError::Line);
        }
        let key = base64
            .and_then(lictor_proto::json::decode_base64)
            .and_then(|b| b.try_into().ok())
            .ok_or(KeyError::Line)?;
        Ok(Self {
            key: PublicKey::ed25519(key),
            comment: comment.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_weak_and_non_canonical_keys_where_a_good_one_passes() {
        let good = SecretKey::from_seed(&[7; 32]).public();
        assert!(VerifyKey::new(&good).is_ok());
        let mut identity = [0; 32];
        identity[0] = 1;
        // y = p + 1: the identity once more, in a second encoding.
        let mut second_identity = [0xff; 32];
        second_identity[0] = 0xee;
        second_identity[31] = 0x7f;
        // y = p + 3 encodes the point with y = 3 a second time.
        let mut second_encoding = second_identity;
        second_encoding[0] = 0xf0;
        for bad in [[0; 32], identity, second_identity, second_encoding, [2; 32]] {
            assert!(
                matches!(VerifyKey::new(&PublicKey::ed25519(bad)), Err(KeyError::Weak(_))),
                "{bad:02x?}"
            );
        }
    }

    #[test]
    fn signatures_hold_for_one_message_and_one_key() {
        let secret = SecretKey::from_seed(&[1; 32]);
        let key = VerifyKey::new(&secret.public()).unwrap();
        let sig = secret.sign(b"m");
        assert!(key.verifies(b"m", &sig));
        assert!(!key.verifies(b"n", &sig));
        assert!(!key.verifies(b"m", &sig[..63]));
        let other = VerifyKey::new(&SecretKey::from_seed(&[2; 32]).public()).unwrap();
        assert!(!other.verifies(b"m", &sig));
    }

    #[test]
    fn small_order_points_are_weak_for_sealing_too() {
        assert!(!is_weak_x25519(&SecretKey::from_seed(&[7; 32]).x25519_public()));
        // y of all points of small order: orders 1, 2, 4 and the two pairs of order 8 (RFC 8032 encoding).
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let mut one = [0; 32];
        one[0] = 1;
        let eight = [
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        ];
        let eight = eight.map(|h| {
            data_encoding::HEXLOWER
                .decode(h.as_bytes())
                .unwrap()
                .try_into()
                .unwrap()
        });
        for y in [one, minus_one, [0; 32], eight[0], eight[1]] {
            let point = VerifyingKey::from_bytes(&y).unwrap();
            assert!(point.is_weak());
            assert!(is_weak_x25519(&point.to_montgomery().to_bytes()), "{y:02x?}");
        }
        let mut p = minus_one;
        p[0] = 0xed;
        assert!(is_weak_x25519(&p), "zero in its second encoding");
    }

    #[test]
    fn public_lines_round_trip_and_refuse_anything_else() {
        let line = PublicLine {
            key: SecretKey::from_seed(&[1; 32]).public(),
            comment: Some("laptop".into()),
        };
        let text = line.to_string();
        assert_eq!(text.parse::<PublicLine>().unwrap(), line);
        for bad in [
            "",
            "lictor-ed25519",
            "ssh-ed25519 AAAA",
            &format!("{text} more"),
            "lictor-ed25519 AAAA x",
        ] {
            assert!(bad.parse::<PublicLine>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secret_keys_are_not_printed() {
        let text = format!("{:?}", SecretKey::from_seed(&[9; 32]));
        assert!(!text.contains("0909") && !text.contains("9, 9"));
    }
}
