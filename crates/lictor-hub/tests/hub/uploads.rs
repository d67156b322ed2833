//! Inputs whose way into the store, or out of it, is broken off between the file and its row.

use std::path::PathBuf;
use std::time::Duration;

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::{Digest, Timestamp};

use super::limits::files;
use super::world::{Org, World, until};

const INPUT: &str = "an input";

fn hex(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string().replace("sha256:", "")
}

async fn put(world: &World, org: &Org) -> StatusCode {
    let path = format!("/api/v1/blobs/{}", hex(INPUT));
    let answer = world.call(Some(&org.secret), Method::PUT, &path, INPUT).await;
    answer.status
}

fn file(world: &World, org: &Org) -> PathBuf {
    let inputs = world.dir.path().join("objects/stdin");
    inputs.join(org.id.as_str()).join(hex(INPUT))
}

/// The hub is stopped by its database just where a kill would end it: the file is whole, and is not stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_input_whose_upload_ended_and_was_never_stored_goes_when_the_hub_is_back() {
    let mut world = World::new().await;
    let org = world.org("one").await;
    let broken = "CREATE TRIGGER broken BEFORE UPDATE ON blobs BEGIN SELECT RAISE(ABORT, 'broken'); END";
    world.sql(broken).await;
    assert!(put(&world, &org).await.is_server_error());
    assert!(file(&world, &org).is_file(), "it came to its end");
    world.sql("DROP TRIGGER broken").await;
    let sha256 = Digest::of(INPUT.as_bytes());
    let stored = world.hub.app().store.blob(&org.id, &sha256).await.unwrap();
    assert_eq!(stored, None, "nobody is given it");
    world = world.restart().await;
    until("it is gone", async || files(world.dir.path()) == 0).await;
    until("its row goes with it", async || {
        let idle = world.hub.app().store.idle_blobs(Timestamp::now(), None);
        idle.await.unwrap().is_empty()
    })
    .await;
    assert_eq!(put(&world, &org).await, StatusCode::CREATED);
    let stored = world.hub.app().store.blob(&org.id, &sha256).await.unwrap();
    assert_eq!(stored, Some(INPUT.len() as u64));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_input_that_cannot_be_deleted_is_not_forgotten_before_it_is() {
    let world = World::new().await;
    let org = world.org("one").await;
    assert_eq!(put(&world, &org).await, StatusCode::CREATED);
    let app = world.hub.app();
    let later = Timestamp::now().plus(Duration::from_secs(49 * 3600));
    // What is no file is not deleted as one.
    std::fs::remove_file(file(&world, &org)).unwrap();
    std::fs::create_dir(file(&world, &org)).unwrap();
    assert_eq!(app.sweep(later).await.unwrap(), 0);
    std::fs::remove_dir(file(&world, &org)).unwrap();
    assert_eq!(app.sweep(later).await.unwrap(), 1, "its row was still there");
    assert_eq!(app.sweep(later).await.unwrap(), 0);
    world.hub.shutdown().await;
}
