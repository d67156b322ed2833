//! Enrolment against a hub that tells the truth, and then against one that doesn't.

#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use lictor_agent::run::{carry, open_hub};
use lictor_agent::{AgentConfig, AgentError, EnrollError, Enrolled, Enrolment, HubFile, enroll};
use lictor_proto::agent::{LawDocs, Request};
use lictor_proto::api::{EnrollReply, EnrollRequest};
use lictor_proto::doc::{Bundle, Document, Grant, MinVersions, NodeKind, Role, Root, RootRoles, Token};
use lictor_proto::{Code, Envelope, OrgId, Timestamp};
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;
use lictor_trust::{SecretKey, sign};
use lictor_warden::{Host, Warden};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn ago(seconds: u64) -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() - seconds * 1000)
}

fn ahead(seconds: u64) -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() + seconds * 1000)
}

fn signed<T: Document>(doc: &T, seed: u8) -> Envelope {
    sign(doc, &[&key(seed)])
}

const ROOT: u8 = 1;
const BUNDLE: u8 = 2;
const ALICE: u8 = 3;
const JOIN: u8 = 4;

/// What a hub offers a machine: law and grant.
fn offer(version: u64, grant_of: impl FnOnce(&mut Grant)) -> (OrgId, EnrollReply) {
    let role = |seed: u8| Role {
        keys: vec![key(seed).public()],
        threshold: 1,
    };
    let none = || Role {
        keys: Vec::new(),
        threshold: 0,
    };
    let root = Root {
        tag: Default::default(),
        org: None,
        version: 1,
        name: "example".parse().unwrap(),
        roles: RootRoles {
            root: role(ROOT),
            bundle: role(BUNDLE),
            freshness: none(),
            release: none(),
        },
        issued_at: ago(60),
        expires_at: ahead(86_400),
    };
    let root = signed(&root, ROOT);
    let org = OrgId::from_root(&root.digest());
    let line = PublicLine {
        key: key(ALICE).public(),
        comment: None,
    };
    let roster = format!(
        "groups = [\"admins\"]\n[operators.alice]\nkind = \"person\"\ngroups = [\"admins\"]\nkeys = [{{ public = \"{line}\" }}]\n"
    );
    let files = [
        ("roster.toml", roster.as_str()),
        ("fleet.toml", "[enrollers.admins]\nlabels = { role = \"any\" }\n"),
        (
            "profiles.toml",
            "[profiles.host]\nbackend = \"host\"\nnetwork = \"host\"\n",
        ),
        (
            "policies/all.cedar",
            "@id(\"all\") permit(principal, action, resource);\n",
        ),
    ];
    let bundle = Bundle {
        tag: Default::default(),
        org: org.clone(),
        version,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: ago(60),
        expires_at: ahead(86_400),
        max_staleness: 86_400,
        files: files
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        revocations: Vec::new(),
    };
    let mut grant = Grant {
        tag: Default::default(),
        org: org.clone(),
        operator: "alice".parse().unwrap(),
        join_key: key(JOIN).public(),
        name: Some("web-1".parse().unwrap()),
        name_prefix: None,
        kind: NodeKind::Server,
        labels: BTreeMap::new(),
        max_uses: 1,
        issued_at: ago(30),
        expires_at: ahead(3600),
        replaces: None,
    };
    grant_of(&mut grant);
    let reply = EnrollReply {
        grant: to_wire(&signed(&grant, ALICE)),
        law: LawDocs {
            roots: vec![to_wire(&root)],
            bundle: Some(to_wire(&signed(&bundle, BUNDLE))),
            ..LawDocs::default()
        },
    };
    (org, reply)
}

fn honest() -> (OrgId, EnrollReply) {
    offer(5, |_| {})
}

#[derive(Clone)]
struct Hub {
    reply: EnrollReply,
    records: Arc<Mutex<Vec<String>>>,
    /// Answers to enrolments: how many are lost after the hub has taken them.
    lost: Arc<Mutex<usize>>,
}

async fn take(
    State(hub): State<Hub>,
    Json(request): Json<EnrollRequest>,
) -> Result<Json<EnrollReply>, StatusCode> {
    hub.records.lock().unwrap().push(request.record);
    let mut lost = hub.lost.lock().unwrap();
    if *lost > 0 {
        *lost -= 1;
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(Json(hub.reply))
}

struct Scene {
    file: HubFile,
    hub: Hub,
    token: Token,
    _running: support::TestHub,
}

async fn scene((org, reply): (OrgId, EnrollReply)) -> Scene {
    let state = Hub {
        reply,
        records: Arc::default(),
        lost: Arc::default(),
    };
    let router = Router::new()
        .route(
            "/api/v1/agent/grants/{org}/{digest}",
            get(|State(hub): State<Hub>| async move { Json(hub.reply) }),
        )
        .route("/api/v1/agent/enroll", post(take))
        .with_state(state.clone());
    let running = support::hub(router).await;
    let grant = Envelope::parse(state.reply.grant.as_bytes(), 100_000).unwrap();
    let token = Token {
        hub_url: running.file.url.clone(),
        hub_spki: running.file.pins[0],
        org_id: org,
        min_root: 1,
        min_bundle: 5,
        grant_digest: grant.digest(),
        join_seed: [JOIN; 32],
    };
    Scene {
        file: running.file.clone(),
        hub: state,
        token,
        _running: running,
    }
}

async fn join(token: &Token, dir: &Path) -> Result<Enrolled, EnrollError> {
    let token = token.encode();
    enroll(Enrolment {
        token: &token,
        dir,
        name: None,
    })
    .await
}

#[tokio::test]
async fn a_machine_with_a_token_becomes_a_node_and_stays_the_same_one() {
    let scene = scene(honest()).await;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("agent");
    let first = join(&scene.token, &dir).await.unwrap();
    assert_eq!(first.name.as_str(), "web-1");
    assert_eq!(
        join(&scene.token, &dir).await.unwrap(),
        first,
        "again is the same node"
    );
    assert_eq!(scene.hub.records.lock().unwrap().len(), 1);
    assert!(open_hub(&AgentConfig::new(&dir)).is_ok());
    let other = Token {
        grant_digest: scene.file.pins[0],
        ..scene.token.clone()
    };
    assert!(matches!(
        join(&other, &dir).await,
        Err(EnrollError::AlreadyNode(..))
    ));
}

#[tokio::test]
async fn the_agent_of_a_node_whose_journal_broke_ends_with_an_error() {
    let scene = scene(honest()).await;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("agent");
    join(&scene.token, &dir).await.unwrap();
    let config = AgentConfig::new(&dir);
    let hub = open_hub(&config).unwrap();
    let host = Host::start(lictor_sandbox::Config::default()).unwrap();
    let rotating = lictor_warden::Config {
        rotate_after: 1,
        ..config.warden()
    };
    let warden = Warden::start(rotating, host).await.unwrap();
    let asked = warden.clone();
    let breaking = async move {
        // Nothing can take the journal's place, and whether it is still in its place is unsure.
        let journal = dir.join("journal.log");
        std::fs::rename(&journal, dir.join("aside")).unwrap();
        std::fs::create_dir(&journal).unwrap();
        let told = || tokio::time::timeout(Duration::ZERO, asked.broken());
        while told().await.is_err() {
            // Its refusal is a record; sooner or later one makes the journal grow enough to be rotated.
            asked.ask(Request::Approval("{}".to_owned())).await;
        }
    };
    let running = carry(warden, hub, &config, std::future::pending());
    let both = Box::pin(async { tokio::join!(running, breaking).0 });
    let ended = tokio::time::timeout(support::WITHIN, both)
        .await
        .expect("it ends");
    assert!(matches!(ended, Err(AgentError::Journal(_))), "{ended:?}");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_made_good_by_the_same_record() {
    let scene = scene(honest()).await;
    let dir = tempfile::tempdir().unwrap();
    *scene.hub.lost.lock().unwrap() = 1;
    assert_eq!(
        join(&scene.token, dir.path()).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert!(!dir.path().join("node.json").exists());
    join(&scene.token, dir.path()).await.unwrap();
    let records = scene.hub.records.lock().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0], records[1]);
}

#[tokio::test]
async fn keys_left_by_a_run_that_was_cut_off_are_replaced() {
    let scene = scene(honest()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("identity.key"), "half a key").unwrap();
    join(&scene.token, dir.path()).await.unwrap();
}

/// The machine refuses, no record is made, and the hub gets nothing but the question for the grant.
async fn refused(offered: (OrgId, EnrollReply), change: impl FnOnce(&mut Token)) -> Code {
    let mut scene = scene(offered).await;
    change(&mut scene.token);
    let dir = tempfile::tempdir().unwrap();
    let code = join(&scene.token, dir.path()).await.unwrap_err().code();
    assert!(scene.hub.records.lock().unwrap().is_empty());
    assert!(!dir.path().join("node.json").exists());
    code
}

#[tokio::test]
async fn a_hub_with_another_key_is_refused() {
    let pin = lictor_proto::Digest::of(b"another");
    assert_eq!(refused(honest(), |t| t.hub_spki = pin).await, Code::HubPin);
}

#[tokio::test]
async fn another_org_and_older_law_are_refused() {
    let elsewhere = OrgId::from_root(&lictor_proto::Digest::of(b"elsewhere"));
    assert_eq!(refused(honest(), |t| t.org_id = elsewhere).await, Code::WrongOrg);
    assert_eq!(refused(honest(), |t| t.min_bundle = 6).await, Code::StaleBundle);
    assert_eq!(refused(honest(), |t| t.min_root = 2).await, Code::RootOlder);
}

#[tokio::test]
async fn another_grant_and_another_seed_are_refused() {
    let digest = lictor_proto::Digest::of(b"another grant");
    assert_eq!(
        refused(honest(), |t| t.grant_digest = digest).await,
        Code::NodeRecordInvalid
    );
    assert_eq!(
        refused(honest(), |t| t.join_seed = [77; 32]).await,
        Code::JoinSignature
    );
}

#[tokio::test]
async fn a_grant_that_is_over_or_confers_too_much_is_refused() {
    let over = offer(5, |g| (g.issued_at, g.expires_at) = (ago(3600), ago(1)));
    assert_eq!(refused(over, |_| {}).await, Code::GrantExpired);
    let too_much = offer(5, |g| {
        g.labels = BTreeMap::from([("site".parse().unwrap(), "berlin".parse().unwrap())]);
    });
    assert_eq!(refused(too_much, |_| {}).await, Code::GrantNotAllowed);
}

#[tokio::test]
async fn a_prefix_grant_needs_a_name() {
    let (org, reply) = offer(5, |g| {
        (g.name, g.name_prefix) = (None, Some("web-".parse().unwrap()))
    });
    let scene = scene((org, reply)).await;
    let dir = tempfile::tempdir().unwrap();
    let needed = join(&scene.token, dir.path()).await.unwrap_err();
    assert!(matches!(&needed, EnrollError::NameNeeded(p) if p.as_str() == "web-"));
    let token = scene.token.encode();
    let named = Enrolment {
        token: &token,
        dir: dir.path(),
        name: Some("web-7".parse().unwrap()),
    };
    assert_eq!(enroll(named).await.unwrap().name.as_str(), "web-7");
}

#[test]
fn a_token_does_not_show_its_seed() {
    let token = Token {
        hub_url: "https://hub".into(),
        hub_spki: lictor_proto::Digest::of(b""),
        org_id: support::org(),
        min_root: 1,
        min_bundle: 1,
        grant_digest: lictor_proto::Digest::of(b""),
        join_seed: [213; 32],
    };
    assert!(!format!("{token:?}").contains("213"));
}
