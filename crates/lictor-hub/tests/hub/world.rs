//! A hub with orgs in it, and programs that call it.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_audit::Record;
use lictor_hub::{Hub, HubConfig};
use lictor_link::dial::HubUrl;
use lictor_link::http::{Answer, HttpClient, full};
use lictor_link::hyper::{Method, Request};
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{
    Approval, ApprovalFacts, Bundle, Cancel, Delivery, Document, Empty, Exec, Grant, Job, JobKind,
    MinVersions, Missed, NodeKind, Overlap, Release, Remark, Revocation, RevocationKind, Role, Root,
    RootRoles, Says, Schedule, Sealed, SealedKey, Secret, SecretUse, Spec, Stdin,
};
use lictor_proto::{Digest, Name, NodeId, OrgId, Timestamp};
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;
use lictor_trust::{SecretKey, sign};
use tokio_util::task::TaskTracker;

use super::node::job_digest;

pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn name(s: &str) -> Name {
    s.parse().unwrap()
}

pub fn wire<T: Document>(doc: &T, keys: &[&SecretKey]) -> String {
    to_wire(&sign(doc, keys))
}

/// A hub in a directory of its own.
pub struct World {
    pub hub: Hub,
    pub dir: tempfile::TempDir,
}

/// An org on it, and its admin.
pub struct Org {
    pub id: OrgId,
    pub secret: String,
    pub alice: SecretKey,
    /// Left an hour ago: the key has expired.
    pub former: SecretKey,
    pub join: SecretKey,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut HubConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = HubConfig::new(dir.path());
        config.listen.set_port(0);
        change(&mut config);
        let hub = Hub::start(config).await.unwrap();
        Self { hub, dir }
    }

    /// The same hub, stopped and started again.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, with another configuration.
    pub async fn restart_with(self, change: impl FnOnce(&mut HubConfig)) -> Self {
        self.hub.shutdown().await;
        let mut config = HubConfig::new(self.dir.path());
        config.listen.set_port(0);
        change(&mut config);
        let hub = Hub::start(config).await.unwrap();
        Self { hub, dir: self.dir }
    }

    pub async fn org(&self, title: &str) -> Org {
        let key = || SecretKey::generate().unwrap();
        let (root, alice, join) = (key(), key(), key());
        let role = |k: &SecretKey| Role {
            keys: vec![k.public()],
            threshold: 1,
        };
        let none = || Role {
            keys: Vec::new(),
            threshold: 0,
        };
        let bundle_key = key();
        let doc = Root {
            tag: Default::default(),
            org: None,
            version: 1,
            name: name(title),
            roles: RootRoles {
                root: role(&root),
                bundle: role(&bundle_key),
                freshness: none(),
                release: none(),
            },
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(86_400)),
        };
        let (id, secret) = self.hub.create_org(&wire(&doc, &[&root]), "admin").await.unwrap();
        let org = Org {
            id,
            secret,
            alice,
            former: key(),
            join,
        };
        let docs = LawDocs {
            bundle: Some(wire(&org.bundle(), &[&bundle_key])),
            ..LawDocs::default()
        };
        let body = serde_json::to_string(&docs).unwrap();
        let answer = self
            .call(Some(&org.secret), Method::POST, "/api/v1/trust", &body)
            .await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert!(
            String::from_utf8_lossy(&answer.body).contains("\"bundle\":1"),
            "{answer:?}"
        );
        org
    }

    pub fn client(&self) -> HttpClient {
        let url: HubUrl = format!("http://{}", self.hub.addr).parse().unwrap();
        HttpClient::new(url, None, TaskTracker::new())
    }

    pub async fn call(&self, token: Option<&str>, method: Method, path: &str, body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(full(body.to_owned())).unwrap();
        self.client()
            .call(request, 64 * 1024 * 1024, DEADLINE)
            .await
            .unwrap()
    }

    /// Does something to the hub's database behind its back.
    pub async fn sql(&self, statement: &'static str) {
        let url = format!("sqlite://{}", self.dir.path().join("hub.db").display());
        let db = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query(statement).execute(&db).await.unwrap();
        db.close().await;
    }

    /// Stops the hub and reads one of its audit logs whole: an org's, or its own, `hub`.
    pub async fn stop_and_read(self, log: &str) -> Vec<Record> {
        let dir = self.dir;
        self.hub.shutdown().await;
        let url = format!("sqlite://{}?mode=ro", dir.path().join("hub.db").display());
        let db = sqlx::SqlitePool::connect(&url).await.unwrap();
        let query = "SELECT line FROM audit WHERE log = ?1 ORDER BY seq";
        let lines: Vec<(String,)> = sqlx::query_as(query).bind(log).fetch_all(&db).await.unwrap();
        lines.iter().map(|(line,)| Record::parse(line).unwrap()).collect()
    }

    /// The types of the org's audit events, in order.
    pub async fn audit(&self, org: &Org) -> Vec<String> {
        let answer = self
            .call(Some(&org.secret), Method::GET, "/api/v1/audit?limit=1000", "")
            .await;
        let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let lines = page["items"].as_array().unwrap().iter();
        lines
            .map(|l| {
                let record: serde_json::Value = serde_json::from_str(l["line"].as_str().unwrap()).unwrap();
                record["type"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

fn before_now(seconds: u64) -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() - seconds * 1000)
}

/// Waits for something that another task does and that nobody is told of; looks now and then.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        while !condition().await {
            look.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

impl Org {
    fn bundle(&self) -> Bundle {
        let line = |key: &SecretKey| PublicLine {
            key: key.public(),
            comment: None,
        };
        let (line, former) = (line(&self.alice), line(&self.former));
        let left_at = before_now(3600);
        let roster = format!(
            "groups = [\"admins\"]\n[operators.alice]\nkind = \"person\"\ngroups = [\"admins\"]\n\
             rights = [\"revoke\"]\nkeys = [{{ public = \"{line}\" }}]\n\
             [operators.former]\nkind = \"person\"\ngroups = [\"admins\"]\n\
             keys = [{{ public = \"{former}\", expires_at = \"{left_at}\" }}]\n"
        );
        let files = [
            ("roster.toml", roster.as_str()),
            ("fleet.toml", "[enrollers.admins]\nlabels = \"any\"\n"),
            (
                "profiles.toml",
                "[profiles.host]\nbackend = \"host\"\nnetwork = \"host\"\n",
            ),
            (
                "policies/all.cedar",
                "@id(\"all\") permit(principal, action, resource);\n",
            ),
        ];
        Bundle {
            tag: Default::default(),
            org: self.id.clone(),
            version: 1,
            min_root: 1,
            schema_version: 1,
            min_versions: MinVersions::default(),
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(80_000)),
            max_staleness: 604_800,
            files: files
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            revocations: Vec::new(),
        }
    }

    pub fn grant(&self, node: &str) -> String {
        wire(&self.grant_by("alice", node, Timestamp::now()), &[&self.alice])
    }

    /// What somebody signs who has left, as if it had been signed before.
    pub fn grant_dated_back(&self, node: &str) -> String {
        wire(&self.grant_by("former", node, before_now(7200)), &[&self.former])
    }

    fn grant_by(&self, operator: &str, node: &str, issued_at: Timestamp) -> Grant {
        Grant {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name(operator),
            join_key: self.join.public(),
            name: Some(name(node)),
            name_prefix: None,
            kind: NodeKind::Server,
            labels: BTreeMap::new(),
            max_uses: 1,
            issued_at,
            expires_at: Timestamp::now().plus(Duration::from_secs(3600)),
            replaces: None,
        }
    }

    pub fn cancel(&self, job: &str) -> String {
        self.cancel_on(job, Vec::new())
    }

    pub fn cancel_on(&self, job: &str, nodes: Vec<NodeId>) -> String {
        let cancel = Cancel {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job_digest(job),
            operator: name("alice"),
            reason: "enough".to_owned(),
            nodes,
            min_bundle: 1,
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(300)),
        };
        wire(&cancel, &[&self.alice])
    }

    pub fn revocation(&self, kind: RevocationKind, target: &str) -> String {
        let revocation = Revocation {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name("alice"),
            kind,
            target: target.to_owned(),
            reason: "stolen".to_owned(),
            issued_at: Timestamp::now(),
        };
        wire(&revocation, &[&self.alice])
    }

    pub fn approval(&self, job: &str) -> String {
        self.approval_of(job, Vec::new())
    }

    pub fn approval_of(&self, job: &str, facts: Vec<ApprovalFacts>) -> String {
        let approval = Approval {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job_digest(job),
            approver: name("alice"),
            facts,
            min_bundle: 1,
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(300)),
        };
        wire(&approval, &[&self.alice])
    }

    pub fn release(&self, job: &str, node: &NodeId) -> String {
        let release = Release {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job_digest(job),
            operator: name("alice"),
            nodes: vec![node.clone()],
            min_bundle: 1,
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(300)),
        };
        wire(&release, &[&self.alice])
    }

    pub fn remark(&self, job: &str) -> String {
        let remark = Remark {
            tag: Default::default(),
            org: self.id.clone(),
            job_digest: job_digest(job),
            operator: name("alice"),
            says: Says::Rejected,
            receipts: Vec::new(),
            reason: "no".into(),
            issued_at: Timestamp::now(),
        };
        wire(&remark, &[&self.alice])
    }

    /// A job for all of these, which it sorts.
    pub fn job_on(&self, nodes: &mut Vec<NodeId>, argv: &[&str]) -> String {
        nodes.sort();
        let exec = Exec::new(argv.iter().map(|a| (*a).to_owned()).collect());
        let mut job = self.unsigned(&nodes[0], exec, Stdin::NONE);
        job.nodes.clone_from(nodes);
        wire(&job, &[&self.alice])
    }

    pub fn job(&self, node: &NodeId, argv: &[&str]) -> String {
        self.job_keeping(node, argv, None)
    }

    /// A job of whose log so many bytes are kept.
    pub fn job_keeping(&self, node: &NodeId, argv: &[&str], keep_bytes: Option<u64>) -> String {
        let mut exec = Exec::new(argv.iter().map(|a| (*a).to_owned()).collect());
        exec.keep_bytes = keep_bytes;
        self.job_of(node, exec, Stdin::NONE)
    }

    /// A job that ends by itself so soon.
    pub fn job_valid_for(&self, node: &NodeId, valid: Duration) -> String {
        let mut job = self.unsigned(node, Exec::new(vec!["true".to_owned()]), Stdin::NONE);
        job.expires_at = job.issued_at.plus(valid);
        wire(&job, &[&self.alice])
    }

    /// A job with standard input.
    pub fn job_reading(&self, node: &NodeId, argv: &[&str], input: &[u8]) -> String {
        let exec = Exec::new(argv.iter().map(|a| (*a).to_owned()).collect());
        self.job_of(node, exec, Stdin::bytes(input))
    }

    /// A job that uses the secret `db` of this digest.
    pub fn job_with_secret(&self, node: &NodeId, digest: Digest) -> String {
        let mut job = self.unsigned(node, Exec::new(vec!["true".to_owned()]), Stdin::NONE);
        job.secrets = vec![SecretUse {
            name: name("db"),
            version: 1,
            digest,
            delivery: Delivery::Memfd,
        }];
        wire(&job, &[&self.alice])
    }

    /// A version of a secret; what is sealed in it is nobody's to open here.
    pub fn a_secret(&self, node: &NodeId, called: &str, version: u64) -> String {
        let key = SealedKey {
            node_id: node.clone(),
            enc: [1; 32],
            key: vec![0; 48],
        };
        let sealed = Sealed {
            ciphertext: vec![0; 80],
            keys: vec![key],
        };
        let secret = Secret {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name("alice"),
            name: name(called),
            version,
            sealed,
            issued_at: Timestamp::now(),
        };
        wire(&secret, &[&self.alice])
    }

    /// Every ten minutes, at UTC, from now on for four days.
    pub fn schedule(&self, node: &NodeId, argv: &[&str]) -> String {
        wire(&self.schedule_of(node, argv), &[&self.alice])
    }

    pub fn schedule_of(&self, node: &NodeId, argv: &[&str]) -> Schedule {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let job = self.unsigned(node, Exec::new(argv), Stdin::NONE);
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
            ends_at: job.issued_at.plus(Duration::from_secs(4 * 86_400)),
        }
    }

    fn job_of(&self, node: &NodeId, exec: Exec, stdin: Stdin) -> String {
        wire(&self.unsigned(node, exec, stdin), &[&self.alice])
    }

    pub fn unsigned(&self, node: &NodeId, exec: Exec, stdin: Stdin) -> Job {
        let nonce = SecretKey::generate().unwrap().seed()[..16].to_vec();
        Job {
            tag: Default::default(),
            org: self.id.clone(),
            operator: name("alice"),
            nonce,
            nodes: vec![node.clone()],
            kind: JobKind::Exec,
            spec: Spec::Exec(exec),
            profile: name("host"),
            stdin,
            secrets: Vec::new(),
            after: Vec::new(),
            expect: Default::default(),
            output_to: Empty,
            reason: String::new(),
            retry_of: None,
            min_bundle: 1,
            issued_at: Timestamp::now(),
            not_before: Timestamp::now(),
            expires_at: Timestamp::now().plus(Duration::from_secs(300)),
            origin: Default::default(),
        }
    }
}
