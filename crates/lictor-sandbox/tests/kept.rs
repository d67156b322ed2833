//! Kept sandboxes: what a job leaves where it works is there for the next one that names the sandbox, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

#[path = "kept/bounds.rs"]
mod bounds;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use bounds::{
    a_clock_that_was_wrong_for_a_moment_costs_nothing,
    a_person_lists_copies_restores_and_removes_what_no_job_has, no_more_are_begun_than_profile_and_node_keep,
    one_that_holds_more_than_it_may_is_refused_until_it_holds_less,
    what_a_job_had_that_could_not_be_ended_is_kept_from_the_next_one,
};
use common::{Bench, Outcome, command, eventually, for_every_backend, processes_with};
use lictor_proto::Timestamp;
use lictor_proto::doc::Exec;
use lictor_sandbox::{KeptSweep, StartError, StdinSource};
use lictor_trust::profiles::{Backend, Persist};

for_every_backend![
    what_a_job_leaves_is_there_for_the_next_one,
    a_job_that_names_none_finds_nothing,
    names_profiles_and_users_are_kept_apart,
    one_job_at_a_time_has_it,
    a_claim_counts_from_the_moment_it_is_made,
    no_process_is_kept,
    what_has_been_idle_or_is_old_begins_anew,
    the_sweep_takes_what_is_over_and_leaves_what_is_used,
    a_sandbox_that_was_not_finished_begins_anew,
    what_cannot_be_read_about_a_sandbox_does_not_cost_what_it_holds,
    a_workspace_is_its_users_alone_whatever_the_last_job_made_of_it,
    a_snapshot_is_what_the_next_job_finds_when_it_is_restored,
    snapshots_are_of_kept_sandboxes_while_nothing_runs;
    but for gvisor
    no_more_are_begun_than_profile_and_node_keep,
    one_that_holds_more_than_it_may_is_refused_until_it_holds_less,
    a_clock_that_was_wrong_for_a_moment_costs_nothing,
    a_person_lists_copies_restores_and_removes_what_no_job_has,
    what_a_job_had_that_could_not_be_ended_is_kept_from_the_next_one,
];

const HOUR: Duration = Duration::from_secs(3600);

fn keeping(bench: &Bench, idle: Duration, age: Duration) -> Bench {
    Bench {
        profile: lictor_trust::profiles::Profile {
            persist: Some(Persist {
                idle,
                age,
                most: Some(2),
                bytes: Some(1 << 20),
            }),
            ..bench.profile.clone()
        },
        host: bench.host.clone(),
        config: bench.config.clone(),
        backend: bench.backend.clone(),
        capabilities: bench.capabilities.clone(),
        root: tempfile::tempdir().expect("a directory"),
        warm: None,
    }
}

fn kept(bench: &Bench) -> Bench {
    let bench = keeping(bench, HOUR, HOUR * 24);
    // Jobs that see the host's own tree pass through here.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(bench.root.path(), fs::Permissions::from_mode(0o711)).expect("mode");
    bench
}

fn in_sandbox(name: &str, line: &str) -> Exec {
    let mut exec = command(&["/bin/sh", "-c", line]);
    exec.sandbox = Some(name.parse().expect("a name"));
    exec
}

async fn run(bench: &Bench, name: &str, line: &str) -> Outcome {
    bench.run_with(&in_sandbox(name, line), StdinSource::Null).await
}

/// Directories of kept sandboxes, and of what is left of some.
fn places(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.root.path().join(".kept"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect()
}

/// What a sweep does that has seen what it sees often enough.
fn sweep(bench: &Bench) -> std::io::Result<()> {
    KeptSweep::new(Duration::ZERO).run(bench.root.path(), Timestamp::now())
}

/// Makes one look as if it had been made and used so long ago.
fn grow_old(bench: &Bench, made: Duration, used: Duration) {
    for place in places(bench) {
        let file = place.join("sandbox.json");
        let text = fs::read_to_string(&file).expect("about it");
        let mut about: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let now = Timestamp::now().as_millis();
        let before = |ago: Duration| {
            let then = now - u64::try_from(ago.as_millis()).expect("not that long");
            serde_json::to_value(Timestamp::from_millis(then)).expect("a time")
        };
        about["made_at"] = before(made);
        about["used_at"] = before(used);
        fs::write(file, about.to_string()).expect("written");
    }
}

async fn what_a_job_leaves_is_there_for_the_next_one(bench: &Bench) {
    let bench = kept(bench);
    let line = "mkdir -p a/b; echo one > a/b/c; chmod 700 a; pwd";
    let first = run(&bench, "work", line).await;
    assert!(first.succeeded(), "{first:?}");
    let second = run(&bench, "work", "cat a/b/c; echo two > a/b/c; pwd").await;
    assert_eq!(second.stdout, format!("one\n{}", first.stdout));
    assert_eq!(run(&bench, "work", "cat a/b/c").await.stdout, "two\n");
    let left = fs::read_dir(bench.root.path()).expect("a directory").flatten();
    let names: Vec<_> = left.map(|e| e.file_name()).collect();
    assert_eq!(names, [".kept"], "the jobs' own directories are gone");
}

async fn a_job_that_names_none_finds_nothing(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo x > here").await.succeeded());
    assert_eq!(bench.sh("ls -A").await.stdout, "");
}

async fn names_profiles_and_users_are_kept_apart(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo x > here").await.succeeded());
    assert_eq!(run(&bench, "play", "ls -A").await.stdout, "");
    let exec = in_sandbox("work", "ls -A");
    let other = "other".parse().expect("a name");
    let dir = bench.job_dir();
    let resolved = bench.host.resolve(&other, bench.profile(), &exec, &dir);
    let plan = lictor_sandbox::Plan::without_permit(resolved.expect("resolved"), &bench.capabilities);
    let mut sandbox = bench
        .backend
        .create(plan.expect("planned"))
        .await
        .expect("created");
    let running = sandbox.exec(StdinSource::Null.into()).await.expect("starts");
    assert_eq!(common::outcome(running).await.stdout, "");
    sandbox.destroy().await.expect("destroyed");
    assert_eq!(places(&bench).len(), 3);
}

async fn one_job_at_a_time_has_it(bench: &Bench) {
    let bench = kept(bench);
    let exec = in_sandbox("work", "echo x > here; echo up; exec sleep 60");
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
    let exec = in_sandbox("work", "cat here");
    let busy = bench.start(&exec, StdinSource::Null).await.err();
    let Some(StartError::Busy { name, .. }) = &busy else {
        panic!("{busy:?}")
    };
    assert_eq!(name, "work");
    let refusal = busy.expect("busy").refusal();
    assert_eq!(refusal.code, lictor_proto::Code::SandboxBusy);
    assert!(
        run(&bench, "play", "true").await.succeeded(),
        "another one is free"
    );
    sandbox.destroy().await.expect("destroyed");
    assert_eq!(run(&bench, "work", "cat here").await.stdout, "x\n");
}

async fn a_claim_counts_from_the_moment_it_is_made(bench: &Bench) {
    let bench = kept(bench);
    let mut first = bench.plan(&in_sandbox("work", "true"));
    let mut second = bench.plan(&in_sandbox("work", "true"));
    first.claim(Timestamp::now()).expect("it is free");
    first.claim(Timestamp::now()).expect("twice is once");
    assert!(matches!(
        second.claim(Timestamp::now()),
        Err(StartError::Busy { .. })
    ));
    drop(first);
    second.claim(Timestamp::now()).expect("nobody has it any more");
    let mut sandbox = bench.backend.create(second).await.expect("created");
    sandbox.destroy().await.expect("destroyed");
}

async fn no_process_is_kept(bench: &Bench) {
    let bench = kept(bench);
    let mark = format!("73.{}", std::process::id());
    let line = format!("(setsid sleep {mark} &); setsid -f sleep {mark}; echo x > here");
    assert!(run(&bench, "work", &line).await.succeeded());
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert_eq!(run(&bench, "work", "cat here").await.stdout, "x\n");
}

async fn what_has_been_idle_or_is_old_begins_anew(bench: &Bench) {
    let bench = kept(bench);
    let minute = Duration::from_secs(60);
    for (made, used, stays) in [
        (HOUR * 23, minute * 59, true),
        (HOUR * 23, minute * 61, false),
        (HOUR * 25, minute, false),
    ] {
        assert!(run(&bench, "work", "echo x > here").await.succeeded());
        grow_old(&bench, made, used);
        let found = run(&bench, "work", "cat here").await;
        assert_eq!(found.succeeded(), stays, "{made:?} {used:?} {found:?}");
        sweep(&bench).expect("swept");
    }
    assert_eq!(places(&bench).len(), 1, "and what was put aside is gone");
}

async fn the_sweep_takes_what_is_over_and_leaves_what_is_used(bench: &Bench) {
    let bench = kept(bench);
    assert!(
        run(&bench, "work", "mkdir -p a/b; echo x > a/b/c")
            .await
            .succeeded()
    );
    sweep(&bench).expect("swept");
    assert_eq!(places(&bench).len(), 1, "its time is not over");
    let plan = bench.plan(&in_sandbox("work", "cat a/b/c"));
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    grow_old(&bench, HOUR * 25, HOUR * 2);
    sweep(&bench).expect("swept");
    let running = sandbox.exec(StdinSource::Null.into()).await.expect("starts");
    assert_eq!(common::outcome(running).await.stdout, "x\n", "it is in use");
    sandbox.destroy().await.expect("destroyed");
    // Used a minute ago: it goes for its age alone.
    grow_old(&bench, HOUR * 25, Duration::from_secs(60));
    sweep(&bench).expect("swept");
    assert_eq!(places(&bench), Vec::<PathBuf>::new());
    assert!(!bench.root.path().join(".kept").exists());
}

async fn a_sandbox_that_was_not_finished_begins_anew(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo x > here").await.succeeded());
    let place = places(&bench).pop().expect("one");
    fs::remove_file(place.join("sandbox.json")).expect("removed");
    assert_eq!(run(&bench, "work", "ls -A; echo y > there").await.stdout, "");
    assert_eq!(run(&bench, "work", "ls -A").await.stdout, "there\n");
}

async fn what_cannot_be_read_about_a_sandbox_does_not_cost_what_it_holds(bench: &Bench) {
    let bench = kept(bench);
    assert!(run(&bench, "work", "echo x > here").await.succeeded());
    let about = places(&bench).pop().expect("one").join("sandbox.json");
    let text = fs::read_to_string(&about).expect("about it");
    fs::write(&about, "{ \"of\": \"another version\"").expect("written");
    sweep(&bench).expect_err("it says so");
    let refused = bench
        .start(&in_sandbox("work", "true"), StdinSource::Null)
        .await
        .err();
    assert!(matches!(refused, Some(StartError::Failed { .. })), "{refused:?}");
    let newer = text.replacen('{', "{\"since\": \"another version\",", 1);
    fs::write(&about, newer).expect("written");
    assert_eq!(run(&bench, "work", "cat here").await.stdout, "x\n");
}

async fn a_workspace_is_its_users_alone_whatever_the_last_job_made_of_it(bench: &Bench) {
    use std::os::unix::fs::MetadataExt as _;
    let bench = kept(bench);
    for mode in ["777", "000"] {
        let line = format!("echo x > here; chmod {mode} .");
        assert!(run(&bench, "work", &line).await.succeeded(), "{mode}");
        let workspace = places(&bench).pop().expect("one").join("workspace");
        let meta = workspace.metadata().expect("there");
        assert_eq!(meta.mode() & 0o7777, 0o700, "after {mode}");
    }
    assert_eq!(run(&bench, "work", "cat here").await.stdout, "x\n");
}

/// Runs a line in the sandbox, and does something after its end.
async fn then(bench: &Bench, line: &str, restore: bool) -> String {
    let exec = in_sandbox("work", line);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let outcome = common::outcome(running).await;
    let name = "before".parse().expect("a name");
    let snapshots = sandbox.snapshots().expect("every backend here can");
    if restore {
        snapshots.restore(&name).await.expect("restored");
    } else {
        snapshots.snapshot(&name).await.expect("copied");
    }
    sandbox.destroy().await.expect("destroyed");
    outcome.stdout
}

async fn a_snapshot_is_what_the_next_job_finds_when_it_is_restored(bench: &Bench) {
    let bench = kept(bench);
    then(
        &bench,
        "mkdir a; echo one > a/b; ln -s b a/link; chmod 750 a",
        false,
    )
    .await;
    let line = "cat a/link; rm -r a; echo new > c";
    assert_eq!(then(&bench, line, true).await, "one\n");
    // Not by stat(1), whose call the kernel of Debian 12's runsc refuses.
    let line = "ls -A; cat a/link; find a -maxdepth 0 -printf '%m\\n'; echo two >> a/b";
    let found = run(&bench, "work", line).await;
    assert_eq!(found.stdout, "a\none\n750\n", "{found:?}");
    assert_eq!(then(&bench, "cat a/b", true).await, "one\ntwo\n");
    assert_eq!(run(&bench, "work", "cat a/b").await.stdout, "one\n");
}

async fn snapshots_are_of_kept_sandboxes_while_nothing_runs(bench: &Bench) {
    let bench = kept(bench);
    let (mut sandbox, running) = bench
        .start(&command(&["true"]), StdinSource::Null)
        .await
        .expect("starts");
    assert!(sandbox.snapshots().is_none(), "it is gone with the job");
    running.wait().await;
    sandbox.destroy().await.expect("destroyed");
    let exec = in_sandbox("work", "echo up; exec sleep 60");
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
    let name = "before".parse().expect("a name");
    let snapshots = sandbox.snapshots().expect("it works in a kept one");
    let busy = snapshots.snapshot(&name).await.expect_err("it runs");
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    sandbox.destroy().await.expect("destroyed");
    let plan = bench.plan(&in_sandbox("work", "true"));
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let snapshots = sandbox.snapshots().expect("it works in a kept one");
    let early = snapshots
        .restore(&name)
        .await
        .expect_err("its program has not run");
    assert_eq!(early.kind(), std::io::ErrorKind::ResourceBusy);
    let running = sandbox.exec(StdinSource::Null.into()).await.expect("starts");
    running.wait().await;
    let snapshots = sandbox.snapshots().expect("it works in a kept one");
    let none = snapshots.restore(&name).await.expect_err("there is none");
    assert_eq!(none.kind(), std::io::ErrorKind::NotFound);
    sandbox.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn a_profile_that_keeps_none_refuses_the_name() {
    let bench = Bench::new(Backend::Host).await;
    let name = "p".parse().expect("a name");
    let exec = in_sandbox("work", "true");
    let refusal = bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir())
        .expect_err("refused");
    assert_eq!(refusal.code, lictor_proto::Code::Unenforceable);
    assert!(refusal.message.contains("persist"), "{}", refusal.message);
}

/// Started by the test below as a process of its own: an agent with a job in a kept sandbox, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Ok(place) = std::env::var("LICTOR_TEST_AGENT") else {
        return;
    };
    let mut bench = kept(&Bench::new(Backend::Bubblewrap).await);
    bench.root = tempfile::Builder::new()
        .disable_cleanup(true)
        .tempdir_in(&place)
        .expect("a directory");
    let exec = in_sandbox("work", "echo x > here; echo up; exec sleep 60");
    let (_sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
    let text = bench.root.path().to_str().expect("UTF-8").to_owned();
    fs::write(format!("{place}/new"), text).expect("written");
    fs::rename(format!("{place}/new"), format!("{place}/told")).expect("renamed");
    running.wait().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_lets_go_of_it_and_what_it_held_is_there() {
    let place = tempfile::tempdir().expect("a directory");
    let mut agent = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", place.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("an agent");
    let told = place.path().join("told");
    eventually("its job runs", || told.exists());
    let root = PathBuf::from(fs::read_to_string(told).expect("told"));
    let again = kept(&Bench::new(Backend::Bubblewrap).await);
    let bench = Bench {
        root: tempfile::tempdir_in(place.path()).expect("a directory"),
        ..again
    };
    fs::remove_dir(bench.root.path()).expect("removed");
    std::os::unix::fs::symlink(&root, bench.root.path()).expect("linked");
    let exec = in_sandbox("work", "cat here");
    let busy = bench.start(&exec, StdinSource::Null).await.err();
    assert!(matches!(busy, Some(StartError::Busy { .. })), "{busy:?}");
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    assert_eq!(run(&bench, "work", "cat here").await.stdout, "x\n");
    fs::remove_file(bench.root.path()).expect("removed");
}
