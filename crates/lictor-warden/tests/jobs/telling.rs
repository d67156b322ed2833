//! What is told of a job, and for how long: unreadable logs, the archive, heartbeats, what a feed remembers.

use std::time::Duration;

use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, OfferReply, Reply, Request};
use lictor_proto::doc::Outcome;
use lictor_proto::{Digest, JobId};
use lictor_warden::Warden;

use crate::support::*;

/// Runs a job with more output than the journal itself keeps, to its end.
async fn large(world: &World, warden: &Warden) -> (Digest, std::path::PathBuf) {
    let (job, o) = world.signed(&["seq", "1", "40000"]);
    assert_eq!(offer(warden, o).await, OfferReply::Accepted);
    finished(&mut warden.events(), job).await;
    let log = format!("{}.log", JobId::from_digest(&job));
    (job, world.dir.path().join("spool").join(log))
}

#[test]
fn a_log_that_cannot_be_read_does_not_keep_the_result_from_being_told() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (job, log) = large(&world, &warden).await;
        std::fs::remove_file(&log).unwrap();
        let (heard, done) = finished(&mut warden.events(), job).await;
        assert_eq!(heard.order, ["started", "finished"]);
        assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
    });
}

#[test]
fn an_acknowledged_log_goes_once_the_acknowledgement_is_for_good() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (job, log) = large(&world, &warden).await;
        let (_, done) = finished(&mut warden.events(), job).await;
        assert!(log.exists());
        ack(&warden, &done).await;
        // `Done` says both: it is in the journal, and so the file could go.
        assert!(!log.exists());
        assert!(world.audit().iter().any(|k| k == "result_acknowledged"));
    });
}

#[test]
fn a_result_that_nobody_takes_moves_to_the_archive_with_its_log() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (job, log) = large(&world, &warden).await;
        let content = std::fs::read(&log).unwrap();
        warden.close().await;
        drop(warden);
        let warden = world.warden_with(|c| c.keep_results = Duration::ZERO).await;
        until("the log to move", || !log.exists()).await;
        let id = JobId::from_digest(&job);
        let archive = world.dir.path().join("archive");
        assert_eq!(std::fs::read(archive.join(format!("{id}.log"))).unwrap(), content);
        let result = std::fs::read(archive.join(format!("{id}.json"))).unwrap();
        let result: lictor_proto::agent::Finished = serde_json::from_slice(&result).unwrap();
        assert_eq!(world.receipt(&result).outcome, Outcome::Succeeded);
        let Reply::Status(status) = warden.ask(Request::Status).await else {
            panic!("no status")
        };
        assert!(status.executions.is_empty());
        warden.close().await;
    });
}

#[test]
fn the_first_thing_a_feed_says_is_what_the_node_is() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let Some(Message::Event(Event::Heartbeat(heartbeat))) = warden.events().next().await else {
            panic!("no heartbeat")
        };
        assert_eq!((&heartbeat.org, &heartbeat.node_id), (&world.org, &world.node_id));
        assert_eq!((heartbeat.law.bundle, heartbeat.name.as_str()), (1, "web-1"));
        let host = &heartbeat.host;
        assert_eq!(
            (host.os.as_str(), host.arch.as_str()),
            (std::env::consts::OS, std::env::consts::ARCH)
        );
        assert!(host.cpus > 0, "{host:?}");
        let backend = heartbeat.backends.iter().find(|b| b.name == "host").unwrap();
        assert!(backend.usable && !backend.capabilities.is_empty(), "{backend:?}");
        for other in heartbeat.backends.iter().filter(|b| !b.usable) {
            assert!(!other.problem.is_empty(), "{other:?}");
        }
    });
}

#[test]
fn a_feed_forgets_what_was_acknowledged() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world
            .warden_with(|c| c.heartbeat = Duration::from_millis(50))
            .await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (_, done) = finished(&mut feed, job).await;
        let remembered = |feed: &lictor_warden::EventFeed| format!("{feed:?}").contains(&format!("{job:?}"));
        assert!(remembered(&feed));
        ack(&warden, &done).await;
        let deadline = tokio::time::Instant::now() + MINUTE;
        while remembered(&feed) {
            assert!(tokio::time::Instant::now() < deadline, "still remembered");
            feed.next().await.unwrap();
        }
    });
}

#[test]
fn a_large_program_that_is_looked_at_holds_nobody_else_up() {
    let world = World::new();
    let path = world.dir.path().join("large");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (_, large) = world.signed(&[path.to_str().unwrap()]);
        let (small, o) = world.signed(&["true"]);
        let first = async {
            let large = offer(&warden, large);
            tokio::pin!(large);
            tokio::select! {
                biased;
                _ = &mut large => false,
                _ = async {
                    assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
                    finished(&mut feed, small).await
                } => true,
            }
        };
        assert!(
            Box::pin(first).await,
            "the small job ends while the large program is hashed"
        );
    });
}
