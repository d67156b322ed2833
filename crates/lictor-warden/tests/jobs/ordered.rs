//! Jobs that come after others, by the node's own journal.

use lictor_proto::agent::OfferReply;
use lictor_proto::doc::Outcome;
use lictor_proto::{Code, Digest};

use crate::support::*;

fn waits(reply: OfferReply) -> bool {
    matches!(reply, OfferReply::Later(r) if r.code == Code::AfterWaiting)
}

#[test]
fn a_job_begins_when_all_that_it_comes_after_have_ended_here_and_holds_up_nobody() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden_with(|config| config.max_jobs = 2).await;
        let mut feed = warden.events();
        let go = world.dir.path().join("go");
        let script = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 3", go.display());
        let (first, run) = world.signed(&["sh", "-c", &script]);
        let (second, failing) = world.signed(&["false"]);
        let mut after = world.job("alice", &["true"]);
        after.after = vec![first.min(second), first.max(second)];
        let (third, o) = world.sign_job(&after);
        // Before any of them has come, and while one of them runs.
        assert!(waits(offer(&warden, o.clone()).await));
        assert_eq!(offer(&warden, run).await, OfferReply::Accepted);
        assert_eq!(offer(&warden, failing).await, OfferReply::Accepted);
        finished(&mut feed, second).await;
        assert!(waits(offer(&warden, o).await));
        // There are two places, and the one that waits has none of them.
        world.run(&warden, &mut feed, &["true"]).await;
        std::fs::write(&go, "").unwrap();
        // Nobody offers it again.
        let (_, done) = finished(&mut feed, third).await;
        let receipt = world.receipt(&done);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
        let before = world.receipt(&finished_already(&warden, first).await);
        assert!(before.finished_at <= receipt.started_at.unwrap());
    });
}

async fn finished_already(warden: &lictor_warden::Warden, job: Digest) -> lictor_proto::agent::Finished {
    finished(&mut warden.events(), job).await.1
}

#[test]
fn what_has_ended_before_a_restart_has_ended_after_it() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (first, run) = world.signed(&["true"]);
        let mut after = world.job("alice", &["true"]);
        after.after = vec![first];
        let (second, o) = world.sign_job(&after);
        assert!(waits(offer(&warden, o.clone()).await));
        assert_eq!(offer(&warden, run).await, OfferReply::Accepted);
        let (_, done) = finished(&mut feed, first).await;
        ack(&warden, &done).await;
        finished(&mut feed, second).await;
        warden.close().await;
        drop((warden, feed));
        let warden = world.warden().await;
        let mut feed = warden.events();
        let mut third = world.job("alice", &["true"]);
        third.after = vec![first.min(second), first.max(second)];
        let (third, o) = world.sign_job(&third);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        finished(&mut feed, third).await;
    });
}

#[test]
fn a_job_that_waits_for_one_that_never_ends_expires() {
    let world = World::new();
    let ahead = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let turned = ahead.clone();
    runtime().block_on(async {
        let warden = world
            .warden_with(|config| {
                config.clock = lictor_warden::Clock::new(move || {
                    let now = lictor_proto::Timestamp::now();
                    let ahead = turned.load(std::sync::atomic::Ordering::SeqCst);
                    now.plus(std::time::Duration::from_millis(ahead))
                });
            })
            .await;
        let mut feed = warden.events();
        let mut after = world.job("alice", &["true"]);
        after.after = vec![Digest::of(b"nobody has ever seen it")];
        let (job, o) = world.sign_job(&after);
        assert!(waits(offer(&warden, o).await));
        ahead.store(6 * 60_000, std::sync::atomic::Ordering::SeqCst);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Expired, Some(Code::Expired))
        );
    });
}
