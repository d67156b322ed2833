//! The DSSE v1 envelope and its pre-authentication encoding (PAE).
//!
//! An envelope is a carrier: its base64 and its signatures are malleable, so nothing is ever hashed or
//! compared as an envelope. What counts is the PAE: payload type and payload bytes, unambiguous.
//! Source: <https://github.com/secure-systems-lab/dsse>, protocol.md.

use serde::{Deserialize, Deserializer, Serialize};

use crate::code::Code;
use crate::ids::{Digest, KeyId};
use crate::json::{self, JsonError};
use crate::limits;
use crate::webauthn::{Assertion, AssertionError};

/// A payload with signatures, none of them checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The media type of the payload; part of what is signed.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The exact bytes that were signed, base64 on the wire.
    #[serde(with = "json::base64_bytes")]
    pub payload: Vec<u8>,
    /// Who signed. Order means nothing.
    pub signatures: Vec<Signature>,
}

/// One signature over an envelope's PAE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// A hint which key it is; the verifier recomputes ids from keys that it trusts.
    pub keyid: KeyId,
    /// 64 bytes of Ed25519 signature over the PAE; a passkey's signature is over its assertion. base64 on the wire.
    #[serde(with = "json::base64_bytes")]
    pub sig: Vec<u8>,
    /// What a passkey signed instead of the PAE; left out for every other key.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub assertion: Option<Assertion>,
}

/// A field that is either left out or has a value; `null` is neither.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Assertion>, D::Error> {
    Assertion::deserialize(d).map(Some)
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// More bytes than any document may have.
    #[error("envelope of {0} bytes is over the limit of {1}")]
    TooLarge(usize, usize),
    /// Not strict JSON of the envelope's shape.
    #[error("malformed envelope")]
    Malformed(#[source] JsonError),
    /// A passkey's assertion that is longer than any.
    #[error("malformed assertion of a passkey")]
    Assertion(#[source] AssertionError),
    /// None, or more than 16.
    #[error("an envelope carries 1 to 16 signatures, this one {0}")]
    Signatures(usize),
}

impl EnvelopeError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge(..) | Self::Assertion(_) => Code::LimitExceeded,
            Self::Malformed(_) => Code::EnvelopeMalformed,
            Self::Signatures(_) => Code::SignatureCount,
        }
    }
}

impl Envelope {
    /// Reads an envelope of at most `limit` bytes.
    ///
    /// # Errors
    /// When it is too large, not strict JSON, or has no or too many signatures.
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Self, EnvelopeError> {
        let envelope = Self::parse_draft(bytes, limit)?;
        if envelope.signatures.is_empty() {
            return Err(EnvelopeError::Signatures(0));
        }
        Ok(envelope)
    }

    /// Reads an envelope that people still pass around to be signed: it may have no signature yet.
    ///
    /// # Errors
    /// When it is too large, not strict JSON, or has too many signatures.
    pub fn parse_draft(bytes: &[u8], limit: usize) -> Result<Self, EnvelopeError> {
        if bytes.len() > limit {
            return Err(EnvelopeError::TooLarge(bytes.len(), limit));
        }
        let envelope: Self = json::from_slice(bytes).map_err(EnvelopeError::Malformed)?;
        if envelope.signatures.len() > limits::SIGNATURES {
            return Err(EnvelopeError::Signatures(envelope.signatures.len()));
        }
        for assertion in envelope.signatures.iter().filter_map(|s| s.assertion.as_ref()) {
            assertion.check_size().map_err(EnvelopeError::Assertion)?;
        }
        Ok(envelope)
    }

    /// The envelope as JSON bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Two strings and a list of strings: cannot fail to serialise.
        json::to_vec(self).unwrap_or_default()
    }

    /// The bytes that the signatures are over.
    #[must_use]
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// SHA-256 of the PAE: the document's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.pae())
    }
}

/// `"DSSEv1" SP len(type) SP type SP len(payload) SP payload`, lengths in decimal.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pae_matches_the_published_example() {
        // protocol.md of DSSE v1: "http://example.com/HelloWorld", "hello world".
        let got = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(got, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_assertion_is_read_within_its_limits_and_is_never_null() {
        let read = |assertion: &str| {
            let signature = format!(r#"{{"keyid":"{}","sig":""{assertion}}}"#, "a".repeat(64));
            let text = format!(r#"{{"payloadType":"t","payload":"","signatures":[{signature}]}}"#);
            Envelope::parse(text.as_bytes(), 100_000)
        };
        let assertion = |data: usize, client: usize| {
            let (data, client) = (vec![0; data], vec![0; client]);
            let (data, client) = (json::encode_base64(&data), json::encode_base64(&client));
            format!(r#","assertion":{{"authenticator_data":"{data}","client_data":"{client}"}}"#)
        };
        let none = read("").expect("an ordinary signature");
        assert_eq!(none.signatures[0].assertion, None);
        assert!(!String::from_utf8_lossy(&none.to_bytes()).contains("assertion"));
        assert!(read(&assertion(37, 4096)).is_ok());
        for (data, client) in [(36, 10), (38, 10), (37, 4097)] {
            let refused = read(&assertion(data, client)).expect_err("over its limits");
            assert_eq!(refused.code(), Code::LimitExceeded, "{data}, {client}");
        }
        for malformed in [
            r#","assertion":null"#,
            r#","assertion":{}"#,
            r#","assertions":{}"#,
        ] {
            let refused = read(malformed).expect_err("malformed");
            assert_eq!(refused.code(), Code::EnvelopeMalformed, "{malformed}");
        }
    }

    #[test]
    fn refuses_unknown_fields_and_no_signatures() {
        let none = br#"{"payloadType":"t","payload":"","signatures":[]}"#;
        assert!(matches!(
            Envelope::parse(none, 1000),
            Err(EnvelopeError::Signatures(0))
        ));
        let extra = br#"{"payloadType":"t","payload":"","signatures":[],"x":1}"#;
        assert!(matches!(
            Envelope::parse(extra, 1000),
            Err(EnvelopeError::Malformed(_))
        ));
        assert!(Envelope::parse_draft(none, 1000).is_ok(), "not signed yet");
        assert!(Envelope::parse_draft(extra, 1000).is_err());
        assert!(matches!(
            Envelope::parse(none, 10),
            Err(EnvelopeError::TooLarge(..))
        ));
    }
}
