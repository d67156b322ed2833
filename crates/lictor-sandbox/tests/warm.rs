//! Prepared sandboxes: each is for one job, exactly what its plan says, and nothing of them is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use common::{Bench, command, eventually, processes};
use lictor_sandbox::StdinSource;
use lictor_trust::profiles::Backend;

/// First processes of boxes, and whoever holds them, below this test's own keepers.
fn boxes() -> Vec<u32> {
    let keepers = common::keepers();
    let all = processes();
    let of_keepers = all.iter().filter(|p| keepers.contains(&p.3) && p.1 == "bwrap");
    of_keepers.map(|p| p.0).collect()
}

fn names(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.root.path()).expect("a directory").flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn a_job_runs_in_a_sandbox_that_was_prepared_and_never_in_one_that_was_used() {
    let mut bench = Bench::warm(2).await;
    bench.until_warm(2).await;
    let before = boxes();
    assert_eq!(before.len(), 2);
    let mut used = Vec::new();
    for _ in 0..4 {
        let line = "ls -A /workspace /tmp; echo mine > /workspace/mine; echo mine > /tmp/mine; pwd";
        let exec = command(&["sh", "-c", line]);
        let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
        let handle = running.handle().clone();
        let outcome = common::outcome(running).await;
        assert_eq!(outcome.stdout, "/tmp:\n\n/workspace:\n/workspace\n");
        assert_eq!(
            fs::read_to_string(handle.dir.join("mine")).expect("written through"),
            "mine\n",
            "what was prepared is the job's own directory now"
        );
        let holder = handle.roots.last().expect("whoever holds the box").pid;
        assert!(!used.contains(&holder));
        used.push(holder);
        sandbox.destroy().await.expect("destroyed");
        assert!(!handle.dir.exists());
        bench.until_warm(2).await;
    }
    assert!(before.iter().all(|b| used.contains(b)), "{before:?} {used:?}");
    bench.cool_down().await;
}

#[tokio::test]
async fn another_profile_gets_none_of_them() {
    let mut bench = Bench::warm(1).await;
    bench.until_warm(1).await;
    for change in 0..3 {
        let mut other = bench.profile.clone();
        match change {
            0 => other.read_only.push("/var".to_owned()),
            1 => other.limits.pids = Some(100),
            _ => other.warm = 2,
        }
        let own = std::mem::replace(&mut bench.profile, other);
        assert!(bench.run(&["true"]).await.succeeded());
        bench.profile = own;
        assert_eq!(*bench.host.warm_ready().borrow(), 1, "change {change}");
    }
    bench.cool_down().await;
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_ended() {
    let mut bench = Bench::warm(2).await;
    bench.until_warm(2).await;
    let old = boxes();
    let mut other = bench.profile.clone();
    other.read_only.push("/var".to_owned());
    other.warm = 1;
    bench.want_warm(vec![other]);
    bench.until_warm(1).await;
    eventually("the old ones are gone", || {
        boxes().len() == 1 && boxes().iter().all(|b| !old.contains(b))
    });
    assert_eq!(names(&bench).len(), 1);
    bench.cool_down().await;
    assert_eq!(names(&bench), Vec::<String>::new());
    assert_eq!(boxes(), Vec::<u32>::new());
}

#[tokio::test]
async fn one_that_shows_what_was_replaced_meanwhile_is_not_used() {
    let shown = tempfile::tempdir().expect("a directory");
    fs::set_permissions(shown.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let release = |name: &str| {
        let dir = shown.path().join(name);
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("version"), name).expect("written");
        dir
    };
    let current = shown.path().join("current");
    fs::rename(release("one"), &current).expect("renamed");
    let mut bench = Bench::warm(1).await;
    bench
        .profile
        .read_only
        .push(current.to_str().expect("UTF-8").to_owned());
    bench.want_warm(vec![bench.profile.clone()]);
    let version = current.join("version");
    let cat = ["cat", version.to_str().expect("UTF-8")];
    assert_eq!(bench.run(&cat).await.stdout, "one");
    bench.until_warm(1).await;
    fs::rename(&current, shown.path().join("old")).expect("renamed");
    fs::rename(release("two"), &current).expect("renamed");
    assert_eq!(bench.run(&cat).await.stdout, "two");
    bench.cool_down().await;
}

#[tokio::test]
async fn a_profile_of_which_none_can_be_prepared_holds_up_no_other() {
    let mut bench = Bench::warm(0).await;
    let mut missing = bench.profile.clone();
    missing.warm = 1;
    missing.read_only.push("/no/such/directory".to_owned());
    bench.profile.warm = 1;
    bench.want_warm(vec![missing, bench.profile.clone()]);
    bench.until_warm(1).await;
    assert!(bench.run(&["true"]).await.succeeded());
    bench.until_warm(1).await;
    bench.cool_down().await;
}

#[test]
fn one_that_the_host_has_mounted_something_into_is_not_used() {
    if !common::with_own_mounts("one_that_the_host_has_mounted_something_into_is_not_used") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let place = tempfile::tempdir().expect("a directory");
        let mounted = |args: &[&str], at: &std::path::Path| {
            let status = Command::new("mount").args(args).arg(at).status();
            assert!(status.expect("mount runs").success());
        };
        mounted(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], place.path());
        mounted(&["--make-shared"], place.path());
        let inner = place.path().join("inner");
        fs::create_dir(&inner).expect("made");
        let mut bench = Bench::warm(1).await;
        let shown = place.path().to_str().expect("UTF-8").to_owned();
        bench.profile.read_only.push(shown);
        bench.want_warm(vec![bench.profile.clone()]);
        let line = format!("echo x > {}/file && echo written", inner.display());
        assert_eq!(bench.sh(&line).await.stdout, "");
        bench.until_warm(1).await;
        mounted(&["-t", "tmpfs", "-o", "mode=777", "tmpfs"], &inner);
        assert_eq!(bench.sh(&line).await.stdout, "", "what came in was not read-only");
        bench.cool_down().await;
    });
}

#[tokio::test]
async fn one_whose_processes_were_killed_is_not_used() {
    let mut bench = Bench::warm(1).await;
    bench.until_warm(1).await;
    let killed = boxes();
    for pid in killed.clone() {
        let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    }
    let alive = |pid: &u32| processes().iter().any(|p| p.0 == *pid && p.2 != "Z");
    eventually("they are gone", || !killed.iter().any(alive));
    assert!(bench.run(&["true"]).await.succeeded());
    bench.cool_down().await;
}

#[tokio::test]
async fn a_job_that_its_sandbox_is_too_late_for_starts_without() {
    let mut bench = Bench::warm(1).await;
    bench.until_warm(1).await;
    let exec = command(&["true"]);
    let mut both = Vec::new();
    for _ in 0..2 {
        // Both before anything could be prepared again.
        both.push(bench.backend.create(bench.plan(&exec)).await.expect("created"));
    }
    for mut sandbox in both {
        let running = sandbox.exec(StdinSource::Null.into()).await.expect("starts");
        assert!(common::outcome(running).await.succeeded());
        sandbox.destroy().await.expect("destroyed");
    }
    bench.cool_down().await;
}

/// Started by the test below as a process of its own: an agent with prepared sandboxes, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Ok(place) = std::env::var("LICTOR_TEST_AGENT") else {
        return;
    };
    let mut bench = Bench::warm(3).await;
    bench.root.disable_cleanup(true);
    bench.until_warm(3).await;
    let root = bench.root.path().to_str().expect("UTF-8").to_owned();
    let text = format!(
        "{root} {}",
        boxes().iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    );
    fs::write(format!("{place}/new"), text).expect("written");
    fs::rename(format!("{place}/new"), format!("{place}/boxes")).expect("renamed");
    // Waits for the end that never comes.
    std::future::pending::<()>().await;
}

#[test]
fn nothing_of_them_lives_on_when_the_agent_is_killed() {
    let place = tempfile::tempdir().expect("a directory");
    let mut agent = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", place.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("an agent");
    let told = place.path().join("boxes");
    eventually("they wait", || told.exists());
    let text = fs::read_to_string(told).expect("told");
    let (root, pids) = text.split_once(' ').expect("both");
    let pids: Vec<u32> = pids.split(' ').map(|p| p.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 3);
    let alive = || processes().iter().any(|p| pids.contains(&p.0) && p.2 != "Z");
    assert!(alive());
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    eventually("nobody of them is left", || !alive());
    // The next start sweeps these, as it does the directories of jobs.
    for entry in fs::read_dir(root).expect("a directory").flatten() {
        lictor_sandbox::remove_job_dir(&entry.path()).expect("removed");
    }
    fs::remove_dir(root).expect("nothing else was there");
}

#[tokio::test]
async fn one_that_nobody_started_a_job_in_is_ended_like_any_other() {
    let mut bench = Bench::warm(1).await;
    bench.until_warm(1).await;
    assert_eq!(bench.backend.name(), Backend::Bubblewrap);
    let mut sandbox = bench
        .backend
        .create(bench.plan(&command(&["true"])))
        .await
        .expect("created");
    sandbox.destroy().await.expect("destroyed");
    drop(sandbox);
    bench.until_warm(1).await;
    bench.cool_down().await;
    assert_eq!(names(&bench), Vec::<String>::new());
}
