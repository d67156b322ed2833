//! What bounds schedules and ends them: room for results, shares, their end, and what becomes of their signers.

use std::time::Duration;

use lictor_proto::agent::{LawDocs, Offer, OfferReply, Reply, Request};
use lictor_proto::doc::{Bundle, Outcome, RevocationKind, Schedule};
use lictor_proto::{Code, Digest, Envelope, JobId, Timestamp};
use lictor_trust::keys::PublicLine;
use lictor_warden::Warden;

use crate::schedules::{Turned, ends, fired, fires, revoke, taken, times};
use crate::support::*;

/// A script that goes on until a file is there.
fn until_there(file: &std::path::Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.01; done", file.display())
}

#[test]
fn a_firing_that_finds_no_room_for_its_receipt_passes_without_one() {
    let (world, clock) = (World::new(), Turned::default());
    let go = world.dir.path().join("go");
    runtime().block_on(async {
        let change = |config: &mut lictor_warden::Config| {
            config.clock = clock.clock();
            config.max_unacknowledged = 1;
        };
        let warden = world.warden_with(change).await;
        let mut feed = warden.events();
        let schedule = world.schedule("alice", &["sh", "-c", &until_there(&go)]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 3);
        let first = fired(digest, times[0]);
        clock.to(times[0]);
        listen(&mut feed, first.digest(), |h| h.order.contains(&"started")).await;
        clock.true_again();
        let (_, done) = world.run(&warden, &mut feed, &["true"]).await;
        // It would be refused for the overlap, with a receipt.
        clock.to(times[1]);
        until("it passes", || world.audit_text().contains("schedule_missed")).await;
        let second = fired(digest, times[1]).digest().to_string();
        assert!(!world.audit_text().contains(&second));
        ack(&warden, &done).await;
        std::fs::write(&go, "").unwrap();
        let (_, done) = finished(&mut feed, first.digest()).await;
        ack(&warden, &done).await;
        let (_, done) = fires(&clock, &mut feed, fired(digest, times[2])).await;
        assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
    });
}

#[test]
fn white_space_around_a_schedule_is_not_kept() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule("alice", &["true"]);
        let (digest, o) = world.sign_schedule(&schedule);
        let padding = format!("{{{}", " ".repeat(1 << 20));
        let padded = Offer {
            job: o.job.replacen('{', &padding, 1),
            ..o
        };
        assert_eq!(offer(&warden, padded).await, OfferReply::Accepted);
        let this = fired(digest, times(&schedule, 1)[0]);
        let (_, done) = fires(&clock, &mut feed, this).await;
        assert!(done.envelope.len() < 1 << 16, "{} bytes", done.envelope.len());
        let job = world.trust.historic_job(&done.envelope).unwrap();
        assert_eq!(job.digest(), this.digest());
    });
}

#[test]
fn one_operator_has_no_more_than_a_share_of_the_schedules() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        for _ in 0..64 {
            taken(&warden, &world, &world.schedule("alice", &["true"])).await;
        }
        let (_, o) = world.sign_schedule(&world.schedule("alice", &["true"]));
        let reply = offer(&warden, o).await;
        assert!(
            matches!(&reply, OfferReply::Later(r) if r.code == Code::TooManyJobs && r.message.contains("of alice")),
            "{reply:?}"
        );
        taken(&warden, &world, &world.schedule("bob", &["true"])).await;
    });
}

#[test]
fn a_firing_that_waits_at_the_end_of_its_schedule_has_a_receipt_too() {
    let (world, clock) = (World::new(), Turned::default());
    let go = world.dir.path().join("go");
    runtime().block_on(async {
        let change = |config: &mut lictor_warden::Config| {
            config.clock = clock.clock();
            config.max_jobs = 1;
            config.queue_wait = Duration::from_millis(10);
        };
        let warden = world.warden_with(change).await;
        let mut feed = warden.events();
        let (running, o) = world.signed(&["sh", "-c", &until_there(&go)]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let mut schedule = world.schedule("alice", &["true"]);
        let first = times(&schedule, 1)[0];
        schedule.ends_at = first.plus(MINUTE);
        let digest = taken(&warden, &world, &schedule).await;
        clock.to(first);
        until("it waits", || world.audit_text().contains("job_deferred")).await;
        clock.to(schedule.ends_at);
        let receipt = world.receipt(&finished(&mut feed, fired(digest, first).digest()).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Expired, Some(Code::TooManyJobs))
        );
        let receipt = world.receipt(&finished(&mut feed, digest).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Expired, Some(Code::Expired))
        );
        std::fs::write(&go, "").unwrap();
        finished(&mut feed, running).await;
    });
}

#[test]
fn a_time_that_the_end_comes_before_is_told_in_the_audit_log() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let mut schedule = world.schedule("alice", &["true"]);
        let times = times(&schedule, 2);
        schedule.ends_at = times[1].plus(MINUTE);
        let digest = taken(&warden, &world, &schedule).await;
        fires(&clock, &mut feed, fired(digest, times[0])).await;
        clock.to(schedule.ends_at);
        finished(&mut feed, digest).await;
        let told = world.audit_text();
        let line = told.lines().find(|l| l.contains("schedule_missed"));
        assert!(
            line.is_some_and(|l| l.contains(&times[1].to_string())),
            "{line:?}"
        );
    });
}

#[test]
fn a_revocation_of_its_id_as_a_jobs_ends_it_and_what_it_has_running() {
    let as_job = async |world: &World, warden: &Warden, _: &Turned, digest: Digest, _: &Schedule| {
        let id = JobId::from_digest(&digest);
        revoke(world, warden, RevocationKind::Job, id.as_str()).await;
    };
    assert_eq!(
        ends(("alice", "bob"), as_job),
        (Outcome::Denied, Some(Code::ScheduleRevoked))
    );
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule("alice", &["sleep", "600"]);
        let digest = taken(&warden, &world, &schedule).await;
        let first = fired(digest, times(&schedule, 1)[0]);
        clock.to(first.nominal);
        listen(&mut feed, first.digest(), |h| h.order.contains(&"started")).await;
        let id = JobId::from_digest(&digest);
        revoke(&world, &warden, RevocationKind::Job, id.as_str()).await;
        let receipt = world.receipt(&finished(&mut feed, first.digest()).await.1);
        assert_eq!(receipt.code, Some(Code::ScheduleRevoked));
    });
}

#[test]
fn a_revocation_of_its_operator_ends_it() {
    let bob = async |world: &World, warden: &Warden, _: &Turned, _: Digest, _: &Schedule| {
        revoke(world, warden, RevocationKind::Operator, "bob").await;
    };
    assert_eq!(
        ends(("bob", "alice"), bob),
        (Outcome::Denied, Some(Code::OperatorRevoked))
    );
}

/// The public key of this seed, as a roster has it.
fn line(seed: u8) -> String {
    let line = PublicLine {
        key: key(seed).public(),
        comment: None,
    };
    line.to_string()
}

/// Has the warden take a bundle with another roster.
async fn with_roster(world: &World, warden: &Warden, change: impl Fn(&str) -> String) {
    let bundle = world.trust.docs().bundle.unwrap();
    let envelope = Envelope::parse(bundle.as_bytes(), 1 << 20).unwrap();
    let mut bundle: Bundle = serde_json::from_slice(&envelope.payload).unwrap();
    bundle.version += 1;
    let roster = bundle.files.get_mut("roster.toml").unwrap();
    let changed = change(roster);
    assert_ne!(*roster, changed);
    *roster = changed;
    let docs = LawDocs {
        bundle: Some(wire(&bundle, 2)),
        ..LawDocs::default()
    };
    let reply = warden.ask(Request::Law(docs)).await;
    assert!(matches!(reply, Reply::Law(_)), "{reply:?}");
}

#[test]
fn a_key_whose_time_is_over_ends_its_schedules() {
    let expire = async |world: &World, warden: &Warden, _: &Turned, _: Digest, schedule: &Schedule| {
        let at: Timestamp = times(schedule, 1)[0];
        let bob = format!("{}\"", line(seed_of("bob")));
        let until = format!("{bob}, expires_at = \"{at}\"");
        with_roster(world, warden, |roster| roster.replace(&bob, &until)).await;
    };
    assert_eq!(
        ends(("bob", "alice"), expire),
        (Outcome::Denied, Some(Code::KeyExpired))
    );
}

#[test]
fn firings_of_who_left_the_roster_are_refused_and_the_schedule_stands() {
    let (world, clock) = (World::new(), Turned::default());
    runtime().block_on(async {
        let warden = clock.warden(&world).await;
        let mut feed = warden.events();
        let schedule = world.schedule("bob", &["true"]);
        let digest = taken(&warden, &world, &schedule).await;
        let times = times(&schedule, 3);
        let (_, done) = fires(&clock, &mut feed, fired(digest, times[0])).await;
        assert_eq!(world.receipt(&done).outcome, Outcome::Succeeded);
        let other = |roster: &str| {
            let renamed = roster.replace("[operators.bob]", "[operators.robert]");
            renamed.replace(&line(seed_of("bob")), &line(99))
        };
        with_roster(&world, &warden, other).await;
        for nominal in &times[1..] {
            let (_, done) = fires(&clock, &mut feed, fired(digest, *nominal)).await;
            let receipt = world.receipt(&done);
            assert_eq!(
                (receipt.outcome, receipt.code),
                (Outcome::Denied, Some(Code::SignerUnknown))
            );
        }
        assert!(!world.audit().iter().any(|kind| kind == "schedule_ended"));
    });
}
