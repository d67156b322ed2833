//! The vectors of docs/protocol are what this code makes, and what it believes when it reads them.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Secret, Token};
use lictor_proto::envelope::pae;
use lictor_proto::ids::PublicKey;
use lictor_proto::json::{decode_base64, encode_base64};
use lictor_proto::{Digest, Envelope, JobId, NodeId, OrgId};
use lictor_trust::directory::Node;
use lictor_trust::keys::{PublicLine, VerifyKey};
use lictor_trust::{OrgTrust, SecretKey, seal};
use serde_json::Value;
use support::{now, vectors};

/// Files that nothing here can write: what was sealed came of randomness.
const FROZEN: [&str; 1] = ["secret.json"];

/// The files as they are committed.
fn committed() -> BTreeMap<String, Value> {
    let entries = std::fs::read_dir(vectors::directory()).unwrap();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (
            name,
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        )
    };
    entries.map(|e| read(e.unwrap().path())).collect()
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or_else(|| panic!("{field} of {v}"))
}

fn seed(base64: &str) -> SecretKey {
    SecretKey::from_seed(&decode_base64(base64).unwrap().try_into().unwrap())
}

#[test]
fn writing_them_again_gives_the_same_files() {
    let made = vectors::all();
    for (name, text) in &made {
        let held = std::fs::read_to_string(vectors::directory().join(name)).unwrap();
        assert_eq!(
            held, *text,
            "{name}: run `cargo run -p lictor-trust --example write_vectors`"
        );
    }
    assert_eq!(
        committed().len(),
        made.len() + FROZEN.len(),
        "no file that nothing writes"
    );
}

/// Sealed once by another implementation (RFC 9180 and RFC 8439 in Python, tried by the RFC's own vector A.2.1), with the
/// keys that it shows: what cannot open it can open no secret that is stored.
#[test]
fn a_secret_that_was_sealed_elsewhere_opens() {
    let files = committed();
    let v = &files["secret.json"];
    let payload = text(v, "payload");
    let secret: Secret = lictor_proto::doc::read(payload.as_bytes()).unwrap();
    assert_eq!(
        serde_json::to_string(&secret).unwrap(),
        payload,
        "as it would be signed"
    );
    let ciphertext = &secret.sealed.ciphertext;
    assert_eq!(Digest::of(ciphertext).to_string(), text(v, "ciphertext_digest"));
    let node: NodeId = text(v, "node_id").parse().unwrap();
    let opened = seal::open(&secret, &node, &seed(text(v, "seal_seed_base64"))).unwrap();
    assert_eq!(opened.as_slice(), text(v, "value").as_bytes());
}

#[test]
fn every_document_is_made_of_the_steps_that_its_vector_shows() {
    let documents = committed()
        .into_iter()
        .filter(|(_, v)| v.get("envelope").is_some());
    let mut kinds = Vec::new();
    for (name, v) in documents {
        let envelope = Envelope::parse(text(&v, "envelope").as_bytes(), 1 << 20).unwrap();
        assert_eq!(envelope.payload_type, text(&v, "payload_type"), "{name}");
        assert_eq!(envelope.payload, text(&v, "payload").as_bytes(), "{name}");
        let bytes = pae(text(&v, "payload_type"), text(&v, "payload").as_bytes());
        assert_eq!(encode_base64(&bytes), text(&v, "pae_base64"), "{name}");
        assert_eq!(Digest::of(&bytes).to_string(), text(&v, "digest"), "{name}");
        let seeds = v["seeds_base64"].as_array().unwrap();
        assert_eq!(seeds.len(), envelope.signatures.len(), "{name}");
        for (s, signature) in seeds.iter().zip(&envelope.signatures) {
            let secret = seed(s.as_str().unwrap());
            let public = VerifyKey::new(&secret.public()).unwrap();
            assert_eq!(signature.keyid, public.id(), "{name}");
            assert!(public.verifies(&bytes, &signature.sig), "{name}");
            assert_eq!(
                secret.sign(&bytes).to_vec(),
                signature.sig,
                "{name}: RFC 8032 is deterministic"
            );
        }
        kinds.push(text(&v, "kind").to_owned());
    }
    kinds.dedup();
    assert_eq!(kinds.len(), 13, "every kind that is built: {kinds:?}");
}

#[test]
fn keys_paes_and_ids_come_out_as_written() {
    let files = committed();
    for v in files["keys.json"].as_array().unwrap() {
        let secret = seed(text(v, "seed_base64"));
        assert_eq!(encode_base64(&secret.public().key), text(v, "public_base64"));
        assert_eq!(secret.id().to_string(), text(v, "key_id"));
        assert_eq!(
            text(v, "line").parse::<PublicLine>().unwrap().key,
            secret.public()
        );
        assert_eq!(
            encode_base64(&secret.x25519_public()),
            text(v, "x25519_public_base64")
        );
        assert_eq!(
            encode_base64(&secret.sign(b"lictor")),
            text(v, "signature_of_lictor_base64")
        );
    }
    for v in files["pae.json"].as_array().unwrap() {
        let bytes = pae(text(v, "payload_type"), text(v, "payload").as_bytes());
        assert_eq!(encode_base64(&bytes), text(v, "pae_base64"));
        assert_eq!(Digest::of(&bytes).to_string(), text(v, "digest"));
    }
    let ids = &files["ids.json"];
    let digest = |v: &Value, field: &str| text(v, field).parse::<Digest>().unwrap();
    let org = OrgId::from_root(&digest(&ids["org"], "root_1_digest"));
    assert_eq!(org.as_str(), text(&ids["org"], "id"));
    let key = decode_base64(text(&ids["node"], "identity_key_base64")).unwrap();
    let node = NodeId::derive(&org, &PublicKey::ed25519(key.try_into().unwrap()).key);
    assert_eq!(node.as_str(), text(&ids["node"], "id"));
    let job = JobId::from_digest(&digest(&ids["job"], "digest"));
    assert_eq!(job.as_str(), text(&ids["job"], "id"));
    let token = &files["token.json"];
    let read: Token = serde_json::from_value(token["token"].clone()).unwrap();
    assert_eq!(Token::decode(text(token, "text")).unwrap(), read);
}

/// Somebody who knows only the org id reads everything else from the files, and believes all of it.
#[test]
fn the_vectors_are_one_org_that_verifies_from_its_id_alone() {
    let files = committed();
    let wire = |name: &str| text(&files[name], "envelope").to_owned();
    let org: OrgId = text(&files["ids.json"]["org"], "id").parse().unwrap();
    let mut trust = OrgTrust::pin(&org, &wire("root-1.json")).unwrap();
    let docs = LawDocs {
        roots: vec![wire("root-1.json"), wire("root-2.json")],
        bundle: Some(wire("bundle.json")),
        freshness: Some(wire("freshness.json")),
        revocations: vec![wire("revocation.json")],
    };
    let report = trust.accept(&docs, now());
    assert!(report.refused.is_empty(), "{report:?}");
    trust.law(now()).unwrap();
    let node = Node::verify(&trust, &wire("grant.json"), &wire("node.json")).unwrap();
    let job = trust.verify_job(&wire("job.json"), now()).unwrap();
    job.check_node(node.id()).unwrap();
    let approval = trust.verify_approval(&wire("approval.json"), now()).unwrap();
    approval.check_for(&job).unwrap();
    let cancel = trust.verify_cancel(&wire("cancel.json"), now()).unwrap();
    cancel.check_for(&job.digest()).unwrap();
    let release = trust.verify_release(&wire("release.json"), now()).unwrap();
    release.check_for(&job.digest(), node.id()).unwrap();
    let remark = trust.verify_remark(&wire("remark.json"), now()).unwrap();
    remark.check_for(&job.digest()).unwrap();
    let ask = trust.verify_ask(&node.keys, &wire("ask.json")).unwrap();
    ask.check_for(&job.digest()).unwrap();
    let receipt = trust.verify_receipt(&node.keys, &wire("receipt.json")).unwrap();
    receipt.check_for(&job.digest()).unwrap();
    assert_eq!(receipt.bundle_digest, trust.bundle().unwrap().digest());
}
