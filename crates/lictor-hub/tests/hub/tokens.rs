//! API tokens: what they may do, how they end, and that their secrets are nowhere.

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::api::{CreatedToken, Page, Problem, TokenView};
use lictor_proto::{Code, Timestamp};

use super::node::one;
use super::world::{Org, World};

async fn make(world: &World, org: &Org, scope: &str, expires_at: Option<Timestamp>) -> CreatedToken {
    let new = serde_json::json!({ "label": "t", "scope": scope, "expires_at": expires_at });
    let answer = world
        .call(
            Some(&org.secret),
            Method::POST,
            "/api/v1/tokens",
            &new.to_string(),
        )
        .await;
    assert!(answer.status.is_success(), "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_its_scope_lets_it_until_it_is_deleted() {
    let (world, org, node) = one().await;
    let made = make(&world, &org, "read", None).await;
    let call = async |method: Method, path: &str, body: &str| {
        world.call(Some(&made.secret), method, path, body).await
    };
    assert_eq!(call(Method::GET, "/api/v1/jobs", "").await.status, StatusCode::OK);
    let job = org.job(&node.id, &["true"]);
    let refused = call(Method::POST, "/api/v1/jobs", &job).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    let problem: Problem = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem.code, Code::ScopeMissing);
    let listed = world
        .call(Some(&org.secret), Method::GET, "/api/v1/tokens", "")
        .await;
    let text = String::from_utf8(listed.body.to_vec()).unwrap();
    assert!(!text.contains(&made.secret) && !text.contains(made.secret.rsplit('_').next().unwrap()));
    let page: Page<TokenView> = serde_json::from_str(&text).unwrap();
    assert!(page.items.iter().any(|t| t.token_id == made.token.token_id));
    let path = format!("/api/v1/tokens/{}", made.token.token_id);
    let deleted = world.call(Some(&org.secret), Method::DELETE, &path, "").await;
    assert!(deleted.status.is_success(), "{deleted:?}");
    let after = call(Method::GET, "/api/v1/jobs", "").await.status;
    assert_eq!(after, StatusCode::UNAUTHORIZED);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_none() {
    let world = World::new().await;
    let org = world.org("one").await;
    let made = make(&world, &org, "read", Some(Timestamp::now())).await;
    let answer = world
        .call(Some(&made.secret), Method::GET, "/api/v1/jobs", "")
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_token_is_in_no_file_of_the_hub() {
    let world = World::new().await;
    let org = world.org("one").await;
    let secret = make(&world, &org, "admin", None).await.secret;
    let secret = secret.rsplit('_').next().unwrap().to_owned();
    assert!(secret.len() >= 16);
    let dir = world.dir;
    world.hub.shutdown().await;
    let mut read = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            let bytes = std::fs::read(file.path()).unwrap();
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{}", file.path().display());
            read += 1;
        }
    }
    assert!(read > 0);
}
