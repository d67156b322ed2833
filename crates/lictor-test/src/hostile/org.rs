//! An org and everybody's keys: what the hub must never have, held by the scene so that it can also be honest.
//!
//! The law is the shipped demo's, with more people in the roster and rules for each of them, so that every attack
//! has somebody to impersonate.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lictor_policy::starter::{self, Founder};
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{
    Approval, Bundle, Cancel, Document, Empty, Exec, Freshness, Grant, Job, JobKind, MinVersions, NodeKind,
    Release, Remark, Revocation, RevocationKind, RevocationSet, Role, Root, RootRoles, Says, Spec, Stdin,
    Token,
};
use lictor_proto::{Digest, Envelope, Name, NodeId, OrgId, Timestamp, limits};
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;
use lictor_trust::{OrgTrust, SecretKey, sign};

use super::passkey;

/// The name that the node is enrolled under.
pub const NODE: &str = "web-1";
/// Some minutes.
pub const MINUTE: Duration = Duration::from_secs(60);
/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// How old a freshness statement may get in this org.
pub const MAX_STALENESS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Rules for the people of [`people`]; the founder's are in the demo law.
const RULES: &str = r#"
@id("work")
permit (principal, action in [Action::"exec", Action::"shell", Action::"shell_opaque"], resource);

@id("cancel-own")
permit (principal, action == Action::"cancel", resource) when { context.requester == principal };

@id("mallory-never")
forbid (principal == Operator::"mallory", action, resource);

@id("carol-needs-two-leads") @approvals("2") @approvers("leads")
forbid (principal == Operator::"carol", action in [Action::"exec", Action::"shell", Action::"shell_opaque"], resource);

@id("dave-is-held-to-the-facts") @approvals("1") @approvers("leads") @binds("facts")
forbid (principal == Operator::"dave", action in [Action::"exec", Action::"shell", Action::"shell_opaque"], resource);
"#;

/// A profile that keeps next to nothing of a job's output, and one that keeps workspaces.
const NARROW: &str = r#"
[profiles.narrow]
backend = "host"
run_as = "agent"
network = "host"
limits = { keep = "4KiB" }

[profiles.fetches]
backend = "host"
run_as = "agent"
network = "host"
fetch_from = { mode = "allowlist", allow = ["dl.example.org:443"] }

[profiles.keeps]
backend = "host"
run_as = "agent"
network = "host"
persist = {}
"#;

/// Operator, kind, groups, and how many keys. The founder, alice, comes with the demo's own roster.
fn people() -> [(&'static str, &'static str, &'static str, u8); 6] {
    [
        ("bob", "person", "\"ops\", \"leads\"", 2),
        ("carol", "person", "\"ops\", \"leads\"", 1),
        ("dave", "person", "\"ops\"", 1),
        ("erin", "person", "\"leads\"", 1),
        ("robot", "service", "\"leads\"", 1),
        ("mallory", "person", "", 1),
    ]
}

/// A name that is known to be one.
///
/// # Panics
/// When it isn't.
#[must_use]
pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The key of this label; the same label is the same key in every org.
#[must_use]
pub fn key(label: &str) -> SecretKey {
    SecretKey::from_seed(&Digest::of(label.as_bytes()).0)
}

/// A document signed by these keys, as it travels.
#[must_use]
pub fn signed<T: Document>(doc: &T, keys: &[&str]) -> String {
    let keys: Vec<SecretKey> = keys.iter().map(|k| key(k)).collect();
    to_wire(&sign(doc, &keys.iter().collect::<Vec<_>>()))
}

/// The digest of a signed document.
///
/// # Errors
/// When it is none.
pub fn digest(wire: &str) -> Result<Digest> {
    let envelope = Envelope::parse(wire.as_bytes(), limits::BUNDLE_ENVELOPE)?;
    Ok(envelope.digest())
}

/// An org, as those see it who hold its keys.
#[derive(Debug, Clone)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    roots: Vec<String>,
    bundle: Bundle,
    bundle_wire: String,
    revocations: Vec<String>,
    now: Timestamp,
}

impl Org {
    /// An org of this name with root 1, bundle 1 and a fresh statement.
    ///
    /// # Errors
    /// When its own documents don't hold.
    pub fn found(org: &str) -> Result<Self> {
        let now = Timestamp::now();
        let root = root(org, None, 1, now);
        let wire = signed(&root, &["root"]);
        let id = OrgId::from_root(&digest(&wire)?);
        let mut this = Self {
            bundle: bundle(&id, now),
            bundle_wire: String::new(),
            id,
            roots: vec![wire],
            revocations: Vec::new(),
            now,
        };
        this.bundle_wire = signed(&this.bundle, &["bundle"]);
        Ok(this)
    }

    /// The time that this org's people see on their clocks.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now().max(self.now)
    }

    /// Lets time pass for the org's people: whatever they sign from now on is dated so much later.
    pub fn pass(&mut self, time: Duration) {
        self.now = Timestamp::now().plus(time);
    }

    /// All law as it is now, with a statement that it is the newest.
    #[must_use]
    pub fn docs(&self) -> LawDocs {
        LawDocs {
            roots: self.roots.clone(),
            bundle: Some(self.bundle_wire.clone()),
            freshness: Some(self.fresh()),
            revocations: self.revocations.clone(),
        }
    }

    /// The law as somebody believes it who has seen all of it.
    ///
    /// # Errors
    /// When the org's own documents don't hold.
    pub fn trust(&self) -> Result<OrgTrust> {
        let first = self.roots.first().context("there is no root")?;
        let mut trust = OrgTrust::pin(&self.id, first)?;
        let report = trust.accept(&self.docs(), self.now());
        match report.refused.first() {
            Some((_, refusal)) => Err(refusal.clone().into()),
            None => Ok(trust),
        }
    }

    /// A statement of today that this law is the newest.
    #[must_use]
    pub fn fresh(&self) -> String {
        let of = |w: &String| digest(w).unwrap_or(Digest([0; 32]));
        let now = self.now();
        let statement = Freshness {
            tag: Default::default(),
            org: self.id.clone(),
            root_version: self.roots.len() as u64,
            bundle_version: self.bundle.version,
            bundle_digest: of(&self.bundle_wire),
            revocations: RevocationSet::of(self.revocations.iter().map(of)),
            issued_at: now,
            expires_at: now.plus(MAX_STALENESS),
        };
        signed(&statement, &["freshness"])
    }

    /// The bundle's version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.bundle.version
    }

    /// The bundle as it was signed last, to make another of it.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Signs the next bundle, with `change` made to it.
    pub fn next_bundle(&mut self, change: impl FnOnce(&mut Bundle)) -> String {
        self.bundle.version += 1;
        self.bundle.issued_at = self.now();
        change(&mut self.bundle);
        self.bundle_wire = signed(&self.bundle, &["bundle"]);
        self.bundle_wire.clone()
    }

    /// A root of this version, by the true keys, not made part of the org's law.
    #[must_use]
    pub fn root(&self, version: u64) -> String {
        signed(&root("example", Some(&self.id), version, self.now()), &["root"])
    }

    /// A root of this version that gives the role `root` to another key, signed by these; not made part of the org's law.
    #[must_use]
    pub fn root_for(&self, version: u64, holder: &str, signers: &[&str]) -> String {
        let mut root = root("example", Some(&self.id), version, self.now());
        root.roles.root = role(holder);
        signed(&root, signers)
    }

    /// Signs the next root, by the same keys.
    pub fn next_root(&mut self) -> String {
        let wire = self.root(self.roots.len() as u64 + 1);
        self.roots.push(wire.clone());
        wire
    }

    /// Alice revokes something.
    pub fn revoke(&mut self, kind: RevocationKind, target: &str) -> String {
        let wire = self.revocation("alice", kind, target);
        self.revocations.push(wire.clone());
        wire
    }

    /// A revocation by somebody, not made part of the org's law.
    #[must_use]
    pub fn revocation(&self, by: &str, kind: RevocationKind, target: &str) -> String {
        let revocation = Revocation {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name(by),
            kind,
            target: target.to_owned(),
            reason: "lost".into(),
            issued_at: self.now(),
        };
        signed(&revocation, &[by])
    }

    /// A job of this operator, not signed yet.
    #[must_use]
    pub fn job(&self, node: &NodeId, operator: &str, argv: &[&str]) -> Job {
        let now = self.now();
        let mut nonce = vec![0; 16];
        // Twice the same nonce would only make two jobs one, and a test fail.
        let _ = getrandom::fill(&mut nonce);
        Job {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name(operator),
            nonce,
            nodes: vec![node.clone()],
            kind: JobKind::Exec,
            spec: Spec::Exec(Exec::new(argv.iter().map(|a| (*a).to_owned()).collect())),
            profile: name("host"),
            stdin: Stdin::NONE,
            secrets: Vec::new(),
            after: Vec::new(),
            expect: Default::default(),
            output_to: Empty,
            reason: String::new(),
            retry_of: None,
            min_bundle: 1,
            issued_at: now,
            not_before: now,
            expires_at: now.plus(5 * MINUTE),
            origin: Default::default(),
        }
    }

    /// An approval, not signed yet.
    #[must_use]
    pub fn approval(&self, job: Digest, approver: &str) -> Approval {
        let now = self.now();
        Approval {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job,
            approver: name(approver),
            facts: vec![],
            min_bundle: 1,
            issued_at: now,
            expires_at: now.plus(5 * MINUTE),
        }
    }

    /// A release of a job on one node, not signed yet.
    #[must_use]
    pub fn release(&self, job: Digest, operator: &str, node: &NodeId) -> Release {
        let now = self.now();
        Release {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job,
            operator: name(operator),
            nodes: vec![node.clone()],
            min_bundle: 1,
            issued_at: now,
            expires_at: now.plus(5 * MINUTE),
        }
    }

    /// A rejection of a job, not signed yet.
    #[must_use]
    pub fn remark(&self, job: Digest, operator: &str) -> Remark {
        Remark {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job,
            operator: name(operator),
            says: Says::Rejected,
            receipts: Vec::new(),
            reason: String::new(),
            issued_at: self.now(),
        }
    }

    /// A cancel, not signed yet.
    #[must_use]
    pub fn cancel(&self, job: Digest, operator: &str) -> Cancel {
        let now = self.now();
        Cancel {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job,
            operator: name(operator),
            reason: "enough".into(),
            nodes: Vec::new(),
            min_bundle: 1,
            issued_at: now,
            expires_at: now.plus(5 * MINUTE),
        }
    }

    /// Alice's grant for a machine called `node`, under the join key of this label, with these labels.
    #[must_use]
    pub fn grant(&self, node: &str, join: &str, labels: &[(&str, &str)]) -> Grant {
        let now = self.now();
        Grant {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name("alice"),
            join_key: key(join).public(),
            name: Some(name(node)),
            name_prefix: None,
            kind: NodeKind::Server,
            labels: labels.iter().map(|(k, v)| (name(k), name(v))).collect(),
            max_uses: 1,
            issued_at: now,
            expires_at: now.plus(60 * MINUTE),
            replaces: None,
        }
    }

    /// The token that goes with a grant, handed to the machine out of band.
    ///
    /// # Errors
    /// When the grant is none.
    pub fn token(&self, grant: &str, join: &str, hub: (&str, Digest)) -> Result<String> {
        let token = Token {
            hub_url: hub.0.to_owned(),
            hub_spki: hub.1,
            org_id: self.id.clone(),
            min_root: self.roots.len() as u64,
            min_bundle: self.bundle.version,
            grant_digest: digest(grant)?,
            join_seed: *key(join).seed(),
        };
        Ok(token.encode())
    }
}

fn role(label: &str) -> Role {
    Role {
        keys: vec![key(label).public()],
        threshold: 1,
    }
}

fn root(org: &str, id: Option<&OrgId>, version: u64, now: Timestamp) -> Root {
    Root {
        tag: Default::default(),
        org: id.cloned(),
        version,
        name: name(org),
        roles: RootRoles {
            root: role("root"),
            bundle: role("bundle"),
            freshness: role("freshness"),
            release: Role {
                keys: vec![],
                threshold: 0,
            },
        },
        issued_at: now,
        expires_at: now.plus(365 * DAY),
    }
}

/// The demo law, with more people and more rules.
fn bundle(org: &OrgId, now: Timestamp) -> Bundle {
    let line = |label: &str| {
        PublicLine {
            key: key(label).public(),
            comment: None,
        }
        .to_string()
    };
    let founder = Founder {
        operator: &name("alice"),
        public: &line("alice"),
        node: &name(NODE),
    };
    let mut files: BTreeMap<String, String> = starter::demo(&founder)
        .into_iter()
        .filter(|(path, _)| !path.starts_with("tests/"))
        .collect();
    let roster = files.entry("roster.toml".into()).or_default();
    for (who, kind, groups, keys) in people() {
        *roster += &format!("\n[operators.{who}]\nkind = \"{kind}\"\ngroups = [{groups}]\n");
        for n in 1..=keys {
            let label = if n == 1 {
                who.to_owned()
            } else {
                format!("{who}-{n}")
            };
            *roster += &format!("[[operators.{who}.keys]]\npublic = \"{}\"\n", line(&label));
        }
        if who == "erin" {
            *roster += &passkey::roster();
        }
    }
    files.insert("policies/people.cedar".into(), RULES.into());
    *files.entry("profiles.toml".into()).or_default() += NARROW;
    Bundle {
        tag: Default::default(),
        org: org.clone(),
        version: 1,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: now,
        expires_at: now.plus(30 * DAY),
        max_staleness: MAX_STALENESS.as_secs(),
        files,
        revocations: Vec::new(),
    }
}
