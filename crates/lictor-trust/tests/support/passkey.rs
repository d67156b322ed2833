//! A passkey in software: a key, and the words that an authenticator and a browser put around a challenge.

use lictor_proto::doc::Approval;
use lictor_proto::webauthn::{Assertion, challenge_of};
use lictor_proto::{Digest, Envelope, KeyId, json};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

pub const ORIGIN: &str = "https://hub.example";
pub const RP_ID: &str = "hub.example";

/// What the words around a challenge are; the default is what holds.
#[derive(Clone)]
pub struct Words {
    pub kind: &'static str,
    pub origin: &'static str,
    pub rp_id: &'static str,
    /// Of the authenticator: 1 for somebody being there, 4 for having made sure who.
    pub flags: u8,
    /// More fields of the client data.
    pub more: &'static str,
    pub challenge: Option<Digest>,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            kind: "webauthn.get",
            origin: ORIGIN,
            rp_id: RP_ID,
            flags: 5,
            more: r#","crossOrigin":false"#,
            challenge: None,
        }
    }
}

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn point(seed: u8) -> Vec<u8> {
    secret(seed)
        .verifying_key()
        .to_sec1_point(true)
        .as_bytes()
        .to_vec()
}

/// The line of the roster.
pub fn line(seed: u8) -> String {
    format!("lictor-es256 {} phone", json::encode_base64(&point(seed)))
}

pub fn id(seed: u8) -> KeyId {
    KeyId::of("es256", &point(seed))
}

/// The approval as this passkey signs it.
pub fn envelope(approval: &Approval, seed: u8, words: &Words) -> Envelope {
    let mut envelope = sign(approval, &[&super::key(seed)]);
    let challenge = challenge_of(&words.challenge.unwrap_or_else(|| envelope.digest()));
    let (kind, origin, more) = (words.kind, words.origin, words.more);
    let client_data = format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{origin}"{more}}}"#);
    let rp = Digest::of(words.rp_id.as_bytes()).0;
    // Flags, and a count that stays 0.
    let authenticator_data = [rp.as_slice(), &[words.flags, 0, 0, 0, 0]].concat();
    let signed = [
        authenticator_data.as_slice(),
        &Digest::of(client_data.as_bytes()).0,
    ]
    .concat();
    let signature: Signature = secret(seed).sign(&signed);
    envelope.signatures[0].keyid = id(seed);
    envelope.signatures[0].sig = signature.to_der().as_bytes().to_vec();
    envelope.signatures[0].assertion = Some(Assertion {
        authenticator_data,
        client_data: client_data.into_bytes(),
    });
    envelope
}

pub fn wire(approval: &Approval, seed: u8, words: &Words) -> String {
    to_wire(&envelope(approval, seed, words))
}
