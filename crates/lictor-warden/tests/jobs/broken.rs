//! A journal that cannot be relied on any more: the warden says so, takes nothing, and recovers when it is started
//! again.

use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::doc::Outcome;
use lictor_proto::{Code, Digest};
use lictor_warden::{JournalError, Warden};

use crate::sleeper::Sleeper;
use crate::support::*;

/// Offers jobs until the journal has found that it has no place any more.
async fn breaks(world: &World, warden: &Warden) {
    let broken = async {
        loop {
            let reply = offer(warden, world.signed(&["true"]).1).await;
            if matches!(reply, OfferReply::Later(r) if r.code == Code::JournalFailed) {
                return;
            }
        }
    };
    tokio::time::timeout(MINUTE, broken).await.expect("it breaks");
}

#[test]
fn a_broken_journal_is_told_ends_what_runs_and_is_recovered_from_by_a_new_start() {
    let world = World::new();
    let journal = world.dir.path().join("journal.log");
    let aside = world.dir.path().join("aside");
    let sleeper = Sleeper::new(&world, |pid| format!("echo before; echo $$ > {pid}; sleep 600"));
    runtime().block_on(async {
        // Rotated at every chance.
        let warden = world.warden_with(|c| c.rotate_after = 1).await;
        sleeper.start(&warden).await;
        // Nothing can take the journal's place, and whether it is still in its place is unsure.
        std::fs::rename(&journal, &aside).unwrap();
        std::fs::create_dir(&journal).unwrap();
        breaks(&world, &warden).await;
        let why = warden.broken().await;
        assert!(matches!(why, JournalError::Broken(_)), "{why}");
        // Whatever grace there is, it is no use to wait.
        let drain = warden.ask(Request::Drain { grace_ms: 600_000 });
        let drained = tokio::time::timeout(MINUTE, drain).await.expect("at once");
        assert!(matches!(drained, Reply::Refused(r) if r.code == Code::JournalFailed));
        assert!(!sleeper.is_there());
        warden.close().await;
    });
    std::fs::remove_dir(&journal).unwrap();
    std::fs::rename(&aside, &journal).unwrap();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (heard, done) = finished(&mut warden.events(), sleeper.job).await;
        assert_eq!(heard.stdout, b"before\n");
        assert_eq!(world.receipt(&done).outcome, Outcome::Interrupted);
        assert_eq!(offer(&warden, sleeper.offer.clone()).await, OfferReply::Known);
        let (_, o) = world.signed(&["true"]);
        assert_eq!(
            offer(&warden, o).await,
            OfferReply::Accepted,
            "and it works again"
        );
    });
}

/// Ends what `begin` has the warden take, by a cancel: once while nothing can be written, and once after a new start.
fn is_ended_once_it_can_be_written(who: &str, begin: impl AsyncFn(&World, &Warden) -> Digest) {
    let world = World::new();
    let (journal, aside) = (
        world.dir.path().join("journal.log"),
        world.dir.path().join("aside"),
    );
    let digest = runtime().block_on(async {
        // Rotated at every chance.
        let warden = world.warden_with(|c| c.rotate_after = 1).await;
        let digest = begin(&world, &warden).await;
        std::fs::rename(&journal, &aside).unwrap();
        std::fs::create_dir(&journal).unwrap();
        breaks(&world, &warden).await;
        let reply = warden.ask(Request::Cancel(world.cancel(digest, who))).await;
        assert!(
            matches!(&reply, Reply::Refused(r) if r.code == Code::JournalFailed),
            "{reply:?}"
        );
        warden.close().await;
        digest
    });
    std::fs::remove_dir(&journal).unwrap();
    std::fs::rename(&aside, &journal).unwrap();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let cancel = || Request::Cancel(world.cancel(digest, who));
        assert_eq!(warden.ask(cancel()).await, Reply::Done);
        let receipt = world.receipt(&finished(&mut feed, digest).await.1);
        assert_eq!(
            (receipt.outcome, receipt.started_at),
            (Outcome::Canceled, None),
            "it still stood"
        );
        assert_eq!(
            warden.ask(cancel()).await,
            Reply::Done,
            "and a second changes nothing"
        );
    });
}

#[test]
fn a_cancel_of_what_waits_for_approvals_is_not_answered_as_done_where_its_end_cannot_be_written() {
    is_ended_once_it_can_be_written("carol", async |world, warden| {
        let (digest, o) = world.sign_job(&world.job("carol", &["true"]));
        assert!(matches!(offer(warden, o).await, OfferReply::Ask(_)));
        digest
    });
}

#[test]
fn a_cancel_of_a_schedule_is_not_answered_as_done_where_its_end_cannot_be_written() {
    is_ended_once_it_can_be_written("alice", async |world, warden| {
        let (digest, o) = world.sign_schedule(&world.schedule("alice", &["true"]));
        assert_eq!(offer(warden, o).await, OfferReply::Accepted);
        digest
    });
}
