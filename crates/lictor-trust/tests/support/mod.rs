//! One small org with fixed keys and times: everything the tests and the vectors are made of.
// Each test file uses its own part, and a failure here is a failed test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{
    Approval, ApprovalFacts, Ask, Bundle, Cancel, Document, Empty, Exec, Exit, Freshness, Grant, Job,
    JobKind, MinVersions, NodeKind, OpenGate, Outcome, Receipt, Release, Remark, Revocation, RevocationKind,
    RevocationSet, Role, Root, RootRoles, Says, Spec, Stdin, StreamSummary,
};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, Name, OrgId, Timestamp};
use lictor_trust::enrol::RecordOf;
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeDirectory, NodeKeys, NodeSecrets, OrgTrust, SecretKey, Verified, sign};

pub mod passkey;
pub mod vectors;

pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// 2026-01-01T00:00:00.000Z, when everything was signed, and so many milliseconds more.
pub fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + ms)
}

/// The moment at which documents are looked at: a minute after they were signed.
pub fn now() -> Timestamp {
    at(MINUTE)
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The key whose seed is this byte, 32 times.
pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Seeds of who is who.
pub mod seed {
    pub const ROOT: u8 = 1;
    pub const ROOT_2: u8 = 2;
    pub const ROOT_NEXT: u8 = 3;
    pub const BUNDLE: u8 = 4;
    pub const FRESHNESS: u8 = 5;
    pub const ALICE: u8 = 10;
    pub const ALICE_SECOND: u8 = 11;
    pub const BOB: u8 = 12;
    pub const ROBOT: u8 = 13;
    pub const STRANGER: u8 = 14;
    pub const RETIRED: u8 = 15;
    pub const JOIN: u8 = 20;
    pub const NODE: u8 = 30;
    pub const OTHER_NODE: u8 = 40;
    pub const PASSKEY: u8 = 50;
}

pub fn public_line(seed: u8) -> String {
    let line = PublicLine {
        key: key(seed).public(),
        comment: None,
    };
    line.to_string()
}

pub fn roster_toml() -> String {
    format!(
        r#"groups = ["admins", "leads"]
break_glass = ["leads"]

[operators.alice]
kind = "person"
groups = ["admins"]
rights = ["revoke"]
keys = [{{ public = "{}" }}, {{ public = "{}" }}]

[operators.bob]
kind = "person"
groups = ["leads"]
keys = [{{ public = "{}" }}]

[operators.robot]
kind = "service"
keys = [{{ public = "{}" }}]

[operators.retired]
kind = "person"
groups = ["admins"]
keys = [{{ public = "{}", expires_at = "2026-01-01T00:00:30.000Z" }}]
"#,
        public_line(seed::ALICE),
        public_line(seed::ALICE_SECOND),
        public_line(seed::BOB),
        public_line(seed::ROBOT),
        public_line(seed::RETIRED),
    )
}

pub const FLEET_TOML: &str = r#"max_job_validity = "12h"

[groups.web]
labels = { role = "web" }

[groups.special]
names = ["web-1"]

[enrollers.admins]
labels = { role = ["web", "db"], site = "any" }
names = ["web-1", "web-2"]
"#;

pub const PROFILES_TOML: &str = r#"[profiles.host]
backend = "host"
network = "host"
"#;

pub const POLICY: &str = "@id(\"all\") permit(principal, action, resource);\n";

pub fn role(seeds: &[u8], threshold: u32) -> Role {
    Role {
        keys: seeds.iter().map(|s| key(*s).public()).collect(),
        threshold,
    }
}

pub fn root_v1() -> Root {
    Root {
        tag: Default::default(),
        org: None,
        version: 1,
        name: name("example"),
        roles: RootRoles {
            root: role(&[seed::ROOT, seed::ROOT_2], 2),
            bundle: role(&[seed::BUNDLE], 1),
            freshness: role(&[], 0),
            release: role(&[], 0),
        },
        issued_at: at(0),
        expires_at: at(365 * DAY),
    }
}

pub fn bundle(org: &OrgId) -> Bundle {
    let files = [
        ("roster.toml", roster_toml()),
        ("fleet.toml", FLEET_TOML.to_owned()),
        ("profiles.toml", PROFILES_TOML.to_owned()),
        ("policies/all.cedar", POLICY.to_owned()),
    ];
    Bundle {
        tag: Default::default(),
        org: org.clone(),
        version: 1,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: at(0),
        expires_at: at(30 * DAY),
        max_staleness: 7 * DAY / 1000,
        files: files.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        revocations: Vec::new(),
    }
}

/// The signed text of a document.
pub fn wire<T: Document>(doc: &T, seeds: &[u8]) -> String {
    let keys: Vec<SecretKey> = seeds.iter().map(|s| key(*s)).collect();
    to_wire(&sign(doc, &keys.iter().collect::<Vec<_>>()))
}

/// An org, a party that trusts it, and one node.
pub struct World {
    pub org: OrgId,
    pub root: Root,
    pub trust: OrgTrust,
    pub secrets: NodeSecrets,
}

impl Default for World {
    fn default() -> Self {
        Self::with_root(root_v1())
    }
}

impl World {
    pub fn with_root(root: Root) -> Self {
        let envelope = sign(&root, &[&key(seed::ROOT), &key(seed::ROOT_2)]);
        let org = OrgId::from_root(&envelope.digest());
        let mut trust = OrgTrust::pin(&org, &to_wire(&envelope)).unwrap();
        let report = trust.accept(&law_docs(&bundle(&org)), now());
        assert!(
            report.refused.is_empty() && report.unloadable.is_none(),
            "{report:?}"
        );
        Self {
            org,
            root,
            trust,
            secrets: secrets(seed::NODE),
        }
    }

    /// An org that makes freshness statements.
    pub fn with_freshness() -> Self {
        let mut root = root_v1();
        root.roles.freshness = role(&[seed::FRESHNESS], 1);
        Self::with_root(root)
    }

    pub fn accept_bundle(&mut self, bundle: &Bundle) -> lictor_trust::AcceptReport {
        self.trust.accept(&law_docs(bundle), now())
    }

    pub fn bundle(&self) -> Bundle {
        bundle(&self.org)
    }

    pub fn root_v2(&self) -> Root {
        Root {
            org: Some(self.org.clone()),
            version: 2,
            issued_at: at(1),
            ..self.root.clone()
        }
    }

    pub fn freshness(&self) -> Freshness {
        Freshness {
            tag: Default::default(),
            org: self.org.clone(),
            root_version: 1,
            bundle_version: 1,
            bundle_digest: self.trust.bundle().unwrap().digest(),
            revocations: RevocationSet::of([]),
            issued_at: at(0),
            expires_at: at(30 * DAY),
        }
    }

    pub fn revocation(&self, kind: RevocationKind, target: &str) -> Revocation {
        Revocation {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name("alice"),
            kind,
            target: target.to_owned(),
            reason: "lost".into(),
            issued_at: at(0),
        }
    }

    pub fn revoke(&mut self, kind: RevocationKind, target: &str) {
        let docs = LawDocs {
            revocations: vec![wire(&self.revocation(kind, target), &[seed::ALICE])],
            ..LawDocs::default()
        };
        let report = self.trust.accept(&docs, now());
        assert_eq!(report.revocations.len(), 1, "{report:?}");
    }

    pub fn grant(&self) -> Grant {
        Grant {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name("alice"),
            join_key: key(seed::JOIN).public(),
            name: Some(name("web-1")),
            name_prefix: None,
            kind: NodeKind::Server,
            labels: BTreeMap::from([(name("role"), name("web"))]),
            max_uses: 1,
            issued_at: at(0),
            expires_at: at(HOUR),
            replaces: None,
        }
    }

    pub fn verified_grant(&self) -> Verified<Grant> {
        self.trust
            .verify_grant(&wire(&self.grant(), &[seed::ALICE]))
            .unwrap()
    }

    pub fn record(&self, grant: Digest, node: &str, secrets: &NodeSecrets) -> String {
        let node = name(node);
        let of = RecordOf {
            org: &self.org,
            grant,
            name: &node,
            epoch: 1,
            issued_at: at(1),
        };
        to_wire(&secrets.record(&of, &key(seed::JOIN)))
    }

    pub fn node(&self) -> NodeKeys {
        let grant = self.verified_grant();
        let record = self.record(grant.digest(), "web-1", &self.secrets);
        NodeKeys::of(&self.trust.verify_node(&grant, &record).unwrap()).unwrap()
    }

    pub fn directory(&self, pairs: &[(String, String)]) -> NodeDirectory {
        NodeDirectory::build(&self.trust, pairs.iter().map(|(g, r)| (g.as_str(), r.as_str())))
    }

    pub fn job(&self) -> Job {
        Job {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name("alice"),
            nonce: vec![7; 16],
            nodes: vec![self.secrets.node_id(&self.org)],
            kind: JobKind::Exec,
            spec: Spec::Exec(Exec::new(vec!["uptime".into()])),
            profile: name("host"),
            stdin: Stdin::NONE,
            secrets: Vec::new(),
            after: Vec::new(),
            expect: Default::default(),
            output_to: Empty,
            reason: "is it up?".into(),
            retry_of: None,
            min_bundle: 1,
            issued_at: at(0),
            not_before: at(0),
            expires_at: at(5 * MINUTE),
            origin: Default::default(),
        }
    }

    pub fn job_digest(&self) -> Digest {
        sign(&self.job(), &[]).digest()
    }

    pub fn approval(&self) -> Approval {
        Approval {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: self.job_digest(),
            approver: name("bob"),
            facts: vec![ApprovalFacts {
                node_id: self.secrets.node_id(&self.org),
                facts_digest: Digest::of(b"{}"),
            }],
            min_bundle: 1,
            issued_at: at(0),
            expires_at: at(HOUR),
        }
    }

    pub fn cancel(&self) -> Cancel {
        Cancel {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: self.job_digest(),
            operator: name("alice"),
            reason: "enough".into(),
            nodes: Vec::new(),
            min_bundle: 1,
            issued_at: at(0),
            expires_at: at(HOUR),
        }
    }

    pub fn release(&self) -> Release {
        Release {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: self.job_digest(),
            operator: name("alice"),
            nodes: vec![self.secrets.node_id(&self.org)],
            min_bundle: 1,
            issued_at: at(0),
            expires_at: at(HOUR),
        }
    }

    pub fn remark(&self) -> Remark {
        Remark {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: self.job_digest(),
            operator: name("alice"),
            says: Says::Rejected,
            receipts: Vec::new(),
            reason: "not on a Friday".into(),
            issued_at: at(0),
        }
    }

    pub fn ask(&self) -> Ask {
        Ask {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: self.job_digest(),
            node_id: self.secrets.node_id(&self.org),
            bundle_version: 1,
            facts: "{}".into(),
            facts_digest: Digest::of(b"{}"),
            gates: vec![OpenGate {
                policy_id: "two-leads".into(),
                n: 2,
                group: name("leads"),
                release: false,
            }],
            issued_at: at(0),
        }
    }

    pub fn receipt(&self) -> Receipt {
        Receipt {
            tag: Default::default(),
            org: self.org.clone(),
            node_id: self.secrets.node_id(&self.org),
            job_digest: self.job_digest(),
            fired: None,
            outcome: Outcome::Succeeded,
            code: None,
            message: String::new(),
            bundle_version: 1,
            bundle_digest: self.trust.bundle().unwrap().digest(),
            policy_ids: vec!["all".into()],
            approvals: Vec::new(),
            break_glass: false,
            facts_digest: Some(Digest::of(b"{}")),
            profile: name("host"),
            backend: None,
            plan_digest: Some(Digest::of(b"plan")),
            started_at: Some(at(2)),
            finished_at: at(3),
            exit: Some(Exit::Status(0)),
            limits_hit: Vec::new(),
            usage: None,
            stdout: StreamSummary::empty(),
            stderr: StreamSummary::empty(),
            egress: None,
            sandbox: None,
            artifacts: Vec::new(),
            node_seq: 1,
            prev: None,
            audit_head: Digest::of(b""),
            agent_version: "0.1.0".into(),
        }
    }
}

/// Four keys from consecutive seeds.
pub fn secrets(first: u8) -> NodeSecrets {
    NodeSecrets {
        identity: key(first),
        e2e: key(first + 1),
        seal: key(first + 2),
        link: key(first + 3),
    }
}

pub fn law_docs(bundle: &Bundle) -> LawDocs {
    LawDocs {
        bundle: Some(wire(bundle, &[seed::BUNDLE])),
        ..LawDocs::default()
    }
}

/// A public key that is on the curve and of small order.
pub fn weak_key() -> PublicKey {
    let mut identity = [0; 32];
    identity[0] = 1;
    PublicKey::ed25519(identity)
}

/// Asserts that something was refused, and with which code.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, lictor_proto::code::Refusal>, code: Code) {
    match result {
        Ok(doc) => panic!("{what}: expected {code}, and it passed: {doc:?}"),
        Err(refusal) => assert_eq!(refusal.code, code, "{what}: {refusal}"),
    }
}
