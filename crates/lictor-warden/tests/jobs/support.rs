//! A small org with one node in a temporary directory, and a warden on it.
// Each test file uses its own part, and a failure here is a failed test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

mod heard;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_proto::agent::{Ack, Finished, LawDocs, Offer, OfferReply, Reply, Request};
use lictor_proto::api::TrustView;
use lictor_proto::doc::{
    Approval, Bundle, Cancel, Document, Empty, Exec, Grant, Job, JobKind, MinVersions, Missed, NodeKind,
    Overlap, Receipt, Revocation, RevocationKind, Role, Root, RootRoles, Schedule, Spec, Stdin,
};
use lictor_proto::{Digest, Envelope, Name, NodeId, OrgId, Timestamp};
use lictor_sandbox::Host;
use lictor_trust::enrol::RecordOf;
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeKeys, NodeSecrets, OrgTrust, SecretKey, Verified, sign};
use lictor_warden::node_dir::{NodeDir, NodeFile};
use lictor_warden::{Config, EventFeed, Warden};

pub use heard::{Heard, finished, listen};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const POLICY: &str = r#"
@id("run") permit(principal, action in [Action::"exec", Action::"shell", Action::"shell_opaque"], resource);
@id("cancel-own") permit(principal, action == Action::"cancel", resource) when { context.requester == principal };
@id("not-mallory") forbid(principal == Operator::"mallory", action, resource);
@id("carol-asks") @approvals("1") @approvers("leads")
forbid(principal == Operator::"carol", action == Action::"exec", resource);
@id("erin-asks") @approvals("1") @approvers("leads")
forbid(principal == Operator::"erin", action == Action::"exec", resource);
"#;

const PROFILES: &str = r#"
[profiles.host]
backend = "host"
network = "host"
[profiles.small]
backend = "host"
network = "host"
limits = { keep = "1MiB", timeout = "60s", grace = "1s" }
[profiles.quiet]
backend = ["host", "landlock"]
network = "none"
[profiles.impossible]
backend = "host"
network = "none"
"#;

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Who signs with which seed.
pub fn seed_of(operator: &str) -> u8 {
    match operator {
        "alice" => 10,
        "bob" => 11,
        "carol" => 12,
        "mallory" => 13,
        "erin" => 14,
        other => panic!("nobody called {other}"),
    }
}

fn roster() -> String {
    let mut toml = "groups = [\"admins\", \"leads\", \"owners\"]\nbreak_glass = [\"owners\"]\n".to_owned();
    for (who, groups, rights) in [
        ("alice", "\"admins\"", "rights = [\"revoke\"]"),
        ("bob", "\"leads\"", ""),
        ("carol", "", ""),
        ("mallory", "", ""),
        ("erin", "\"owners\"", ""),
    ] {
        let public = key(seed_of(who)).public();
        let line = PublicLine {
            key: public,
            comment: None,
        };
        toml += &format!(
            "[operators.{who}]\nkind = \"person\"\ngroups = [{groups}]\n{rights}\nkeys = [{{ public = \"{line}\" }}]\n"
        );
    }
    toml
}

fn role(seeds: &[u8]) -> Role {
    Role {
        keys: seeds.iter().map(|s| key(*s).public()).collect(),
        threshold: u32::from(!seeds.is_empty()),
    }
}

pub fn wire<T: Document>(doc: &T, seed: u8) -> String {
    to_wire(&sign(doc, &[&key(seed)]))
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub org: OrgId,
    pub node_id: NodeId,
    pub trust: OrgTrust,
    pub node: NodeKeys,
    /// Digest of the grant that the node was enrolled under.
    pub grant: Digest,
    pub host: Host,
    version: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An org with a bundle, and an enrolled node.
    pub fn new() -> Self {
        let host = Host::start(lictor_sandbox::Config::default()).expect("the host starts");
        let now = Timestamp::now();
        let root = Root {
            tag: Default::default(),
            org: None,
            version: 1,
            name: name("example"),
            roles: RootRoles {
                root: role(&[1]),
                bundle: role(&[2]),
                freshness: role(&[]),
                release: role(&[]),
            },
            issued_at: Timestamp::from_millis(now.as_millis() - 60_000),
            expires_at: now.plus(MINUTE * 60 * 24),
        };
        let envelope = sign(&root, &[&key(1)]);
        let org = OrgId::from_root(&envelope.digest());
        let mut trust = OrgTrust::pin(&org, &to_wire(&envelope)).unwrap();
        let secrets = NodeSecrets::generate().unwrap();
        let node_id = secrets.node_id(&org);
        let dir = tempfile::tempdir().unwrap();
        // Open to pass through, as a node's directory is; else jobs' directories would lie elsewhere.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let docs = LawDocs {
            bundle: Some(wire(&bundle(&org, 1, (POLICY, PROFILES)), 2)),
            ..LawDocs::default()
        };
        let report = trust.accept(&docs, now);
        assert!(
            report.refused.is_empty() && report.unloadable.is_none(),
            "{report:?}"
        );
        let (node, grant) = enrol(&trust, &secrets, dir.path());
        Self {
            dir,
            org,
            node_id,
            trust,
            node,
            grant,
            host,
            version: 1,
        }
    }

    pub async fn warden(&self) -> Warden {
        self.warden_with(|_| {}).await
    }

    pub async fn warden_with(&self, change: impl FnOnce(&mut Config)) -> Warden {
        let mut config = Config::new(self.dir.path());
        change(&mut config);
        // The lock of a warden that is just going away may still be held for a moment.
        let journal = self.dir.path().join("journal.log");
        let free = tokio::task::spawn_blocking(move || match std::fs::File::open(journal) {
            Ok(journal) => journal.lock(),
            Err(_) => Ok(()),
        });
        let free = tokio::time::timeout(DEADLINE, free).await;
        free.expect("no other warden").unwrap().unwrap();
        match Warden::start(config, self.host.clone()).await {
            Ok(warden) => warden,
            Err(e) => panic!("{e}: {e:?}"),
        }
    }

    /// Has a command of alice's run to its end.
    pub async fn run(&self, warden: &Warden, feed: &mut EventFeed, argv: &[&str]) -> (Heard, Finished) {
        let (job, o) = self.signed(argv);
        assert_eq!(offer(warden, o).await, OfferReply::Accepted);
        finished(feed, job).await
    }

    /// A newer bundle with this policy.
    pub fn next_law(&mut self, policy: &str) -> LawDocs {
        self.next_bundle(policy, PROFILES)
    }

    /// A newer bundle with these profiles, too.
    pub fn next_profiles(&mut self, more: &str) -> LawDocs {
        self.next_bundle(POLICY, &format!("{PROFILES}{more}"))
    }

    fn next_bundle(&mut self, policy: &str, profiles: &str) -> LawDocs {
        self.version += 1;
        LawDocs {
            bundle: Some(wire(&bundle(&self.org, self.version, (policy, profiles)), 2)),
            ..LawDocs::default()
        }
    }

    pub fn job(&self, operator: &str, argv: &[&str]) -> Job {
        let now = Timestamp::now();
        let nonce = Digest::of(format!("{operator}{argv:?}{}", next()).as_bytes());
        Job {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name(operator),
            nonce: nonce.0[..16].to_vec(),
            nodes: vec![self.node_id.clone()],
            kind: JobKind::Exec,
            spec: Spec::Exec(Exec::new(argv.iter().map(|a| (*a).to_owned()).collect())),
            profile: name("small"),
            stdin: Stdin::NONE,
            secrets: Vec::new(),
            after: Vec::new(),
            expect: Default::default(),
            output_to: Empty,
            reason: "test".into(),
            retry_of: None,
            min_bundle: 1,
            issued_at: now,
            not_before: now,
            expires_at: now.plus(MINUTE * 5),
            origin: Default::default(),
        }
    }

    /// Every ten minutes, at UTC, from now on.
    pub fn schedule(&self, operator: &str, argv: &[&str]) -> Schedule {
        let job = self.job(operator, argv);
        Schedule {
            tag: Default::default(),
            org: job.org,
            operator: job.operator,
            nonce: job.nonce,
            nodes: job.nodes,
            kind: job.kind,
            spec: job.spec,
            profile: job.profile,
            secrets: Vec::new(),
            expect: Default::default(),
            reason: job.reason,
            cron: "*/10 * * * *".into(),
            tz: "UTC".into(),
            jitter_ms: 0,
            missed: Missed::Skip,
            overlap: Overlap::Skip,
            start_within_ms: 5 * 60_000,
            min_bundle: 1,
            issued_at: job.issued_at,
            not_before: job.issued_at,
            ends_at: job.issued_at.plus(MINUTE * 60 * 24),
        }
    }

    pub fn sign_schedule(&self, schedule: &Schedule) -> (Digest, Offer) {
        let wire = wire(schedule, seed_of(schedule.operator.as_str()));
        let digest = Envelope::parse(wire.as_bytes(), 1 << 20).unwrap().digest();
        let offer = Offer {
            job: wire,
            approvals: Vec::new(),
            releases: Vec::new(),
            secrets: Vec::new(),
        };
        (digest, offer)
    }

    pub fn sign_job(&self, job: &Job) -> (Digest, Offer) {
        let job = wire(job, seed_of(job.operator.as_str()));
        let digest = Envelope::parse(job.as_bytes(), 1 << 20).unwrap().digest();
        let approvals = Vec::new();
        let secrets = Vec::new();
        let offer = Offer {
            job,
            approvals,
            releases: Vec::new(),
            secrets,
        };
        (digest, offer)
    }

    /// A signed job of alice's.
    pub fn signed(&self, argv: &[&str]) -> (Digest, Offer) {
        self.sign_job(&self.job("alice", argv))
    }

    pub fn approval(&self, job: Digest, approver: &str) -> String {
        let now = Timestamp::now();
        let approval = Approval {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            approver: name(approver),
            facts: vec![],
            min_bundle: 1,
            issued_at: now,
            expires_at: now.plus(MINUTE * 5),
        };
        wire(&approval, seed_of(approver))
    }

    pub fn cancel(&self, job: Digest, operator: &str) -> String {
        let now = Timestamp::now();
        let cancel = Cancel {
            tag: Default::default(),
            org: self.org.clone(),
            job_digest: job,
            operator: name(operator),
            reason: "enough".into(),
            nodes: Vec::new(),
            min_bundle: 1,
            issued_at: now,
            expires_at: now.plus(MINUTE * 5),
        };
        wire(&cancel, seed_of(operator))
    }

    pub fn revocation(&self, kind: RevocationKind, target: &str) -> LawDocs {
        let revocation = Revocation {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name("alice"),
            kind,
            target: target.to_owned(),
            reason: "lost".into(),
            issued_at: Timestamp::now(),
        };
        LawDocs {
            revocations: vec![wire(&revocation, seed_of("alice"))],
            ..LawDocs::default()
        }
    }

    pub fn receipt(&self, finished: &Finished) -> Verified<Receipt> {
        let receipt = self
            .trust
            .verify_receipt(&self.node, &finished.receipt)
            .expect("a true receipt");
        assert_eq!(receipt.job_digest, finished.job);
        receipt
    }

    /// Types of all audit records, after checking the log.
    pub fn audit(&self) -> Vec<String> {
        let text = self.audit_text();
        let expect = lictor_audit::Expect {
            log: Some(self.node_id.to_string()),
            known_heads: BTreeSet::new(),
        };
        lictor_audit::verify(text.as_bytes(), &expect).expect("the audit log holds");
        text.lines()
            .map(|l| lictor_audit::Record::parse(l).unwrap().kind().to_string())
            .collect()
    }

    /// The audit log as it stands.
    pub fn audit_text(&self) -> String {
        let mut text = String::new();
        lictor_warden::audit_lines(self.dir.path(), |line| {
            text += line;
            text.push('\n');
        })
        .expect("the audit log reads");
        text
    }
}

/// A number of its own for each who asks.
pub fn next() -> u64 {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn bundle(org: &OrgId, version: u64, (policy, profiles): (&str, &str)) -> Bundle {
    let now = Timestamp::now();
    let files = [
        ("roster.toml", roster()),
        (
            "fleet.toml",
            "max_job_validity = \"12h\"\n[enrollers.admins]\nlabels = { role = [\"web\"] }\n".to_owned(),
        ),
        ("profiles.toml", profiles.to_owned()),
        ("policies/all.cedar", policy.to_owned()),
    ];
    Bundle {
        tag: Default::default(),
        org: org.clone(),
        version,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: now,
        expires_at: now.plus(MINUTE * 60),
        max_staleness: 3600,
        files: files.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        revocations: Vec::new(),
    }
}

fn enrol(trust: &OrgTrust, secrets: &NodeSecrets, path: &std::path::Path) -> (NodeKeys, Digest) {
    let now = Timestamp::now();
    let grant = Grant {
        tag: Default::default(),
        org: trust.org().clone(),
        operator: name("alice"),
        join_key: key(20).public(),
        name: Some(name("web-1")),
        name_prefix: None,
        kind: NodeKind::Server,
        labels: BTreeMap::from([(name("role"), name("web"))]),
        max_uses: 1,
        issued_at: now,
        expires_at: now.plus(MINUTE * 60),
        replaces: None,
    };
    let grant_wire = wire(&grant, seed_of("alice"));
    let verified = trust.verify_grant(&grant_wire).unwrap();
    let of = RecordOf {
        org: trust.org(),
        grant: verified.digest(),
        name: &name("web-1"),
        epoch: 1,
        issued_at: now,
    };
    let record = to_wire(&secrets.record(&of, &key(20)));
    let dir = NodeDir::create(path).unwrap();
    secrets.store(path).unwrap();
    dir.set_trust(&TrustView {
        org: trust.org().clone(),
        docs: trust.docs(),
    })
    .unwrap();
    dir.set_node(&NodeFile {
        grant: grant_wire,
        record: record.clone(),
    })
    .unwrap();
    let keys = NodeKeys::of(&trust.verify_node(&verified, &record).unwrap()).unwrap();
    (keys, verified.digest())
}

pub async fn offer(warden: &Warden, offer: Offer) -> OfferReply {
    match warden.ask(Request::Offer(offer)).await {
        Reply::Offer(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub async fn ack(warden: &Warden, finished: &Finished) {
    let receipt = Envelope::parse(finished.receipt.as_bytes(), 1 << 20)
        .unwrap()
        .digest();
    let job = finished.job;
    assert_eq!(
        warden.ask(Request::Ack(Ack::Result { job, receipt })).await,
        Reply::Done
    );
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}
