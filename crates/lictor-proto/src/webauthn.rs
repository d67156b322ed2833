//! What a passkey signs, as types with limits. `lictor-trust` verifies it, in approvals; whoever meets an assertion
//! elsewhere refuses it with [`Code::AssertionUnsupported`](crate::Code::AssertionUnsupported).
//!
//! A passkey never signs an envelope's PAE. It signs `authenticator data || SHA-256(client data)`, and the client data
//! names a challenge, which here is SHA-256(PAE), nothing random: the assertion is bound to the document and to
//! nothing that a hub keeps. Sources: WebAuthn level 2, sections 5.8.1 (client data) and 6.1 (authenticator data).
//!
//! # Invariants
//! - Authenticator data is exactly its fixed head: attested credentials and extensions are refused.
//! - A challenge is 32 bytes in unpadded base64url.

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::Digest;
use crate::json::{self, JsonError, base64_bytes};
use crate::limits;

/// What a passkey signed besides the challenge; stands beside its signature in an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// Read by [`AuthenticatorData::parse`].
    #[serde(with = "base64_bytes")]
    pub authenticator_data: Vec<u8>,
    /// The exact bytes of the client data, which are JSON; read by [`ClientData::parse`].
    #[serde(with = "base64_bytes")]
    pub client_data: Vec<u8>,
}

/// Why bytes are no assertion.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    /// Not the fixed head and nothing else.
    #[error("authenticator data of {0} bytes; without extensions it has 37")]
    AuthenticatorData(usize),
    /// More than any browser writes.
    #[error("client data of {0} bytes is over the limit of 4096")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("malformed client data")]
    ClientData(#[source] JsonError),
}

impl Assertion {
    /// Refuses what is larger than any assertion; reads nothing.
    ///
    /// # Errors
    /// [`AssertionError::AuthenticatorData`], [`AssertionError::TooLarge`].
    pub fn check_size(&self) -> Result<(), AssertionError> {
        if self.authenticator_data.len() != limits::AUTHENTICATOR_DATA {
            return Err(AssertionError::AuthenticatorData(self.authenticator_data.len()));
        }
        if self.client_data.len() > limits::CLIENT_DATA {
            return Err(AssertionError::TooLarge(self.client_data.len()));
        }
        Ok(())
    }
}

/// What the authenticator says: for which site, and whether somebody was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatorData {
    /// SHA-256 of the relying party's id, a domain.
    pub rp_id_hash: [u8; 32],
    /// Somebody touched it.
    pub user_present: bool,
    /// It made sure who.
    pub user_verified: bool,
    /// Its count of signatures; many authenticators leave it at 0.
    pub sign_count: u32,
}

const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 1 << 2;
const ATTESTED_CREDENTIAL: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;

impl AuthenticatorData {
    /// Reads the 37 bytes.
    ///
    /// # Errors
    /// [`AssertionError::AuthenticatorData`], also when the flags announce more than there is.
    pub fn parse(bytes: &[u8]) -> Result<Self, AssertionError> {
        let wrong = || AssertionError::AuthenticatorData(bytes.len());
        let (rp_id_hash, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let ([flags], rest) = rest.split_first_chunk().ok_or_else(wrong)?;
        let count: [u8; 4] = rest.try_into().map_err(|_| wrong())?;
        if flags & (ATTESTED_CREDENTIAL | EXTENSIONS) != 0 {
            return Err(wrong());
        }
        Ok(Self {
            rp_id_hash: *rp_id_hash,
            user_present: flags & USER_PRESENT != 0,
            user_verified: flags & USER_VERIFIED != 0,
            sign_count: u32::from_be_bytes(count),
        })
    }
}

/// What the browser says. It may say more: the specification lets it add fields, and forbids nothing but repeats.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClientData {
    /// `webauthn.get` in an assertion.
    #[serde(rename = "type")]
    pub kind: String,
    /// SHA-256 of the document's PAE: its digest.
    #[serde(deserialize_with = "challenge")]
    pub challenge: Digest,
    /// The page that asked, as `https://HOST[:PORT]`.
    pub origin: String,
    /// Whether that page was inside one of another origin.
    #[serde(rename = "crossOrigin", default)]
    pub cross_origin: bool,
}

impl ClientData {
    /// Reads client data.
    ///
    /// # Errors
    /// [`AssertionError::TooLarge`], [`AssertionError::ClientData`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AssertionError> {
        if bytes.len() > limits::CLIENT_DATA {
            return Err(AssertionError::TooLarge(bytes.len()));
        }
        json::from_slice(bytes).map_err(AssertionError::ClientData)
    }
}

/// The challenge that a passkey is given for a document.
#[must_use]
pub fn challenge_of(document: &Digest) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&document.0)
}

fn challenge<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(d)?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes
        .and_then(|b| b.try_into().ok())
        .map(Digest)
        .ok_or_else(|| serde::de::Error::custom("a challenge is 32 bytes in base64url without padding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator_data(flags: u8) -> Vec<u8> {
        [&[7; 32][..], &[flags], &[0, 0, 1, 2]].concat()
    }

    #[test]
    fn authenticator_data_is_its_head_and_nothing_else() {
        let data = AuthenticatorData::parse(&authenticator_data(5)).expect("present and verified");
        assert_eq!(
            (
                data.rp_id_hash,
                data.user_present,
                data.user_verified,
                data.sign_count
            ),
            ([7; 32], true, true, 258)
        );
        assert!(
            !AuthenticatorData::parse(&authenticator_data(1))
                .expect("read")
                .user_verified
        );
        let longer = [authenticator_data(5), vec![0]].concat();
        for bad in [&[][..], &authenticator_data(5)[..36], &longer] {
            assert!(AuthenticatorData::parse(bad).is_err(), "{} bytes", bad.len());
        }
        for announced in [ATTESTED_CREDENTIAL, EXTENSIONS] {
            assert!(AuthenticatorData::parse(&authenticator_data(announced)).is_err());
        }
    }

    #[test]
    fn client_data_may_say_more_but_nothing_twice() {
        let digest = Digest::of(b"pae");
        let challenge = challenge_of(&digest);
        let read = |more: &str| {
            let text = format!(
                r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"https://hub.example"{more}}}"#
            );
            ClientData::parse(text.as_bytes())
        };
        let plain = read("").expect("read");
        assert_eq!((plain.challenge, plain.cross_origin), (digest, false));
        assert!(read(r#","crossOrigin":true"#).expect("read").cross_origin);
        assert!(read(r#","other_keys_can_be_added_here":1"#).is_ok());
        assert!(read(r#","origin":"https://other.example""#).is_err());
        assert!(read(&format!(r#","x":"{}""#, "x".repeat(5000))).is_err());
        for bad in ["", "AAAA", &format!("{challenge}=")] {
            let text = format!(r#"{{"type":"webauthn.get","challenge":"{bad}","origin":"o"}}"#);
            assert!(ClientData::parse(text.as_bytes()).is_err(), "{bad}");
        }
    }
}
