//! The known-answer vectors: one file per kind of document, from fixed seeds and times.

use lictor_proto::doc::{Document, MinVersions, Receipt, RevocationKind, RevocationSet, Root, Token};
use lictor_proto::envelope::{Envelope, pae};
use lictor_proto::webauthn::challenge_of;
use lictor_proto::{Digest, JobId, NodeId, json};
use lictor_trust::sign;
use serde_json::{Value, json};

use super::{World, key, name, passkey, public_line, secrets, seed};

/// Where the files lie.
pub fn directory() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol/vectors")
}

/// Every file: name and text.
pub fn all() -> Vec<(&'static str, String)> {
    let mut w = World::with_freshness();
    let grant = w.grant();
    let revocation = w.revocation(RevocationKind::Operator, "robot");
    let revoked = sign(&revocation, &[]).digest();
    let root_v2 = Root {
        name: name("example-2"),
        ..w.root_v2()
    };
    let freshness = lictor_proto::doc::Freshness {
        root_version: 2,
        revocations: RevocationSet::of([revoked]),
        ..w.freshness()
    };
    w.secrets = secrets(seed::NODE);
    let record = record(&w, sign(&grant, &[]).digest());
    let bundle = lictor_proto::doc::Bundle {
        min_versions: MinVersions {
            agent: Some("0.1.0".into()),
        },
        revocations: vec![revoked],
        ..w.bundle()
    };
    let root_keys = [seed::ROOT, seed::ROOT_2];
    let freshness = lictor_proto::doc::Freshness {
        bundle_digest: sign(&bundle, &[]).digest(),
        ..freshness
    };
    let receipt = Receipt {
        bundle_digest: sign(&bundle, &[]).digest(),
        ..w.receipt()
    };
    let files = [
        ("keys.json", keys()),
        ("pae.json", paes()),
        ("ids.json", ids(&w)),
        ("token.json", token(&w, sign(&grant, &[]).digest())),
        ("root-1.json", vector(&w.root, &root_keys)),
        ("root-2.json", vector(&root_v2, &root_keys)),
        ("bundle.json", vector(&bundle, &[seed::BUNDLE])),
        ("freshness.json", vector(&freshness, &[seed::FRESHNESS])),
        ("revocation.json", vector(&revocation, &[seed::ALICE])),
        ("grant.json", vector(&grant, &[seed::ALICE])),
        ("node.json", vector(&record, &[seed::NODE, seed::JOIN])),
        ("job.json", vector(&w.job(), &[seed::ALICE])),
        ("approval.json", vector(&w.approval(), &[seed::BOB])),
        ("cancel.json", vector(&w.cancel(), &[seed::ALICE])),
        ("release.json", vector(&w.release(), &[seed::ALICE])),
        ("remark.json", vector(&w.remark(), &[seed::ALICE])),
        ("ask.json", vector(&w.ask(), &[seed::NODE])),
        ("receipt.json", vector(&receipt, &[seed::NODE])),
        ("assertion.json", assertion(&w)),
    ];
    let text = |v: &Value| format!("{}\n", serde_json::to_string_pretty(&sorted(v)).unwrap());
    files.iter().map(|(n, v)| (*n, text(v))).collect()
}

fn record(w: &World, grant: Digest) -> lictor_proto::doc::NodeRecord {
    let text = w.record(grant, "web-1", &w.secrets);
    let envelope = Envelope::parse(text.as_bytes(), text.len()).unwrap();
    json::from_slice(&envelope.payload).unwrap()
}

/// A signed document, step by step.
fn vector<T: Document>(doc: &T, seeds: &[u8]) -> Value {
    let keys: Vec<_> = seeds.iter().map(|s| key(*s)).collect();
    let envelope = sign(doc, &keys.iter().collect::<Vec<_>>());
    json!({
        "kind": T::KIND.as_str(),
        "payload_type": envelope.payload_type,
        "payload": String::from_utf8(envelope.payload.clone()).unwrap(),
        "pae_base64": json::encode_base64(&envelope.pae()),
        "digest": envelope.digest(),
        "seeds_base64": keys.iter().map(|k| json::encode_base64(k.seed().as_slice())).collect::<Vec<_>>(),
        "envelope": String::from_utf8(envelope.to_bytes()).unwrap(),
    })
}

/// An approval that a passkey signed, and what the roster says of it.
fn assertion(w: &World) -> Value {
    let envelope = passkey::envelope(&w.approval(), seed::PASSKEY, &passkey::Words::default());
    let assertion = envelope.signatures[0].assertion.as_ref().unwrap();
    json!({
        "seed_base64": json::encode_base64(&[seed::PASSKEY; 32]),
        "line": passkey::line(seed::PASSKEY),
        "origin": passkey::ORIGIN,
        "rp_id": passkey::RP_ID,
        "key_id": passkey::id(seed::PASSKEY),
        "digest": envelope.digest(),
        "challenge": challenge_of(&envelope.digest()),
        "client_data": String::from_utf8(assertion.client_data.clone()).unwrap(),
        "authenticator_data_base64": json::encode_base64(&assertion.authenticator_data),
        "assertion_envelope": String::from_utf8(envelope.to_bytes()).unwrap(),
    })
}

fn keys() -> Value {
    let one = |seed: u8| {
        let k = key(seed);
        json!({
            "seed_base64": json::encode_base64(k.seed().as_slice()),
            "public_base64": json::encode_base64(&k.public().key),
            "key_id": k.id(),
            "line": public_line(seed),
            "x25519_public_base64": json::encode_base64(&k.x25519_public()),
            "signature_of_lictor_base64": json::encode_base64(&k.sign(b"lictor")),
        })
    };
    json!([seed::ROOT, seed::ALICE, seed::NODE].map(one))
}

fn paes() -> Value {
    let one = |(kind, payload): (&str, &str)| {
        let bytes = pae(kind, payload.as_bytes());
        json!({
            "payload_type": kind,
            "payload": payload,
            "pae_base64": json::encode_base64(&bytes),
            "digest": Digest::of(&bytes),
        })
    };
    json!(
        [
            ("http://example.com/HelloWorld", "hello world"),
            ("", ""),
            ("application/vnd.lictor.job.v1+json", "{}"),
            ("t", "é"),
        ]
        .map(one)
    )
}

fn ids(w: &World) -> Value {
    let node_key = w.secrets.identity.public();
    let job = w.job_digest();
    json!({
        "org": { "root_1_digest": sign(&w.root, &[]).digest(), "id": w.org },
        "node": {
            "org": w.org,
            "identity_key_base64": json::encode_base64(&node_key.key),
            "id": NodeId::derive(&w.org, &node_key.key),
        },
        "job": { "digest": job, "id": JobId::from_digest(&job) },
        "revocation_sets": [
            { "digests": [], "set": RevocationSet::of([]) },
            {
                "digests": [Digest::of(b"b"), Digest::of(b"a"), Digest::of(b"b")],
                "set": RevocationSet::of([Digest::of(b"a"), Digest::of(b"b")]),
            },
        ],
    })
}

fn token(w: &World, grant_digest: Digest) -> Value {
    let token = Token {
        hub_url: "https://hub.example:8443".into(),
        hub_spki: Digest::of(b"not a key"),
        org_id: w.org.clone(),
        min_root: 1,
        min_bundle: 1,
        grant_digest,
        join_seed: [seed::JOIN; 32],
    };
    json!({ "token": token, "text": token.encode() })
}

/// The same with keys in order: whether serde_json keeps them by itself depends on features that others switch on.
fn sorted(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            keys.into_iter().map(|k| (k.clone(), sorted(&map[k]))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
