//! Erin's passkey, in software: a key, and the words that a browser and an authenticator put around a challenge. Outside of
//! the attacks, too: what it signs goes through the real hub to the real agent.

use lictor_proto::doc::Approval;
use lictor_proto::envelope::Signature;
use lictor_proto::webauthn::{Assertion, challenge_of};
use lictor_proto::{Digest, KeyId, json};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

/// The page that erin's roster entry names.
pub const ORIGIN: &str = "https://hub.example";
const RP_ID: &str = "hub.example";

/// The lines of the roster for it.
#[must_use]
pub fn roster() -> String {
    let line = json::encode_base64(&point());
    format!(
        "[[operators.erin.keys]]\npublic = \"lictor-es256 {line}\"\norigin = \"{ORIGIN}\"\nrp_id = \"{RP_ID}\"\napproves = true\n"
    )
}

fn secret() -> SigningKey {
    SigningKey::from_slice(&Digest::of(b"erin's passkey").0).expect("a scalar below the order of P-256")
}

fn point() -> Vec<u8> {
    secret().verifying_key().to_sec1_point(true).as_bytes().to_vec()
}

/// What it signs when a page of `origin` asks it to approve.
#[must_use]
pub fn signature(approval: &Approval, origin: &str) -> Signature {
    let challenge = challenge_of(&sign(approval, &[]).digest());
    let client_data = format!(r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"{origin}"}}"#);
    // For this rp id; present and verified; the count stays 0.
    let authenticator_data = [&Digest::of(RP_ID.as_bytes()).0[..], &[5, 0, 0, 0, 0]].concat();
    let client_hash = Digest::of(client_data.as_bytes()).0;
    let signed = [&authenticator_data[..], &client_hash].concat();
    let signature: p256::ecdsa::Signature = secret().sign(&signed);
    Signature {
        keyid: KeyId::of("es256", &point()),
        sig: signature.to_der().as_bytes().to_vec(),
        assertion: Some(Assertion {
            authenticator_data,
            client_data: client_data.into_bytes(),
        }),
    }
}

/// An approval under which this signature stands.
#[must_use]
pub fn wire(approval: &Approval, signature: Signature) -> String {
    let mut envelope = sign(approval, &[]);
    envelope.signatures = vec![signature];
    to_wire(&envelope)
}
