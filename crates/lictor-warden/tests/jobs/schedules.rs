//! Schedules on a node whose clock the test turns: they fire once for each time, by the one way of every job, and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lictor_proto::agent::{Finished, OfferReply, Reply, Request};
use lictor_proto::doc::{Fired, FiredWire, Missed, Outcome, Overlap, RevocationKind, Schedule};
use lictor_proto::{Code, Digest, JobId, Timestamp};
use lictor_warden::{Clock, EventFeed, Warden};

use crate::support::*;

/// The clock of a node, as far ahead of the true one as the test says.
#[derive(Clone, Default)]
pub(crate) struct Turned(Arc<AtomicU64>);

impl Turned {
    pub(crate) fn clock(&self) -> Clock {
        let ahead = self.0.clone();
        Clock::new(move || {
            Timestamp::from_millis(Timestamp::now().as_millis() + ahead.load(Ordering::SeqCst))
        })
    }

    /// Turns it to this time, or a little after.
    pub(crate) fn to(&self, time: Timestamp) {
        let ahead = time.since(Timestamp::now());
        self.0.store(ahead.as_millis() as u64 + 1, Ordering::SeqCst);
    }

    pub(crate) fn true_again(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    pub(crate) async fn warden(&self, world: &World) -> Warden {
        world.warden_with(|config| config.clock = self.clock()).await
    }
}

/// The first `n` times of a schedule.
pub(crate) fn times(schedule: &Schedule, n: usize) -> Vec<Timestamp> {
    let table = schedule.timetable().unwrap();
    let mut time = schedule.issued_at;
    let mut next = || {
        time = table.after(time).unwrap();
        time
    };
    (0..n).map(|_| next()).collect()
}

pub(crate) fn fired(schedule: Digest, nominal: Timestamp) -> Fired {
    Fired { schedule, nominal }
}

pub(crate) async fn taken(warden: &Warden, world: &World, schedule: &Schedule) -> Digest {
    let (digest, o) = world.sign_schedule(schedule);
    assert_eq!(offer(warden, o).await, OfferReply::Accepted);
    digest
}

/// Turns the clock to a time and waits for what was fired then.
pub(crate) async fn fires(clock: &Turned, feed: &mut EventFeed, fired: Fired) -> (Heard, Finished) {
    clock.to(fired.nominal);
    finished(feed, fired.digest()).await
}

#[test]
fn a_schedule_fires_at_its_times_and_each_receipt_names_them() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule("alice", &["echo", "hello"]);
        let digest = taken(&warden, &world, &schedule).await;
        for nominal in times(&schedule, 2) {
            let this = fired(digest, nominal);
            let (heard, done) = fires(&clock, &mut feed, this).await;
            assert_eq!(heard.stdout, b"hello\n");
            let receipt = world.receipt(&done);
            assert_eq!(receipt.outcome, Outcome::Succeeded);
            assert_eq!(receipt.fired, Some(this));
            // What the hub is handed instead of a job proves what was asked for.
            let job = world.trust.historic_job(&done.envelope).unwrap();
            assert_eq!((job.digest(), job.fired()), (this.digest(), Some(this)));
        }
    });
}

#[test]
fn a_clock_that_is_turned_back_fires_nothing_a_second_time_also_after_a_restart() {
    let (world, clock) = (World::new(), Turned::default());
    let runs = world.dir.path().join("runs");
    runtime().block_on(async {
        let count = || std::fs::read_to_string(&runs).unwrap_or_default().len() / 2;
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let script = format!("echo x >> {}", runs.display());
        let schedule = world.schedule("alice", &["sh", "-c", &script]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 3);
        fires(&clock, &mut feed, fired(digest, times[0])).await;
        clock.true_again();
        warden.close().await;
        drop((warden, feed));
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        // The same time once more, and then the next: by then the first has been looked at.
        clock.to(times[0]);
        fires(&clock, &mut feed, fired(digest, times[1])).await;
        assert_eq!(count(), 2);
    });
}

#[test]
fn times_that_pass_while_the_agent_is_away_are_left_out_or_the_last_is_made_up_for() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let skips = world.schedule("alice", &["echo", "skips"]);
        let once = Schedule {
            missed: Missed::Once,
            start_within_ms: 60 * 60_000,
            ..world.schedule("alice", &["echo", "once"])
        };
        let times = times(&skips, 4);
        let (skips, once) = (
            taken(&warden, &world, &skips).await,
            taken(&warden, &world, &once).await,
        );
        warden.close().await;
        drop(warden);
        clock.to(times[2].plus(MINUTE * 3));
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let (heard, _) = finished(&mut feed, fired(once, times[2]).digest()).await;
        assert_eq!(heard.stdout, b"once\n");
        // The next time comes for both, and neither has any other before it.
        clock.to(times[3]);
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let done = next_finished(&mut feed).await;
            seen.push(world.receipt(&done).fired.unwrap());
        }
        seen.sort();
        let mut want = vec![fired(skips, times[3]), fired(once, times[3])];
        want.sort();
        assert_eq!(seen, want);
        assert!(world.audit().iter().any(|kind| kind == "schedule_missed"));
    });
}

async fn next_finished(feed: &mut EventFeed) -> Finished {
    use lictor_proto::agent::Event;
    use lictor_proto::agent::stream::Message;
    let next = async {
        loop {
            if let Some(Message::Event(Event::Finished(done))) = feed.next().await {
                return *done;
            }
        }
    };
    tokio::time::timeout(DEADLINE, next)
        .await
        .expect("something ends")
}

#[test]
fn a_firing_that_comes_while_the_one_before_runs_is_refused_or_waits_for_its_end() {
    for overlap in [Overlap::Skip, Overlap::Wait] {
        let (world, clock) = (World::new(), Turned::default());
        runtime().block_on(async {
            let warden = clock.warden(&world).await;
            let mut feed = warden.events();
            let go = world.dir.path().join("go");
            let script = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
            let schedule = Schedule {
                overlap,
                ..world.schedule("alice", &["sh", "-c", &script])
            };
            let digest = taken(&warden, &world, &schedule).await;
            let times = times(&schedule, 2);
            let first = fired(digest, times[0]);
            clock.to(times[0]);
            listen(&mut feed, first.digest(), |h| h.order.contains(&"started")).await;
            clock.to(times[1]);
            let second = fired(digest, times[1]);
            if overlap == Overlap::Skip {
                let receipt = world.receipt(&finished(&mut feed, second.digest()).await.1);
                assert_eq!(
                    (receipt.outcome, receipt.code),
                    (Outcome::Denied, Some(Code::ScheduleOverlap))
                );
            }
            std::fs::write(&go, "").unwrap();
            if overlap == Overlap::Skip {
                let receipt = world.receipt(&finished(&mut feed, first.digest()).await.1);
                assert_eq!(receipt.outcome, Outcome::Succeeded);
                return;
            }
            let order = [next_finished(&mut feed).await, next_finished(&mut feed).await];
            let order = order.map(|done| (world.receipt(&done).fired.unwrap(), world.receipt(&done).outcome));
            assert_eq!(order, [(first, Outcome::Succeeded), (second, Outcome::Succeeded)]);
        });
    }
}

/// Has a schedule of somebody's fire once, does something, and gives the receipt that it ends with; another's goes on.
pub(crate) fn ends(
    (who, other): (&str, &str),
    act: impl AsyncFn(&World, &Warden, &Turned, Digest, &Schedule),
) -> (Outcome, Option<Code>) {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule(who, &["true"]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 3);
        fires(&clock, &mut feed, fired(digest, times[0])).await;
        act(&world, &warden, &clock, digest, &schedule).await;
        let (_, done) = finished(&mut feed, digest).await;
        let receipt = world.receipt(&done);
        assert_eq!(receipt.fired, None, "it speaks of the schedule itself");
        ack(&warden, &done).await;
        // It fires no more, nor is it taken again.
        let (_, o) = world.sign_schedule(&schedule);
        assert_eq!(offer(&warden, o).await, OfferReply::Known);
        clock.to(times[1]);
        let probe = world.schedule(other, &["true"]);
        let probe = Schedule {
            issued_at: times[1],
            not_before: times[1],
            ..probe
        };
        let other = taken(&warden, &world, &probe).await;
        clock.to(times[2]);
        finished(&mut feed, fired(other, times[2]).digest()).await;
        assert!(
            !world
                .audit_text()
                .contains(&fired(digest, times[1]).digest().to_string()),
            "nothing was even tried"
        );
        let told = world.audit();
        for kind in ["schedule_taken", "schedule_ended"] {
            assert!(told.iter().any(|k| k == kind), "{kind}");
        }
        (receipt.outcome, receipt.code)
    })
}

#[test]
fn a_signed_cancel_ends_a_schedule() {
    let cancel = async |world: &World, warden: &Warden, clock: &Turned, digest, _: &Schedule| {
        // What is signed now is not valid for as long as the clock is ahead.
        clock.true_again();
        let by = world.cancel(digest, "bob");
        assert!(
            matches!(warden.ask(Request::Cancel(by)).await, Reply::Refused(_)),
            "another's"
        );
        let own = world.cancel(digest, "alice");
        assert_eq!(warden.ask(Request::Cancel(own)).await, Reply::Done);
    };
    assert_eq!(
        ends(("alice", "bob"), cancel),
        (Outcome::Canceled, Some(Code::Canceled))
    );
}

pub(crate) async fn revoke(world: &World, warden: &Warden, kind: RevocationKind, target: &str) {
    let docs = world.revocation(kind, target);
    assert!(matches!(warden.ask(Request::Law(docs)).await, Reply::Law(_)));
}

#[test]
fn a_revocation_of_the_schedule_or_of_its_key_ends_it() {
    let schedule = async |world: &World, warden: &Warden, _: &Turned, digest: Digest, _: &Schedule| {
        let id = JobId::from_digest(&digest);
        revoke(world, warden, RevocationKind::Schedule, id.as_str()).await;
    };
    assert_eq!(
        ends(("alice", "bob"), schedule),
        (Outcome::Denied, Some(Code::ScheduleRevoked))
    );
    let own_key = async |world: &World, warden: &Warden, _: &Turned, _: Digest, _: &Schedule| {
        let id = key(seed_of("bob")).public().id().to_string();
        revoke(world, warden, RevocationKind::Key, &id).await;
    };
    assert_eq!(
        ends(("bob", "alice"), own_key),
        (Outcome::Denied, Some(Code::KeyRevoked))
    );
}

#[test]
fn a_schedule_ends_at_its_end() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let mut schedule = world.schedule("alice", &["true"]);
        let times = times(&schedule, 2);
        schedule.ends_at = times[1];
        let digest = taken(&warden, &world, &schedule).await;
        fires(&clock, &mut feed, fired(digest, times[0])).await;
        clock.to(times[1]);
        let receipt = world.receipt(&finished(&mut feed, digest).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Expired, Some(Code::Expired))
        );
        assert!(
            !world
                .audit_text()
                .contains(&fired(digest, times[1]).digest().to_string())
        );
    });
}

#[test]
fn nothing_fires_under_law_that_is_over_and_the_firing_says_why() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        // The bundle of these tests holds for an hour.
        let schedule = world.schedule("alice", &["true"]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 8);
        fires(&clock, &mut feed, fired(digest, times[0])).await;
        let late = times[7];
        assert!(late.since(schedule.issued_at) > MINUTE * 60);
        clock.to(late);
        let id = digest.to_string();
        until("it is tried", || world.audit_text().contains("job_deferred")).await;
        clock.to(late.plus(Duration::from_millis(schedule.start_within_ms)));
        let receipt = world.receipt(&finished(&mut feed, fired(digest, late).digest()).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Expired, Some(Code::BundleExpired)),
            "{id}"
        );
    });
}

#[test]
fn the_law_of_the_moment_decides_each_firing() {
    let (mut world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule("alice", &["true"]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 3);
        let (_, done) = fires(&clock, &mut feed, fired(digest, times[0])).await;
        assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
        let forbids = format!(
            "{POLICY}\n@id(\"none-by-itself\") forbid(principal, action == Action::\"exec\", resource) when {{ context.scheduled }};"
        );
        let docs = world.next_law(&forbids);
        assert!(matches!(warden.ask(Request::Law(docs)).await, Reply::Law(_)));
        let (_, done) = fires(&clock, &mut feed, fired(digest, times[1])).await;
        let receipt = world.receipt(&done);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Denied, Some(Code::Forbidden))
        );
        assert_eq!(receipt.policy_ids, ["none-by-itself"]);
        clock.true_again();
        let (job, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted, "a job of its own may");
        finished(&mut feed, job).await;
    });
}

#[test]
fn a_firing_below_a_gate_is_refused_also_where_the_glass_could_be_broken() {
    for who in ["carol", "erin"] {
        let (world, clock) = (World::new(), Turned::default());
        runtime().block_on(async {
            let warden = clock.warden(&world).await;
            let mut feed = warden.events();
            let schedule = world.schedule(who, &["true"]);
            let digest = taken(&warden, &world, &schedule).await;
            let (_, done) = fires(&clock, &mut feed, fired(digest, times(&schedule, 1)[0])).await;
            let receipt = world.receipt(&done);
            assert_eq!(
                (receipt.outcome, receipt.code),
                (Outcome::Denied, Some(Code::ScheduleGated)),
                "{who}"
            );
            assert!(receipt.policy_ids.contains(&format!("{who}-asks")));
        });
    }
}

#[test]
fn a_schedule_is_no_job_and_a_firing_is_nobodys_to_offer() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let schedule = world.schedule("alice", &["true"]);
        let (digest, o) = world.sign_schedule(&schedule);
        let firing = FiredWire {
            nominal: times(&schedule, 1)[0],
            schedule: o.job.clone(),
        };
        let wire = lictor_proto::agent::Offer {
            job: firing.to_wire(),
            ..o
        };
        clock.to(firing.nominal);
        let reply = offer(&warden, wire).await;
        assert!(matches!(reply, OfferReply::Refused(r) if r.code == Code::EnvelopeMalformed));
        assert!(
            !world
                .audit_text()
                .contains(&fired(digest, firing.nominal).digest().to_string())
        );
    });
}

#[test]
fn a_firing_that_was_interrupted_is_told_so_and_not_begun_again() {
    let (world, clock) = (World::new(), Turned::default());
    let runs = world.dir.path().join("runs");
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let script = format!("echo x >> {}; exec sleep 600", runs.display());
        let schedule = Schedule {
            missed: Missed::Once,
            ..world.schedule("alice", &["sh", "-c", &script])
        };
        let digest = taken(&warden, &world, &schedule).await;
        let first = fired(digest, times(&schedule, 1)[0]);
        clock.to(first.nominal);
        listen(&mut feed, first.digest(), |h| h.order.contains(&"started")).await;
        until("it runs", || runs.exists()).await;
        warden.close().await;
        drop((warden, feed));
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let receipt = world.receipt(&finished(&mut feed, first.digest()).await.1);
        assert_eq!(receipt.outcome, Outcome::Interrupted);
        clock.true_again();
        let (job, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        finished(&mut feed, job).await;
        assert_eq!(std::fs::read_to_string(&runs).unwrap(), "x\n");
    });
}
