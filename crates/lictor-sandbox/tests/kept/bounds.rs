//! How many are kept, how large, for how long by whose clock; and what people do with them.

use std::fs;
use std::path::PathBuf;

use lictor_proto::Timestamp;
use lictor_sandbox::{
    Config, Host, KeptBounds, KeptError, KeptSandboxes, KeptSweep, Plan, StartError, StdinSource, hold_kept,
};
use lictor_trust::profiles::Persist;

use super::common::Bench;
use super::{Duration, HOUR, in_sandbox, kept, places, run};

fn full(refused: Option<StartError>) -> String {
    let refusal = refused.expect("refused").refusal();
    assert_eq!(refusal.code, lictor_proto::Code::SandboxLimit, "{refusal}");
    refusal.message
}

pub(super) async fn no_more_are_begun_than_profile_and_node_keep(bench: &Bench) {
    let bench = kept(bench);
    for name in ["one", "two"] {
        assert!(run(&bench, name, "echo x > here").await.succeeded());
    }
    let third = bench
        .start(&in_sandbox("three", "true"), StdinSource::Null)
        .await
        .err();
    assert!(full(third).contains("it says 2"));
    assert_eq!(
        run(&bench, "two", "cat here").await.stdout,
        "x\n",
        "those that are kept go on"
    );
    let all = KeptSandboxes::below(bench.root.path());
    all.remove(&all.find("one").expect("it is there"))
        .expect("removed");
    assert!(
        run(&bench, "three", "true").await.succeeded(),
        "there is room again"
    );
    // And what a node keeps, whatever the profile says.
    let exec = in_sandbox("four", "true");
    for (bounds, why) in [
        (
            KeptBounds {
                most: 2,
                ..KeptBounds::default()
            },
            "the node keeps 2",
        ),
        (
            KeptBounds {
                bytes: 1,
                ..KeptBounds::default()
            },
            "the node keeps 1 byte",
        ),
    ] {
        let config = Config {
            kept: bounds,
            ..Config::default()
        };
        let host = Host::start(config).expect("the host starts");
        let mut profile = bench.profile.clone();
        profile.persist = Some(Persist {
            most: None,
            ..profile.persist.expect("it keeps")
        });
        let (name, dir) = ("p".parse().expect("a name"), bench.job_dir());
        let resolved = host.resolve(&name, (&profile, bench.backend.name()), &exec, &dir);
        let plan = Plan::without_permit(resolved.expect("resolved"), &bench.capabilities);
        let refused = plan.expect("planned").claim(Timestamp::now()).err();
        let message = full(refused);
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(places(&bench).len(), 2, "and nothing is left of what was refused");
}

pub(super) async fn one_that_holds_more_than_it_may_is_refused_until_it_holds_less(bench: &Bench) {
    let bench = kept(bench);
    let line = "mkdir d; head -c 2097152 /dev/urandom > d/large; ln d/large d/again";
    // It ends before anybody has counted, or for it.
    run(&bench, "work", line).await;
    let all = KeptSandboxes::below(bench.root.path());
    let bytes = all.find("work").expect("it is there").bytes;
    assert!((1 << 20..3 << 20).contains(&bytes), "a file counts once: {bytes}");
    let refused = bench
        .start(&in_sandbox("work", "true"), StdinSource::Null)
        .await
        .err();
    assert!(full(refused).contains("the profile says 1 MiB"));
    let place = places(&bench).pop().expect("one");
    fs::remove_dir_all(place.join("workspace/d")).expect("removed");
    let none = all.find("work").expect("it is there");
    all.snapshot(&none, &"small".parse().expect("a name"))
        .expect("copied and counted");
    assert!(run(&bench, "work", "true").await.succeeded());
}

pub(super) async fn a_clock_that_was_wrong_for_a_moment_costs_nothing(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo x > here").await.succeeded());
    let ahead = Timestamp::now().plus(HOUR * 24 * 365);
    let mut sweep = KeptSweep::new(HOUR);
    sweep.run(bench.root.path(), ahead).expect("swept");
    sweep.run(bench.root.path(), Timestamp::now()).expect("swept");
    assert_eq!(
        run(&bench, "work", "cat here").await.stdout,
        "x\n",
        "it was ahead, and is right again"
    );
    // What was written down while it was ahead is not kept until that time comes.
    let place = places(&bench).pop().expect("one").join("sandbox.json");
    let text = fs::read_to_string(&place).expect("about it");
    let mut about: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    about["used_at"] = serde_json::to_value(ahead).expect("a time");
    about["made_at"] = serde_json::to_value(ahead).expect("a time");
    fs::write(&place, about.to_string()).expect("written");
    let mut sweep = KeptSweep::new(Duration::ZERO);
    sweep.run(bench.root.path(), Timestamp::now()).expect("swept");
    let later = Timestamp::now().plus(HOUR * 2);
    sweep.run(bench.root.path(), later).expect("swept");
    assert_eq!(places(&bench), Vec::<PathBuf>::new());
}

pub(super) async fn a_person_lists_copies_restores_and_removes_what_no_job_has(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo one > a").await.succeeded());
    let all = KeptSandboxes::below(bench.root.path());
    let one = all.find("work").expect("it is there");
    assert_eq!((one.name.as_str(), one.profile.as_str()), ("work", "p"));
    assert_eq!((one.backend, &one.held_by), (bench.backend.name(), &None));
    assert!(one.bytes > 0 && one.until > one.used_at, "{one:?}");
    let name = "before".parse().expect("a name");
    all.snapshot(&one, &name).expect("copied");
    assert!(run(&bench, "work", "echo two > a; echo x > b").await.succeeded());
    let one = all.find(&one.key).expect("its key is as good as its name");
    assert_eq!(one.snapshots, [name]);
    let exec = in_sandbox("work", "echo up; exec sleep 60");
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
    let dir = running.handle().dir.clone();
    let job = dir.file_name().and_then(|n| n.to_str()).map(str::to_owned);
    assert_eq!(
        all.find("work").expect("it is there").held_by,
        job,
        "and who has it"
    );
    for refused in [
        all.remove(&one),
        all.snapshot(&one, &one.snapshots[0]),
        all.restore(&one, &one.snapshots[0]),
    ] {
        let refused = refused.expect_err("a job works there");
        assert_eq!(refused.code(), lictor_proto::Code::SandboxBusy);
        assert!(
            refused.to_string().contains(job.as_deref().expect("its name")),
            "{refused}"
        );
    }
    sandbox.destroy().await.expect("destroyed");
    all.restore(&one, &one.snapshots[0]).expect("restored");
    assert_eq!(run(&bench, "work", "ls -A; cat a").await.stdout, "a\none\n");
    let none = all
        .restore(&one, &"never".parse().expect("a name"))
        .expect_err("there is none");
    assert_eq!(none.code(), lictor_proto::Code::SandboxUnknown);
    all.remove(&one).expect("removed");
    assert!(matches!(all.find("work"), Err(KeptError::Unknown(_))));
    assert_eq!(run(&bench, "work", "ls -A").await.stdout, "");
}

pub(super) async fn what_a_job_had_that_could_not_be_ended_is_kept_from_the_next_one(bench: &Bench) {
    let bench = kept(bench);
    // As an agent leaves it that is killed: the lock is free, and a job is named that had it.
    let plan = bench.plan(&in_sandbox("work", "true"));
    let dir = plan.dir().to_owned();
    let mut plan = plan;
    plan.claim(Timestamp::now()).expect("it is free");
    drop(plan);
    let hold = hold_kept(&dir).expect("that is whose it was");
    assert!(hold_kept(&dir).is_none(), "once");
    let busy = bench
        .start(&in_sandbox("work", "true"), StdinSource::Null)
        .await
        .err();
    assert!(matches!(busy, Some(StartError::Busy { .. })), "{busy:?}");
    drop(hold);
    assert!(run(&bench, "work", "true").await.succeeded());
    assert!(hold_kept(&dir).is_none(), "nobody has it any more");
}
