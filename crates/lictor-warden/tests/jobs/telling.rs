//! What is told of a job, and for how long: unreadable logs, the archive, heartbeats, what a feed remembers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, OfferReply, ReadOutput, Reply, Request};
use lictor_proto::doc::Outcome;
use lictor_proto::{Digest, JobId, Timestamp};
use lictor_warden::{Clock, Warden, archive};

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

/// A clock that a test sets, ahead of the system's by so much.
fn ahead() -> (Arc<AtomicU64>, Clock) {
    let by = Arc::new(AtomicU64::new(0));
    let read = by.clone();
    let clock = Clock::new(move || {
        let by = Duration::from_secs(read.load(Ordering::Relaxed));
        Timestamp::now().plus(by)
    });
    (by, clock)
}

const WEEK: u64 = 7 * 24 * 3600;

#[test]
fn a_result_that_nobody_takes_for_a_week_moves_to_the_archive_whole_and_is_told_when_the_hub_is_back() {
    let world = World::new();
    let (by, clock) = ahead();
    runtime().block_on(async {
        let warden = world.warden_with(|c| c.clock = clock.clone()).await;
        let (job, log) = large(&world, &warden).await;
        let content = std::fs::read(&log).unwrap();
        let (small, o) = world.signed(&["echo", "hello"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        finished(&mut warden.events(), small).await;
        // One that is over, and so is forgotten by the same chores, which shows that they have been done.
        let (over, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (_, done) = finished(&mut warden.events(), over).await;
        ack(&warden, &done).await;
        warden.close().await;
        drop(warden);
        // Chores are done when a warden has begun. Just before a week has passed, nothing moves ...
        by.store(WEEK - 3600, Ordering::Relaxed);
        let warden = world.warden_with(|c| c.clock = clock.clone()).await;
        until("the chores", || {
            world.audit().iter().any(|k| k == "journal_pruned")
        })
        .await;
        warden.close().await;
        drop(warden);
        assert!(log.exists() && archive::list(world.dir.path()).unwrap().is_empty());
        // ... and after it, both do.
        by.store(WEEK + 60, Ordering::Relaxed);
        let warden = world.warden_with(|c| c.clock = clock.clone()).await;
        until("both to move", || {
            archive::list(world.dir.path()).unwrap().len() == 2 && !log.exists()
        })
        .await;
        until("it is said", || {
            world.audit().iter().filter(|k| *k == "result_archived").count() == 2
        })
        .await;
        let dir = archive::below(world.dir.path()).join(JobId::from_digest(&job).as_str());
        assert_eq!(std::fs::read(dir.join("output.log")).unwrap(), content);
        let receipt = archive::wire(&dir, "receipt.json").unwrap();
        let receipt = world.trust.verify_receipt(&world.node, &receipt).unwrap();
        assert_eq!((receipt.outcome, receipt.job_digest), (Outcome::Succeeded, job));
        let Reply::Status(status) = warden.ask(Request::Status).await else {
            panic!("no status")
        };
        assert!(status.executions.is_empty());
        warden.close().await;
        drop(warden);
        // The hub is back: it hears everything, and what it has goes.
        let warden = world.warden_with(|c| c.clock = clock.clone()).await;
        let (heard, done) = finished(&mut warden.events(), small).await;
        assert_eq!(
            (heard.stdout.as_slice(), world.receipt(&done).outcome),
            (&b"hello\n"[..], Outcome::Succeeded)
        );
        ack(&warden, &done).await;
        let (_, done) = finished(&mut warden.events(), job).await;
        let read = ReadOutput {
            job,
            from: 0,
            max: 1 << 20,
            wait: false,
        };
        let (part, bytes) = warden.read_output(read).await.unwrap();
        assert_eq!((part.end, &bytes[..]), (true, &content[..]));
        ack(&warden, &done).await;
        assert!(archive::list(world.dir.path()).unwrap().is_empty());
        assert_eq!(
            world
                .audit()
                .iter()
                .filter(|k| *k == "result_acknowledged")
                .count(),
            3
        );
        warden.close().await;
    });
}

#[test]
fn a_full_archive_lets_its_oldest_result_go_and_says_so() {
    let world = World::new();
    let (by, clock) = ahead();
    runtime().block_on(async {
        let small = |c: &mut lictor_warden::Config| {
            c.clock = clock.clone();
            // Two of these, and no third.
            c.archive_bytes = 600_000;
        };
        let warden = world.warden_with(small).await;
        let mut jobs = Vec::new();
        for _ in 0..3 {
            jobs.push(large(&world, &warden).await.0);
        }
        warden.close().await;
        drop(warden);
        by.store(WEEK + 60, Ordering::Relaxed);
        let warden = world.warden_with(small).await;
        let said = |what: &str| world.audit().iter().filter(|k| *k == what).count();
        until("the oldest to go", || {
            said("result_archived") == 3 && said("result_dropped") == 1
        })
        .await;
        let held = || -> Vec<Digest> {
            let all = archive::list(world.dir.path()).unwrap();
            all.iter().map(|(_, a)| a.job).collect()
        };
        assert_eq!(held(), jobs[1..]);
        warden.close().await;
    });
}

#[test]
fn a_result_that_is_not_acknowledged_is_told_again_on_the_same_link_until_it_is() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world
            .warden_with(|c| {
                c.heartbeat = Duration::from_millis(20);
                c.tell_again = Duration::from_millis(50);
            })
            .await;
        let (job, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let mut feed = warden.events();
        let (_, first) = finished(&mut feed, job).await;
        let (_, second) = finished(&mut feed, job).await;
        assert_eq!(first.receipt, second.receipt);
        ack(&warden, &second).await;
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
