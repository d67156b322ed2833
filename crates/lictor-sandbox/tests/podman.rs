//! What podman starts is many processes and files, of an agent that may be killed at any time, and may be nobody: nothing
//! of them stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::somebody::{as_somebody, own_place};
use common::{Bench, command, eventually, processes_with};
use lictor_sandbox::{Config, ContainerEngine, Handle, StdinSource};
use lictor_trust::profiles::Backend;

/// An agent whose containers are podman's, with its files there.
fn config(place: &Path) -> Config {
    Config {
        container_engine: ContainerEngine::Podman,
        runtime_dir: place.join("run"),
        ..Config::default()
    }
}

fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(what)
}

/// Started by the tests below as a process of its own: an agent with a running job, to be killed.
#[test]
fn agent_to_be_killed() {
    let Some(place) = std::env::var_os("LICTOR_TEST_AGENT").map(PathBuf::from) else {
        return;
    };
    let mark = std::env::var("LICTOR_TEST_MARK").expect("a mark");
    alone(async {
        let mut bench = Bench::with(Backend::Container, config(&place)).await;
        bench.root.disable_cleanup(true);
        let line = format!("setsid sleep {mark} & (setsid sleep {mark} &); echo up; exec sleep {mark}");
        let exec = command(&["sh", "-c", &line]);
        let (_sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
        let mut out = running.take_stdout().expect("stdout");
        out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
        let handle = serde_json::to_string(running.handle()).expect("JSON");
        fs::write(place.join("up.new"), handle).expect("written");
        fs::rename(place.join("up.new"), place.join("up")).expect("renamed");
        running.wait().await;
    });
}

fn start_agent(place: &Path, mark: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", place)
        .env("LICTOR_TEST_MARK", mark)
        .stdout(Stdio::null())
        .spawn()
        .expect("an agent")
}

/// What lies there of one agent process.
fn remains(place: &Path, agent: &Child) -> Vec<PathBuf> {
    let own = format!("{}.", agent.id());
    let all = fs::read_dir(place.join("run")).into_iter().flatten().flatten();
    let own = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
    own.map(|entry| entry.path()).collect()
}

/// What a runtime remembers of a container, in the directory of an agent process.
fn has_state(dir: &Path) -> bool {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let states = below(dir).flat_map(|bundle| below(&bundle.path().join("state")));
    let files = states.flat_map(|state| ["status", "state.json"].map(|name| state.path().join(name)));
    files.into_iter().any(|file| file.exists())
}

/// Nobody of it runs, whoever it was: the job, its first process, podman, its runtime, its monitor. All but the first two
/// are told where their files are.
fn is_over(place: &Path, mark: &str) -> bool {
    let run = place.join("run").display().to_string();
    processes_with(mark).is_empty() && processes_with(&run).is_empty() && !is_in_an_environment(&run)
}

/// Who keeps podman's users for its next time is told nothing, and has its environment.
fn is_in_an_environment(path: &str) -> bool {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let others = all.filter(|entry| entry.file_name().to_string_lossy().parse() != Ok(std::process::id()));
    let mut texts = others.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
    texts.any(|text| String::from_utf8_lossy(&text).contains(path))
}

fn mounts_below(place: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let place = place.display().to_string();
    mounts.lines().filter(|line| line.contains(&place)).count()
}

async fn nothing_stays_of_a_killed_agent(place: &Path) {
    let mark = format!("68.{}", std::process::id());
    let before = mounts_below(place);
    let mut agent = start_agent(place, &mark);
    eventually("its job runs", || place.join("up").exists());
    assert!(!processes_with(&mark).is_empty());
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    eventually("its container has ended, and whoever made it", || {
        is_over(place, &mark)
    });
    assert_eq!(mounts_below(place), before);
    let left = remains(place, &agent);
    assert!(!left.is_empty(), "its files are for the next one");
    assert!(
        left.iter().any(|dir| has_state(dir)),
        "what a runtime writes down lies among them"
    );
    let handle = fs::read_to_string(place.join("up")).expect("a handle");
    let handle: Handle = serde_json::from_str(&handle).expect("a handle");
    let next = Bench::with(Backend::Container, config(place)).await;
    assert_eq!(remains(place, &agent), Vec::<PathBuf>::new());
    let recovered = next.backend.recover(handle.clone()).await.expect("found");
    recovered.destroy().await.expect("destroyed");
    assert!(!handle.dir.exists());
    let cgroups = handle.cgroup.iter().chain(&handle.cgroups_v1);
    assert!(cgroups.into_iter().all(|cgroup| !cgroup.exists()));
    assert!(next.run(&["true"]).await.succeeded());
    if let Some(root) = handle.dir.parent() {
        fs::remove_dir_all(root).expect("removed");
    }
    fs::remove_file(place.join("up")).expect("removed");
}

/// Killed while podman works: it is not told that it is not wanted any more, and neither is whom it has started.
async fn nothing_stays_of_an_agent_killed_while_podman_works(place: &Path) {
    let mark = format!("69.{}", std::process::id());
    for program in ["podman", "conmon"] {
        let mut agent = start_agent(place, &mark);
        let run = place.join("run").display().to_string();
        let is_it = |line: &String| {
            let word = line.split(' ').nth(1).unwrap_or_default();
            word.ends_with(program)
        };
        eventually("it is at work", || processes_with(&run).iter().any(is_it));
        agent.kill().expect("killed");
        agent.wait().expect("gone");
        eventually("nobody of it is left", || is_over(place, &mark));
        let next = Bench::with(Backend::Container, config(place)).await;
        assert_eq!(remains(place, &agent), Vec::<PathBuf>::new(), "{program}");
        drop(next);
        let _ = fs::remove_file(place.join("up"));
    }
}

fn place() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        common::skip("it takes a root agent");
        return None;
    }
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    Some(place)
}

#[test]
fn a_container_of_podman_ends_with_its_agent_and_the_next_one_tidies_up() {
    if let Some(place) = place() {
        alone(nothing_stays_of_a_killed_agent(place.path()));
        alone(nothing_stays_of_an_agent_killed_while_podman_works(place.path()));
    }
}

#[test]
fn a_container_of_podman_ends_with_an_agent_that_is_not_root() {
    if as_somebody("a_container_of_podman_ends_with_an_agent_that_is_not_root") {
        alone(nothing_stays_of_a_killed_agent(&own_place()));
        alone(nothing_stays_of_an_agent_killed_while_podman_works(&own_place()));
    }
}

/// podman with a line in the file that says what it mounts by itself, for as long as there is one to say.
fn podman_that_mounts(place: &Path) -> PathBuf {
    let (script, line) = (place.join("podman"), place.join("line"));
    let text = format!(
        "#!/bin/sh\nnext=\nfor word; do\n  if [ \"$next\" ] && [ -e {line} ]; then cat {line} > \"$word\"; fi\n  next=\n  \
         if [ \"$word\" = --default-mounts-file ]; then next=1; fi\ndone\nexec /usr/bin/podman \"$@\"\n",
        line = line.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    script
}

/// Whatever a site has mounted into every container of its podman.
async fn what_podman_mounts_by_itself_is_refused(place: &Path) {
    let config = Config {
        podman: podman_that_mounts(place),
        ..config(place)
    };
    let site = place.join("site");
    fs::create_dir(&site).expect("made");
    fs::write(site.join("key"), "the-secret").expect("written");
    let bench = Bench::with(Backend::Container, config).await;
    assert!(bench.run(&["true"]).await.succeeded(), "while there is no line");
    for at in ["/tmp/site", "/run/secrets", "/var/site"] {
        fs::write(place.join("line"), format!("{}:{at}\n", site.display())).expect("written");
        let started = bench.start(&command(&["true"]), StdinSource::Null).await;
        let refused = started.err().expect(at).refusal().message;
        // Where its runtime can make no place for it, that says so itself.
        let is_seen = refused.contains(at) && refused.contains("not asked for");
        assert!(is_seen || at != "/tmp/site", "{refused}");
    }
    fs::remove_file(place.join("line")).expect("removed");
    assert!(bench.run(&["true"]).await.succeeded());
}

#[test]
fn what_podman_mounts_besides_what_it_is_asked_for_is_a_refusal() {
    if let Some(place) = place() {
        alone(what_podman_mounts_by_itself_is_refused(place.path()));
    }
}

#[test]
fn what_podman_of_an_agent_that_is_not_root_mounts_besides_is_a_refusal() {
    if as_somebody("what_podman_of_an_agent_that_is_not_root_mounts_besides_is_a_refusal") {
        alone(what_podman_mounts_by_itself_is_refused(&own_place()));
    }
}
