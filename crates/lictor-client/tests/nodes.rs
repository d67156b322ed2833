//! What a home keeps of the nodes that a hub lists: what holds, what is of use, and no more than that.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "nodes/law.rs"]
mod law;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use lictor_client::trust::NodeDocs;
use lictor_client::{Home, Hub, HubAddress, TrustStore};
use lictor_proto::agent::LawDocs;
use lictor_proto::api::TrustView;
use lictor_proto::doc::{Grant, NodeKind, NodeRecord, Revocation, RevocationKind, Role};
use lictor_proto::envelope::Signature;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, Envelope, Name, NodeId, OrgId, Timestamp, limits};
use lictor_trust::enrol::RecordOf;
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeSecrets, SecretKey, sign};
use serde_json::json;
use tempfile::TempDir;

use law::{bundle, root};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An hour before the test, when everything was signed.
fn began() -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() - HOUR.as_millis() as u64)
}

/// An org whose operators are alice, and robert, whose key expired half an hour ago; and a home that pins it.
struct Scene {
    _dir: TempDir,
    home: Home,
    org: OrgId,
    store: TrustStore,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let root = sign(&root(), &[&key(1)]);
        let org = OrgId::from_root(&root.digest());
        let mut store = TrustStore::pin(&home, &org, &to_wire(&root)).unwrap();
        let docs = LawDocs {
            bundle: Some(to_wire(&sign(&bundle(&org), &[&key(2)]))),
            ..LawDocs::default()
        };
        let report = store.accept(&docs).unwrap();
        assert!(
            report.refused.is_empty() && report.unloadable.is_none(),
            "{report:?}"
        );
        Self {
            _dir: dir,
            home,
            org,
            store,
        }
    }

    /// The home has asked a hub so long ago.
    fn asked(&self, ago: Duration) {
        let file = File::create(self.home.trust_dir().join("refreshed")).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    fn grant(&self, operator: &str, signer: u8, node: &str, max_uses: u32) -> (String, Digest) {
        let grant = Grant {
            tag: Default::default(),
            org: self.org.clone(),
            operator: name(operator),
            join_key: key(50).public(),
            name: (max_uses == 1).then(|| name(node)),
            name_prefix: (max_uses > 1).then(|| name(node)),
            kind: NodeKind::Server,
            labels: BTreeMap::new(),
            max_uses,
            issued_at: began(),
            expires_at: began().plus(DAY),
            replaces: None,
        };
        let envelope = sign(&grant, &[&key(signer)]);
        (to_wire(&envelope), envelope.digest())
    }

    fn record(&self, grant: &(String, Digest), node: &str, secrets: &NodeSecrets, epoch: u64) -> NodeDocs {
        let node = name(node);
        let of = RecordOf {
            org: &self.org,
            grant: grant.1,
            name: &node,
            epoch,
            issued_at: began(),
        };
        NodeDocs {
            grant: grant.0.clone(),
            record: to_wire(&secrets.record(&of, &key(50))),
        }
    }

    fn kept(&self) -> usize {
        let path = self.home.trust_dir().join("nodes/all.json");
        let Ok(text) = fs::read(path) else { return 0 };
        serde_json::from_slice::<Vec<serde_json::Value>>(&text)
            .unwrap()
            .len()
    }

    /// What the home says of records that a hub lists.
    fn remember(&self, shown: impl IntoIterator<Item = NodeDocs>) -> Vec<Code> {
        let refused = self.store.remember(shown).unwrap();
        refused.into_iter().map(|(_, r)| r.code).collect()
    }
}

fn secrets() -> NodeSecrets {
    NodeSecrets::generate().unwrap()
}

#[test]
fn records_that_do_not_hold_are_said_and_not_kept() {
    let scene = Scene::set();
    let good = scene.grant("alice", 10, "web-1", 1);
    assert_eq!(scene.remember([scene.record(&good, "web-1", &secrets(), 1)]), []);
    assert_eq!(scene.kept(), 1);
    let forged = scene.grant("alice", 99, "web-2", 1);
    let garbage = (0..50).map(|i| NodeDocs {
        grant: format!("garbage {i}"),
        record: "garbage".repeat(i),
    });
    let strangers = (0..50).map(|_| scene.record(&forged, "web-2", &secrets(), 1));
    let refused = scene.remember(garbage.chain(strangers));
    assert_eq!(refused.len(), 100);
    assert!(
        refused[50..].iter().all(|c| *c == Code::SignerUnknown),
        "{refused:?}"
    );
    assert_eq!(scene.kept(), 1, "no more than before");
    scene.store.resolve("web-1").unwrap();
}

#[test]
fn a_record_is_one_however_it_is_written() {
    let scene = Scene::set();
    let grant = scene.grant("alice", 10, "web-1", 1);
    let record = scene.record(&grant, "web-1", &secrets(), 1);
    let spaced = (0..20).map(|i| NodeDocs {
        grant: record.grant.clone() + &" ".repeat(i),
        record: record.record.clone() + &" ".repeat(i),
    });
    assert_eq!(scene.remember(spaced), []);
    assert_eq!(scene.kept(), 1);
}

#[test]
fn of_a_grant_that_was_used_too_often_enough_is_kept_to_prove_it() {
    let scene = Scene::set();
    let grant = scene.grant("alice", 10, "web-", 2);
    let leaked: Vec<_> = (0..20)
        .map(|i| scene.record(&grant, &format!("web-{i}"), &secrets(), 1))
        .collect();
    let refused = scene.remember(leaked);
    assert_eq!(scene.kept(), 3, "one more than it allows");
    assert!(refused.iter().all(|c| *c == Code::GrantUsed), "{refused:?}");
    assert_eq!(refused.len(), 20, "none of them counts");
    // A hub that stops showing them heals nothing.
    assert_eq!(scene.remember([]).len(), 3);
}

#[test]
fn of_a_node_the_newest_epoch_is_kept_and_a_second_of_it_voids_both() {
    let scene = Scene::set();
    let grant = scene.grant("alice", 10, "web-1", 1);
    let first = secrets();
    let rekeyed = |epoch| {
        let keys = NodeSecrets {
            identity: first.identity.clone(),
            ..secrets()
        };
        scene.record(&grant, "web-1", &keys, epoch)
    };
    assert_eq!(scene.remember((1..=30).map(rekeyed)), []);
    assert_eq!(scene.kept(), 1);
    assert_eq!(scene.remember([rekeyed(29)]), [], "an older one changes nothing");
    scene.store.resolve("web-1").unwrap();
    let refused = scene.remember((0..5).map(|_| rekeyed(30)));
    assert_eq!(scene.kept(), 2);
    assert!(
        refused.iter().all(|c| *c == Code::NodeRecordInvalid),
        "{refused:?}"
    );
    assert!(scene.store.resolve("web-1").is_err());
}

#[test]
fn a_grant_of_an_expired_key_counts_only_where_it_can_have_been_there_before() {
    let granted = |scene: &Scene| {
        let grant = scene.grant("robert", 11, "web-1", 1);
        scene.remember([scene.record(&grant, "web-1", &secrets(), 1)])
    };
    let scene = Scene::set();
    assert_eq!(
        granted(&scene),
        [],
        "a home that has asked nobody cannot know better"
    );
    let scene = Scene::set();
    scene.asked(HOUR * 3 / 4);
    assert_eq!(granted(&scene), [], "the key was good when the hub was asked");
    let scene = Scene::set();
    scene.asked(HOUR / 4);
    assert_eq!(
        granted(&scene),
        [Code::KeyExpired],
        "it was not there after the key's end"
    );
    assert_eq!(scene.kept(), 0);
    assert!(scene.store.resolve("web-1").is_err());
}

#[test]
fn what_was_met_before_a_key_expired_stands() {
    let scene = Scene::set();
    let grant = scene.grant("robert", 11, "web-1", 1);
    let record = scene.record(&grant, "web-1", &secrets(), 1);
    assert_eq!(scene.remember([record.clone()]), []);
    scene.asked(Duration::ZERO);
    assert_eq!(scene.remember([record]), []);
    scene.store.resolve("web-1").unwrap();
}

#[test]
fn a_known_node_may_make_itself_new_keys_after_its_granter_has_left() {
    let scene = Scene::set();
    let grant = scene.grant("robert", 11, "web-1", 1);
    let first = secrets();
    assert_eq!(scene.remember([scene.record(&grant, "web-1", &first, 1)]), []);
    scene.asked(Duration::ZERO);
    let again = NodeSecrets {
        identity: first.identity.clone(),
        ..secrets()
    };
    assert_eq!(scene.remember([scene.record(&grant, "web-1", &again, 2)]), []);
    let node = scene.store.resolve("web-1").unwrap();
    assert_eq!(node.record.link_key, again.link.public());
}

#[test]
fn a_known_node_is_believed_no_other_grant_of_a_granter_who_has_left() {
    let scene = Scene::set();
    let first = secrets();
    let grant = scene.grant("robert", 11, "web-1", 1);
    assert_eq!(scene.remember([scene.record(&grant, "web-1", &first, 1)]), []);
    scene.asked(Duration::ZERO);
    let backdated = scene.grant("robert", 11, "web-", 2);
    let again = NodeSecrets {
        identity: first.identity.clone(),
        ..secrets()
    };
    assert_eq!(
        scene.remember([scene.record(&backdated, "web-2", &again, 2)]),
        [Code::KeyExpired]
    );
    let node = scene.store.resolve("web-1").unwrap();
    assert_eq!(node.record.link_key, first.link.public());
    assert!(scene.store.resolve("web-2").is_err());
}

#[test]
fn a_copy_without_its_signatures_keeps_no_good_one_away() {
    let scene = Scene::set();
    let grant = scene.grant("alice", 10, "web-1", 1);
    let good = scene.record(&grant, "web-1", &secrets(), 1);
    let mut envelope = Envelope::parse(good.record.as_bytes(), limits::ENVELOPE).unwrap();
    envelope.signatures.truncate(1);
    let stripped = NodeDocs {
        grant: good.grant.clone(),
        record: to_wire(&envelope),
    };
    let path = scene.home.trust_dir().join("nodes/all.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let write = |docs: &[&NodeDocs]| fs::write(&path, serde_json::to_vec(docs).unwrap()).unwrap();
    write(&[&stripped]);
    assert_eq!(scene.remember([]).len(), 1);
    assert_eq!(scene.remember([good.clone()]), []);
    scene.store.resolve("web-1").unwrap();
    assert_eq!(
        scene.remember([stripped.clone()]),
        [],
        "nor does it take its place"
    );
    for both in [[&stripped, &good], [&good, &stripped]] {
        write(&both);
        assert_eq!(scene.remember([]), []);
        assert_eq!(scene.kept(), 1);
    }
}

#[test]
fn what_was_revoked_does_not_fill_a_home() {
    let mut scene = Scene::set();
    let revoke = |scene: &mut Scene, kind, target: String| {
        let revocation = Revocation {
            tag: Default::default(),
            org: scene.org.clone(),
            operator: name("alice"),
            kind,
            target,
            reason: String::new(),
            issued_at: Timestamp::now(),
        };
        let docs = LawDocs {
            revocations: vec![to_wire(&sign(&revocation, &[&key(10)]))],
            ..LawDocs::default()
        };
        let report = scene.store.accept(&docs).unwrap();
        assert!(report.refused.is_empty(), "{report:?}");
    };
    let leaked = scene.grant("alice", 10, "web-", 9);
    let good = scene.grant("alice", 10, "db-1", 1);
    let shown: Vec<_> = (0..9)
        .map(|i| scene.record(&leaked, &format!("web-{i}"), &secrets(), 1))
        .chain([scene.record(&good, "db-1", &secrets(), 1)])
        .collect();
    assert_eq!(scene.remember(shown.clone()), []);
    assert_eq!(scene.kept(), 10);
    revoke(&mut scene, RevocationKind::Grant, leaked.1.to_string());
    assert_eq!(scene.kept(), 1);
    let refused = scene.store.resolve("web-3").unwrap_err();
    assert_eq!(refused.code(), Code::GrantRevoked, "it is still said why");
    assert_eq!(scene.remember(shown.clone()), [Code::GrantRevoked; 9]);
    assert_eq!(scene.kept(), 1);
    let node = scene.store.resolve("db-1").unwrap().id().to_string();
    revoke(&mut scene, RevocationKind::Node, node);
    assert_eq!(scene.kept(), 0);
    assert_eq!(scene.store.resolve("db-1").unwrap_err().code(), Code::NodeRevoked);
    assert_eq!(scene.remember(shown).len(), 10);
    assert_eq!(scene.kept(), 0);
}

/// A hub that holds the first root only. Gives its address, and each request that changes something.
fn hub_of_root_1(org: &OrgId, root_1: String) -> (HubAddress, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    let view = TrustView {
        org: org.clone(),
        docs: LawDocs {
            roots: vec![root_1],
            ..LawDocs::default()
        },
    };
    let pushed = json!({ "root": 2, "bundle": 1, "changed": true, "refused": [] }).to_string();
    let view = serde_json::to_string(&view).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                head.push_str(&line);
                if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let body = if head.starts_with("GET ") { &view } else { &pushed };
            if !head.starts_with("GET ") {
                tell.send(head).unwrap();
            }
            let head =
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
            write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let address = HubAddress {
        url,
        spki: None,
        link_url: None,
        link_spki: None,
    };
    (address, told)
}

#[test]
fn a_new_root_without_law_in_force_is_not_handed_over() {
    let handed = |freshness: &[u8]| {
        let mut scene = Scene::set();
        let mut next = root();
        (next.version, next.org) = (2, Some(scene.org.clone()));
        next.roles.freshness = Role {
            keys: freshness.iter().map(|s| key(*s).public()).collect(),
            threshold: freshness.len() as u32,
        };
        let docs = LawDocs {
            roots: vec![to_wire(&sign(&next, &[&key(1)]))],
            ..LawDocs::default()
        };
        assert_eq!(scene.store.accept(&docs).unwrap().root, Some(2));
        let root_1 = scene.store.trust().docs().roots[0].clone();
        let (address, told) = hub_of_root_1(&scene.org, root_1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let hub = Hub::new(&address, None).unwrap();
        let pushed = runtime.block_on(scene.store.hand_over(&hub)).unwrap();
        assert_eq!(pushed.is_some(), told.try_recv().is_ok());
        pushed.is_some()
    };
    assert!(handed(&[]), "the law so far is in force under it");
    assert!(!handed(&[3]), "it lacks a statement by its keys");
}

/// A home whose file is full, with records that nobody ever verified: as an attacker would like it.
#[test]
fn a_full_home_takes_no_more_and_keeps_what_it_has() {
    let scene = Scene::set();
    let claims = (0..limits::RECORDS_KEPT as u32).map(|i| {
        let mut identity = [0; 32];
        identity[..4].copy_from_slice(&i.to_be_bytes());
        let record = NodeRecord {
            tag: Default::default(),
            org: scene.org.clone(),
            grant_digest: Digest::of(&i.to_be_bytes()),
            node_id: NodeId::derive(&scene.org, &identity),
            name: name("web-1"),
            identity_key: PublicKey::ed25519(identity),
            e2e_key: PublicKey::ed25519(identity),
            seal_key: identity,
            link_key: PublicKey::ed25519(identity),
            epoch: 1,
            issued_at: began(),
        };
        let mut envelope = sign(&record, &[]);
        envelope.signatures.push(Signature {
            keyid: PublicKey::ed25519(identity).id(),
            sig: Vec::new(),
            assertion: None,
        });
        NodeDocs {
            grant: String::new(),
            record: to_wire(&envelope),
        }
    });
    let full: Vec<NodeDocs> = claims.collect();
    let path = scene.home.trust_dir().join("nodes/all.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, serde_json::to_vec(&full).unwrap()).unwrap();
    let grant = scene.grant("alice", 10, "web-2", 1);
    let refused = scene.remember([scene.record(&grant, "web-2", &secrets(), 1)]);
    assert_eq!(refused[0], Code::LimitExceeded);
    assert_eq!(scene.kept(), limits::RECORDS_KEPT);
}
