//! Every route that the document lists, tried by nobody and by another org.

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::Problem;
use lictor_proto::{Code, JobId};

use super::node::{Node, job_digest};
use super::world::World;

/// The only routes that anybody may call. It may only shrink.
const OPEN: &[&str] = &["/health", "/ready", "/metrics", "/api/v1/openapi.json"];

pub struct Route {
    pub method: Method,
    pub path: String,
}

/// The document's own list, as served.
pub async fn routes(world: &World) -> Vec<Route> {
    let answer = world.call(None, Method::GET, "/api/v1/openapi.json", "").await;
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "delete"]
            .iter()
            .filter(|m| item.get(**m).is_some())
        {
            routes.push(Route {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
            });
        }
    }
    assert!(routes.len() >= 30, "{}", routes.len());
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_strangers() {
    let world = World::new().await;
    for Route { method, path } in routes(&world).await {
        let path = path.replace("{", "x").replace("}", "");
        for token in [None, Some("lictor_pat_0000000000000000_00"), Some("x")] {
            let answer = world.call(token, method.clone(), &path, "").await;
            if OPEN.contains(&path.as_str()) {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
            } else {
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
                let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
                assert!(!problem.request_id.is_empty());
            }
        }
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_one_org_does_not_exist_for_another() {
    let world = World::new().await;
    let (mine, theirs) = (world.org("mine").await, world.org("theirs").await);
    let node = Node::enrol(&world, &mine, "web-1").await;
    let job = mine.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    let answer = world
        .call(Some(&mine.secret), Method::POST, "/api/v1/jobs", &job)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let node_id = &node.id;
    let follow = serde_json::json!({ "nodes": [{ "node_id": node_id, "from": 0 }], "follow": false });
    let follow = follow.to_string();
    let token_id = mine.secret.split('_').nth(2).unwrap().to_owned();
    for Route { method, path } in routes(&world).await {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        if path.starts_with("/api/v1/agent") {
            let answer = world.call(Some(&theirs.secret), method.clone(), &path, "").await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "a token is no node: {path}"
            );
            continue;
        }
        let own = if path.contains("/nodes") {
            node.id.as_str().to_owned()
        } else if path.contains("/tokens") {
            token_id.clone()
        } else {
            id.as_str().to_owned()
        };
        let real = path.replace("{id}", &own).replace("{name}", "db");
        // Documents that would be taken from somebody of the org.
        let body = match () {
            () if method != Method::POST => String::new(),
            () if path.ends_with("/cancel") => mine.cancel(&job),
            () if path.ends_with("/approvals") => mine.approval(&job),
            () if path.ends_with("/releases") => mine.release(&job, node_id),
            () if path.ends_with("/remarks") => mine.remark(&job),
            () if path.ends_with("/follow") => follow.clone(),
            () => job.clone(),
        };
        let answer = world
            .call(Some(&theirs.secret), method.clone(), &real, &body)
            .await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            !text.contains(node.id.as_str()),
            "{method} {real} shows the other org's node: {text}"
        );
        assert!(
            !text.contains(id.as_str()),
            "{method} {real} shows the other org's job: {text}"
        );
        if path.contains("{id}") && method != Method::POST {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {real}: {text}");
        } else if method == Method::POST {
            assert!(
                answer.status.is_client_error() || path == "/api/v1/trust",
                "{method} {real}: {text}"
            );
        }
    }
    let answer = world
        .call(Some(&mine.secret), Method::GET, "/api/v1/tokens", "")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "the token still stands");
    let audit = world.audit(&mine).await;
    for kind in [
        "cancel_submitted",
        "approval_submitted",
        "release_submitted",
        "remark_submitted",
    ] {
        assert!(!audit.iter().any(|a| a == kind), "{kind} in {audit:?}");
    }
    // The same documents count for somebody of the org.
    let documents = [
        ("cancel", mine.cancel(&job)),
        ("approvals", mine.approval(&job)),
        ("releases", mine.release(&job, node_id)),
        ("remarks", mine.remark(&job)),
        ("follow", follow),
    ];
    for (path, body) in documents {
        let path = format!("/api/v1/jobs/{id}/{path}");
        let answer = world.call(Some(&mine.secret), Method::POST, &path, &body).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_submission_is_in_the_audit_log_and_nothing_is_stored() {
    let world = World::new().await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    let node = Node::enrol(&world, &org, "web-1").await;
    let forged = {
        let mut envelope: serde_json::Value = serde_json::from_str(&org.job(&node.id, &["true"])).unwrap();
        let signed = other.job(&node.id, &["true"]);
        let stranger: serde_json::Value = serde_json::from_str(&signed).unwrap();
        envelope["signatures"] = stranger["signatures"].clone();
        envelope.to_string()
    };
    for path in ["/api/v1/jobs", "/api/v1/approvals", "/api/v1/grants"] {
        let answer = world.call(Some(&org.secret), Method::POST, path, &forged).await;
        assert!(answer.status.is_client_error(), "{path}: {answer:?}");
    }
    let id = JobId::from_digest(&job_digest(&forged));
    let answer = world
        .call(Some(&org.secret), Method::GET, &format!("/api/v1/jobs/{id}"), "")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let audit = world.audit(&org).await;
    for kind in ["job_rejected", "approval_rejected", "enroll_refused"] {
        assert!(audit.iter().any(|a| a == kind), "{kind} in {audit:?}");
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_dated_back_by_an_expired_key_is_not_taken() {
    let world = World::new().await;
    let org = world.org("one").await;
    let answer = world
        .call(
            Some(&org.secret),
            Method::POST,
            "/api/v1/grants",
            &org.grant_dated_back("web-1"),
        )
        .await;
    assert!(answer.status.is_client_error(), "{answer:?}");
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem.code, Code::KeyExpired);
    world.hub.shutdown().await;
}
