//! Making signatures: document in, envelope out.

use lictor_proto::doc::Document;
use lictor_proto::envelope::{Envelope, Signature};
use lictor_proto::json;

use crate::keys::SecretKey;

/// Signs a document with one key or several. The payload is written once; every key signs the same bytes.
#[must_use]
pub fn sign<T: Document>(doc: &T, keys: &[&SecretKey]) -> Envelope {
    // Documents are structs with string-keyed maps, which always serialise; an empty payload would verify nowhere.
    let payload = json::to_vec(doc).unwrap_or_default();
    sign_payload(T::KIND.payload_type(), payload, keys)
}

/// Signs payload bytes as they are. For test vectors, and for hubs that lie on purpose.
#[must_use]
pub fn sign_payload(payload_type: String, payload: Vec<u8>, keys: &[&SecretKey]) -> Envelope {
    let mut envelope = Envelope {
        payload_type,
        payload,
        signatures: Vec::with_capacity(keys.len()),
    };
    for key in keys {
        cosign(&mut envelope, key);
    }
    envelope
}

/// Adds one more signature over the same bytes, for roles that take several people.
pub fn cosign(envelope: &mut Envelope, key: &SecretKey) {
    let id = key.id();
    envelope.signatures.retain(|s| s.keyid != id);
    envelope.signatures.push(Signature {
        keyid: id,
        sig: key.sign(&envelope.pae()).to_vec(),
        assertion: None,
    });
}

/// The envelope as the text that travels.
#[must_use]
pub fn to_wire(envelope: &Envelope) -> String {
    // JSON is UTF-8 by definition.
    String::from_utf8(envelope.to_bytes()).unwrap_or_default()
}
