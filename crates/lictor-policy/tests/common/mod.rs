//! Bundles made from text, without signatures: policy never asks for any.
#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::collections::BTreeMap;

use lictor_policy::starter::{self, Founder};
use lictor_proto::doc::{Bundle, MinVersions, Role, Root, RootRoles};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Digest, OrgId, Timestamp};
use lictor_trust::{LawFiles, SecretKey};

/// A public line as the roster has it.
pub fn public_line(seed: u8) -> String {
    let key = SecretKey::from_seed(&[seed; 32]).public();
    format!(
        "lictor-ed25519 {} test-{seed}",
        lictor_proto::json::encode_base64(&key.key)
    )
}

pub fn root(seed: u8) -> Root {
    let key = |n: u8| -> PublicKey { SecretKey::from_seed(&[n; 32]).public() };
    let role = |n: u8| Role {
        keys: vec![key(n)],
        threshold: 1,
    };
    Root {
        tag: Default::default(),
        org: None,
        version: 1,
        name: "test".parse().expect("name"),
        roles: RootRoles {
            root: role(seed),
            bundle: role(seed + 1),
            freshness: Role {
                keys: Vec::new(),
                threshold: 0,
            },
            release: Role {
                keys: Vec::new(),
                threshold: 0,
            },
        },
        issued_at: Timestamp::from_millis(1_700_000_000_000),
        expires_at: Timestamp::from_millis(1_900_000_000_000),
    }
}

/// A bundle with these files.
pub fn bundle(org: OrgId, files: &BTreeMap<String, String>) -> Bundle {
    Bundle {
        tag: Default::default(),
        org,
        version: 7,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: Timestamp::from_millis(1_700_000_000_000),
        expires_at: Timestamp::from_millis(1_701_000_000_000),
        max_staleness: 604_800,
        files: files
            .iter()
            .filter(|(path, _)| !path.starts_with("tests/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        revocations: Vec::new(),
    }
}

/// The law of an org directory.
pub fn files_of(org: &BTreeMap<String, String>) -> LawFiles {
    let root = root(200);
    let bundle = bundle(OrgId::from_root(&Digest([1; 32])), org);
    LawFiles::load(&bundle, Digest([2; 32]), &root).expect("law files")
}

fn founded(make: fn(&Founder<'_>) -> BTreeMap<String, String>) -> BTreeMap<String, String> {
    make(&Founder {
        operator: &"alice".parse().expect("name"),
        public: &public_line(1),
        node: &"local".parse().expect("name"),
    })
}

pub fn full_files() -> BTreeMap<String, String> {
    founded(starter::full)
}

pub fn demo_files() -> BTreeMap<String, String> {
    founded(starter::demo)
}

/// Four people, one service, three groups: alice and bob lead, carol is in ops, dave is nothing, robo is a service
/// among the leads.
pub fn roster() -> String {
    let mut text = String::from("groups = [\"ops\", \"leads\", \"owners\"]\nbreak_glass = [\"owners\"]\n");
    for (n, (who, kind, groups)) in [
        ("alice", "person", "[\"ops\", \"leads\"]"),
        ("bob", "person", "[\"ops\", \"leads\"]"),
        ("carol", "person", "[\"ops\"]"),
        ("dave", "person", "[]"),
        ("erin", "person", "[\"ops\", \"owners\"]"),
        ("robo", "service", "[\"ops\", \"leads\"]"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = public_line(u8::try_from(n).expect("few") + 10);
        text.push_str(&format!(
            "[operators.{who}]\nkind = \"{kind}\"\ngroups = {groups}\n[[operators.{who}.keys]]\npublic = \"{line}\"\n"
        ));
    }
    text
}

/// An org with that roster, the starter's profiles, and these policies.
pub fn org_with(policies: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut org = full_files();
    org.retain(|path, _| !path.starts_with("policies/") && !path.starts_with("tests/"));
    org.insert("roster.toml".into(), roster());
    org.insert(
        "fleet.toml".into(),
        "[groups.web]\nlabels = { role = \"web\" }\n".into(),
    );
    for (name, text) in policies {
        org.insert(format!("policies/{name}.cedar"), (*text).to_owned());
    }
    org
}
