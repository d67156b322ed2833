//! Bad input: each field's limit and each unknown field, through the hub's API, for every kind of job.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::Problem;
use lictor_proto::doc::{
    Collect, DocKind, Exec, Fetch, Job, Operation, Script, Spec, Stdin, StdinBytes, Workspace,
};
use lictor_proto::{Code, Digest, NodeId, OrgId, Timestamp, limits};
use lictor_trust::sign::{sign_payload, to_wire};
use serde_json::{Value, json};

use super::node::Node;
use super::world::{Org, World, name};

/// A good document of one kind of work, as it is written.
struct Kind {
    called: &'static str,
    good: Value,
}

impl Kind {
    fn is_schedule(&self) -> bool {
        self.called == "schedule"
    }

    fn path(&self) -> &'static str {
        match self.is_schedule() {
            true => "/api/v1/schedules",
            false => "/api/v1/jobs",
        }
    }

    /// It with another value there; a field that it has not is one more.
    fn with(&self, pointer: &str, value: &Value) -> Value {
        let mut doc = self.good.clone();
        let (above, field) = pointer.rsplit_once('/').unwrap();
        let above = doc.pointer_mut(above).unwrap().as_object_mut().unwrap();
        above.insert(field.to_owned(), value.clone());
        doc
    }

    fn signed(&self, doc: &Value, org: &Org) -> String {
        let kind = match self.is_schedule() {
            true => DocKind::Schedule,
            false => DocKind::Job,
        };
        let payload = serde_json::to_vec(doc).unwrap();
        to_wire(&sign_payload(kind.payload_type(), payload, &[&org.alice]))
    }
}

fn kinds(org: &Org, node: &Node) -> Vec<Kind> {
    let of = |called, spec: Spec| {
        let mut job: Job = org.unsigned(&node.id, Exec::new(vec!["true".to_owned()]), Stdin::NONE);
        (job.kind, job.spec) = (spec.kind(), spec);
        let good = serde_json::to_value(job).unwrap();
        Kind { called, good }
    };
    let fetch = Fetch {
        to: "/srv/file".to_owned(),
        url: Some("https://dl.example.org/file".parse().unwrap()),
        sha256: Digest::of(b"file"),
        size: 4,
        mode: "0644".to_owned(),
        owner: None,
        group: None,
        replace: false,
        timeout_ms: None,
        sandbox: None,
    };
    let shop = Workspace::new(Operation::Show, Some(name("shop")));
    let script = Script::new(name("sh"), "true\n".to_owned(), Vec::new());
    vec![
        of("exec", Spec::Exec(Exec::new(vec!["true".to_owned()]))),
        of("script", Spec::Script(script)),
        of("fetch", Spec::Fetch(fetch)),
        of(
            "collect",
            Spec::Collect(Collect::new("/srv/file".to_owned(), 1 << 20)),
        ),
        of("workspace", Spec::Workspace(shop)),
        Kind {
            called: "schedule",
            good: serde_json::to_value(org.schedule_of(&node.id, &["true"])).unwrap(),
        },
    ]
}

type Rows = Vec<(&'static str, Value, Code)>;

/// What holds for every kind.
fn of_all(kind: &Kind, own: &NodeId, org: &OrgId) -> Rows {
    use Code as C;
    let now = Timestamp::now();
    let after = |seconds| json!(now.plus(Duration::from_secs(seconds)));
    let before = |seconds: u64| json!(Timestamp::from_millis(now.as_millis() - seconds * 1000));
    let end = match kind.is_schedule() {
        true => "/ends_at",
        false => "/expires_at",
    };
    let mut many: Vec<NodeId> = (0..=limits::NODES as u64)
        .map(|n| NodeId::derive(org, &Digest::of(&n.to_be_bytes()).0))
        .collect();
    many.sort();
    let stranger = OrgId::from_root(&Digest::of(b"another"));
    let mut rows = vec![
        ("/made_up", json!(1), C::PayloadMalformed),
        ("/spec/made_up", json!(1), C::PayloadMalformed),
        ("/type", json!("cancel"), C::PayloadMalformed),
        ("/org", json!(stranger), C::WrongOrg),
        ("/org", json!("o_short"), C::PayloadMalformed),
        ("/operator", json!("former"), C::SignerMismatch),
        ("/operator", json!("Not A Name"), C::PayloadMalformed),
        ("/nonce", json!("AAAA"), C::DocumentInvalid),
        ("/nodes", json!([]), C::DocumentInvalid),
        ("/nodes", json!([own, own]), C::DocumentInvalid),
        ("/nodes", json!([many[0]]), C::NodeUnknown),
        ("/nodes", json!(many), C::LimitExceeded),
        ("/spec", json!("true"), C::PayloadMalformed),
        ("/profile", json!("../host"), C::PayloadMalformed),
        ("/secrets", json!([{}]), C::PayloadMalformed),
        ("/expect", json!({ "os": "x".repeat(65) }), C::DocumentInvalid),
        ("/expect", json!({ "made_up": "x" }), C::PayloadMalformed),
        ("/reason", json!("x".repeat(1025)), C::LimitExceeded),
        ("/min_bundle", json!(2), C::StaleBundle),
        ("/min_bundle", json!(1.5), C::PayloadMalformed),
        ("/min_bundle", json!(-1), C::PayloadMalformed),
        ("/issued_at", json!("today"), C::PayloadMalformed),
        (end, before(3600), C::DocumentInvalid),
        (end, after(31 * 86_400), C::LimitExceeded),
    ];
    if kind.is_schedule() {
        rows.push(("/issued_at", after(3600), C::IssuedInFuture));
    } else {
        rows.extend([
            ("/kind", json!("collect_all"), C::KindUnsupported),
            ("/issued_at", after(3600), C::DocumentInvalid),
            ("/issued_at", after(200), C::IssuedInFuture),
            ("/not_before", after(86_400), C::DocumentInvalid),
            ("/output_to", json!(["elsewhere"]), C::PayloadMalformed),
            ("/stdin", json!("live"), C::PayloadMalformed),
            ("/after", json!(["x"]), C::PayloadMalformed),
            ("/retry_of", json!("x"), C::PayloadMalformed),
        ]);
        let digests: Vec<Digest> = (0..=limits::AFTER as u8).map(|n| Digest([n; 32])).collect();
        rows.push(("/after", json!(digests), C::LimitExceeded));
    }
    rows
}

/// What holds for processes.
fn of_processes(kind: &Kind) -> Rows {
    use Code as C;
    let words = match kind.called {
        "script" => "/spec/args",
        _ => "/spec/argv",
    };
    let variables: BTreeMap<String, &str> = (0..=limits::ENV_VARS).map(|n| (format!("V{n}"), "")).collect();
    let git = |url: &str, commit: &str| json!({ "url": url, "commit": commit });
    let commit = "0123456789012345678901234567890123456789";
    let large = "x".repeat(limits::ARGV_ENV);
    let mut rows = vec![
        (words, json!(["true", "a\0b"]), C::DocumentInvalid),
        (words, json!(["true", large]), C::LimitExceeded),
        (words, json!([1]), C::PayloadMalformed),
        ("/spec/env", json!({ "A=B": "" }), C::DocumentInvalid),
        ("/spec/env", json!({ "": "" }), C::DocumentInvalid),
        ("/spec/env", json!({ "A": "\0" }), C::DocumentInvalid),
        ("/spec/env", json!(variables), C::LimitExceeded),
        ("/spec/cwd", json!("here"), C::DocumentInvalid),
        ("/spec/timeout_ms", json!(0), C::LimitExceeded),
        ("/spec/timeout_ms", json!(31u64 * 86_400_000), C::LimitExceeded),
        ("/spec/grace_ms", json!(600_001), C::LimitExceeded),
        ("/spec/keep_bytes", json!(-1), C::PayloadMalformed),
        ("/spec/sandbox", json!("../x"), C::PayloadMalformed),
        ("/spec/terms", json!({}), C::DocumentInvalid),
        ("/spec/terms", json!({ "user": "a b" }), C::PayloadMalformed),
        ("/spec/terms", json!({ "umask": "7777" }), C::DocumentInvalid),
        (
            "/spec/terms",
            json!({ "limits": { "pids": 0 } }),
            C::LimitExceeded,
        ),
        (
            "/spec/terms",
            json!({ "limits": { "made_up": 1 } }),
            C::PayloadMalformed,
        ),
        (
            "/spec/git",
            git("https://git.example/shop", "main"),
            C::DocumentInvalid,
        ),
        ("/spec/git", git("file:///srv/shop", commit), C::DocumentInvalid),
    ];
    if !kind.is_schedule() {
        let stdin = |size| {
            json!(Stdin::Bytes(StdinBytes {
                sha256: Digest::of(b"unknown"),
                size
            }))
        };
        let uses = |delivery: &str| json!([{ "name": "db", "version": 1, "digest": Digest::of(b"unknown"), "delivery": delivery }]);
        rows.extend([
            ("/stdin", stdin(7), C::StdinMissing),
            ("/stdin", stdin(limits::STDIN + 1), C::LimitExceeded),
            ("/secrets", uses("memfd"), C::SecretMissing),
            ("/secrets", uses("argv"), C::PayloadMalformed),
            ("/secrets", uses("git"), C::DocumentInvalid),
        ]);
    }
    rows
}

/// What holds for one kind alone.
fn of_one(kind: &Kind) -> Rows {
    use Code as C;
    let path = |field: &'static str| {
        vec![
            (field, json!("srv/file"), C::DocumentInvalid),
            (field, json!("/srv/../file"), C::DocumentInvalid),
            (field, json!("/srv//file"), C::DocumentInvalid),
            (field, json!("/srv/\0"), C::DocumentInvalid),
            (field, json!("/ab".repeat(1366)), C::LimitExceeded),
            (field, json!(format!("/{}", "a".repeat(256))), C::LimitExceeded),
            ("/spec/timeout_ms", json!(0), C::LimitExceeded),
            ("/spec/sandbox", json!("../x"), C::PayloadMalformed),
            ("/stdin", json!(Stdin::bytes(b"x")), C::DocumentInvalid),
        ]
    };
    let large = "x".repeat(limits::SCRIPT + 1);
    match kind.called {
        "exec" => vec![
            ("/spec/argv", json!([]), C::DocumentInvalid),
            ("/spec/argv", json!([""]), C::DocumentInvalid),
        ],
        "script" => vec![
            ("/spec/content", json!("false\n"), C::DocumentInvalid),
            ("/spec/content", json!(null), C::DocumentInvalid),
            ("/spec/content", json!(large), C::LimitExceeded),
            ("/spec/name", json!("deploy.sh"), C::DocumentInvalid),
            ("/spec/interpreter", json!("/bin/sh"), C::PayloadMalformed),
            ("/spec/sha256", json!("sha256:00"), C::PayloadMalformed),
        ],
        "fetch" => [
            path("/spec/to"),
            vec![
                ("/spec/url", json!("file:///etc/shadow"), C::PayloadMalformed),
                (
                    "/spec/url",
                    json!("https://a.example/x/../y"),
                    C::PayloadMalformed,
                ),
                ("/spec/size", json!(0), C::DocumentInvalid),
                ("/spec/size", json!(limits::ARTIFACT + 1), C::LimitExceeded),
                ("/spec/mode", json!("4755"), C::DocumentInvalid),
                ("/spec/owner", json!("a:b"), C::DocumentInvalid),
                ("/spec/group", json!(""), C::DocumentInvalid),
                ("/spec/sha256", json!("md5:00"), C::PayloadMalformed),
                // Without a URL the hub would have to have it.
                ("/spec/url", json!(null), C::StdinMissing),
            ],
        ]
        .concat(),
        "collect" => [
            path("/spec/from"),
            vec![
                ("/spec/max_bytes", json!(0), C::LimitExceeded),
                ("/spec/max_bytes", json!(limits::ARTIFACT + 1), C::LimitExceeded),
            ],
        ]
        .concat(),
        "workspace" => vec![
            ("/spec/operation", json!("empty"), C::PayloadMalformed),
            ("/spec/operation", json!("list"), C::DocumentInvalid),
            ("/spec/operation", json!("snapshot"), C::DocumentInvalid),
            ("/spec/operation", json!("clone"), C::DocumentInvalid),
            ("/spec/operation", json!("diff"), C::DocumentInvalid),
            ("/spec/sandbox", json!("../shop"), C::PayloadMalformed),
            ("/spec/snapshot", json!("before"), C::DocumentInvalid),
            ("/spec/timeout_ms", json!(0), C::LimitExceeded),
            ("/spec/terms", json!({ "umask": "0022" }), C::DocumentInvalid),
            ("/stdin", json!(Stdin::bytes(b"x")), C::DocumentInvalid),
        ],
        _ => vec![
            ("/cron", json!("0 25 * * *"), C::DocumentInvalid),
            ("/cron", json!("0 3 29 2 *"), C::DocumentInvalid),
            ("/cron", json!("1,".repeat(200) + "1 * * * *"), C::DocumentInvalid),
            ("/tz", json!("Europe/Nowhere"), C::DocumentInvalid),
            ("/jitter_ms", json!(6 * 3_600_000 + 1), C::LimitExceeded),
            ("/start_within_ms", json!(999), C::LimitExceeded),
            ("/start_within_ms", json!(7 * 86_400_000 + 1), C::LimitExceeded),
            ("/missed", json!("twice"), C::PayloadMalformed),
            ("/overlap", json!("kill"), C::PayloadMalformed),
            ("/kind", json!("collect"), C::PayloadMalformed),
            ("/kind", json!("collect_all"), C::PayloadMalformed),
        ],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_each_kind_is_held_to_its_limit_and_what_is_refused_is_nowhere() {
    let world = World::new().await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let hand_in = async |kind: &Kind, wire: &str| {
        let call = world.call(Some(&org.secret), Method::POST, kind.path(), wire);
        call.await
    };
    let all = kinds(&org, &node);
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for kind in &all {
        let good = hand_in(kind, &kind.signed(&kind.good, &org)).await;
        assert_eq!(good.status, StatusCode::ACCEPTED, "{}: {good:?}", kind.called);
        let mut rows = of_all(kind, &node.id, &org.id);
        if ["exec", "script", "schedule"].contains(&kind.called) {
            rows.extend(of_processes(kind));
        }
        rows.extend(of_one(kind));
        for (pointer, value, code) in rows {
            let wire = kind.signed(&kind.with(pointer, &value), &org);
            let answer = hand_in(kind, &wire).await;
            let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
            let said = problem.map(|p| p.code);
            if !answer.status.is_client_error() || said != Some(code) {
                let value = value.to_string().chars().take(60).collect::<String>();
                wrong.push(format!(
                    "{} {pointer} = {value}: {} {said:?}, not {code}",
                    kind.called, answer.status
                ));
            }
            refused += 1;
        }
        // And around what is signed.
        let mut envelope: Value = serde_json::from_str(&kind.signed(&kind.good, &org)).unwrap();
        envelope["made_up"] = json!(1);
        let answer = hand_in(kind, &envelope.to_string()).await;
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem.code, Code::EnvelopeMalformed, "{}", kind.called);
        refused += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = "/api/v1/jobs?limit=1000";
    let listed = world.call(Some(&org.secret), Method::GET, path, "").await;
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(
        listed["items"].as_array().unwrap().len(),
        all.len(),
        "something was stored"
    );
    let app = world.hub.app();
    let waiting = app.store.pending(&org.id, &node.id).await.unwrap();
    assert_eq!(waiting.len(), all.len(), "something waits for the node");
    let audit = world.audit(&org).await;
    let told = audit.iter().filter(|a| *a == "job_rejected").count();
    assert_eq!(told, refused, "each refusal is in the audit log");
    world.hub.shutdown().await;
}
