//! Every type of event that an agent writes is written when what it says happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lictor_audit::{EventType, Source};
use lictor_proto::agent::{Ack, LawDocs, OfferReply, Reply, Request, StdinPiece};
use lictor_proto::doc::{Outcome, Stdin};
use lictor_proto::{Code, Digest, Timestamp};
use lictor_warden::{Clock, Config, Warden};

use crate::support::*;

/// A clock that can be set forward.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Ahead {
    fn of(&self, config: &mut Config) {
        let ahead = self.0.clone();
        config.clock = Clock::new(move || {
            Timestamp::from_millis(Timestamp::now().as_millis() + ahead.load(Ordering::SeqCst))
        });
    }

    fn set_minutes(&self, minutes: u64) {
        self.0.store(minutes * 60_000, Ordering::SeqCst);
    }
}

/// Events that a disk is needed for which is full: `a_full_disk_loses_nothing_and_works_again_when_there_is_room`
/// asserts them in the journal's own tests. And those of the egress proxy, which is a process of the real program: see
/// `egress` in the system tests; and those of fetching a root, which is one too: see `pull` there; and those of downloads: see `downloads` there. A week
/// has to pass for those of the archive: see `telling`. Those of schedules are asserted in `schedules`, beside this.
const ELSEWHERE: [EventType; 13] = [
    EventType::ResultArchived,
    EventType::ResultDropped,
    EventType::DiskFull,
    EventType::EgressAllowed,
    EventType::EgressDenied,
    EventType::EgressEnded,
    EventType::RootfsFetched,
    EventType::RootfsFetchFailed,
    EventType::FileDownloaded,
    EventType::DownloadFailed,
    EventType::ScheduleTaken,
    EventType::ScheduleMissed,
    EventType::ScheduleEnded,
];

#[test]
fn every_event_of_an_agent_is_written_when_it_happens() {
    let mut world = World::new();
    let mut seen = BTreeSet::new();
    runtime().block_on(async {
        Box::pin(first_life(&mut world)).await;
        second_life(&world).await;
        third_life(&world).await;
        seen.extend(world.audit());

        let cloned = World::new();
        let text = format!("{{\"fingerprint\":\"{}\"}}", Digest::of(b"another machine"));
        std::fs::write(cloned.dir.path().join("machine.json"), text).unwrap();
        drop(cloned.warden().await);
        seen.extend(cloned.audit());
    });
    let missing: Vec<_> = EventType::ALL
        .iter()
        .filter(|t| t.source() == Source::Agent && !ELSEWHERE.contains(t) && !seen.contains(t.as_str()))
        .collect();
    assert!(missing.is_empty(), "never written: {missing:?}");
}

fn refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(_))
}

/// Offers, approvals, cancels, input, law; and at its end a job that waits and one that runs.
async fn first_life(world: &mut World) {
    let warden = world.warden().await;
    let mut feed = warden.events();
    let (job, o) = world.signed(&["true"]);
    assert_eq!(offer(&warden, o.clone()).await, OfferReply::Accepted);
    let (_, done) = finished(&mut feed, job).await;
    let other = Ack::Result {
        job,
        receipt: Digest::of(b"another"),
    };
    assert!(refused(&warden.ask(Request::Ack(other)).await));
    ack(&warden, &done).await;
    assert_eq!(offer(&warden, o).await, OfferReply::Known);

    let mut with_input = world.job("alice", &["cat"]);
    with_input.stdin = Stdin::bytes(b"input");
    let (_, o) = world.sign_job(&with_input);
    assert!(matches!(offer(&warden, o).await, OfferReply::Later(_)));
    let piece = StdinPiece {
        sha256: Digest::of(b"input"),
        at: 0,
        last: true,
        bytes: b"other".to_vec(),
    };
    assert!(refused(&warden.ask(Request::Stdin(piece)).await));

    let (_, o) = world.sign_job(&world.job("mallory", &["true"]));
    assert!(matches!(offer(&warden, o).await, OfferReply::Denied(_)));

    let (_, mut o) = world.signed(&["true"]);
    o.releases.push("{}".to_owned());
    assert_eq!(offer(&warden, o).await, OfferReply::Accepted, "it needs none");

    let (job, o) = world.sign_job(&world.job("carol", &["true"]));
    assert!(matches!(offer(&warden, o).await, OfferReply::Ask(_)));
    let by_nobody = Request::Approval("{}".to_owned());
    assert!(refused(&warden.ask(by_nobody).await));
    let approval = Request::Approval(world.approval(job, "bob"));
    assert_eq!(warden.ask(approval).await, Reply::Done);

    let (job, o) = world.signed(&["sleep", "600"]);
    assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
    assert!(refused(
        &warden.ask(Request::Cancel(world.cancel(job, "mallory"))).await
    ));
    assert_eq!(
        warden.ask(Request::Cancel(world.cancel(job, "alice"))).await,
        Reply::Done
    );

    laws(world, &warden).await;
    flood(world, &warden).await;

    let (_, o) = world.sign_job(&world.job("carol", &["sleep", "1"]));
    assert!(matches!(offer(&warden, o).await, OfferReply::Ask(_)));
    let (_, o) = world.signed(&["sleep", "600"]);
    assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
    // Drains, and what still runs is interrupted.
    warden.close().await;
}

async fn laws(world: &mut World, warden: &Warden) {
    let broken = LawDocs {
        bundle: Some("{}".to_owned()),
        ..LawDocs::default()
    };
    assert!(refused(&warden.ask(Request::Law(broken)).await));
    let unloadable = world.next_law("permit(");
    assert!(matches!(
        warden.ask(Request::Law(unloadable)).await,
        Reply::Law(_)
    ));
    let good = world.next_law(POLICY);
    assert!(matches!(warden.ask(Request::Law(good)).await, Reply::Law(_)));
}

/// Refusals without end, until their number alone is recorded.
async fn flood(world: &World, warden: &Warden) {
    let deadline = tokio::time::Instant::now() + MINUTE;
    while !world.audit().iter().any(|k| k == "events_suppressed") {
        assert!(tokio::time::Instant::now() < deadline, "no flood is recorded");
        for _ in 0..40 {
            let garbage = lictor_proto::agent::Offer {
                job: "{".to_owned(),
                approvals: vec![],
                releases: Vec::new(),
                secrets: vec![],
            };
            assert!(matches!(offer(warden, garbage).await, OfferReply::Refused(_)));
        }
        tokio::task::yield_now().await;
    }
}

/// After a torn write, and late enough for what waits to expire and for what is over to be forgotten.
async fn second_life(world: &World) {
    let journal = world.dir.path().join("journal.log");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"LJR1 torn");
    std::fs::write(&journal, bytes).unwrap();
    let ahead = Ahead::default();
    ahead.set_minutes(12);
    let warden = world.warden_with(|c| ahead.of(c)).await;
    until("the waiting job to expire", || {
        world.audit().iter().any(|k| k == "job_expired")
    })
    .await;
    warden.close().await;
}

/// What was acknowledged is forgotten once nobody could offer it any more.
async fn third_life(world: &World) {
    let ahead = Ahead::default();
    ahead.set_minutes(12);
    let warden = world.warden_with(|c| ahead.of(c)).await;
    until("what is over to be forgotten", || {
        world.audit().iter().any(|k| k == "journal_pruned")
    })
    .await;
    warden.close().await;
}

#[test]
fn the_first_start_says_under_which_grant_the_node_was_enrolled_and_only_that_one() {
    let world = World::new();
    runtime().block_on(async {
        for _ in 0..2 {
            let warden = world.warden().await;
            warden.close().await;
        }
        let kinds = world.audit();
        assert_eq!(kinds[..2], ["agent_enrolled", "agent_started"]);
        assert_eq!(kinds.iter().filter(|k| *k == "agent_enrolled").count(), 1);
    });
}

#[test]
fn no_more_jobs_wait_for_approvals_than_may() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden_with(|c| c.max_waiting = 1).await;
        let (first, o) = world.sign_job(&world.job("carol", &["true"]));
        assert!(matches!(offer(&warden, o).await, OfferReply::Ask(_)));
        let (_, o) = world.sign_job(&world.job("carol", &["true"]));
        assert!(
            matches!(offer(&warden, o.clone()).await, OfferReply::Later(r) if r.code == Code::TooManyJobs)
        );
        let approval = Request::Approval(world.approval(first, "bob"));
        assert_eq!(warden.ask(approval).await, Reply::Done);
        let receipt = finished(&mut warden.events(), first).await.1;
        assert_eq!(world.receipt(&receipt).outcome, Outcome::Succeeded);
        assert!(
            matches!(offer(&warden, o).await, OfferReply::Ask(_)),
            "there is room again"
        );
    });
}
