//! Not a timed test: prints what a start costs beside posix_spawn and beside each backend's own peer, as rows of the
//! benchmark's table (`cargo xtask bench --only starts`), and holds only that everything ran.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod common;
#[path = "speed/engines.rs"]
mod engines;
#[path = "speed/oci.rs"]
mod oci;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::Bench;
use common::OnThisMachine as _;
use lictor_proto::doc::Exit;
use lictor_sandbox::{Config, ContainerEngine};
use lictor_trust::profiles::Backend;

const ROUNDS: usize = 60;
/// The namespaces and mounts of a sandbox by hand, as the benchmark has them.
const BARE_BWRAP: &str = include_str!("common/bare-bwrap");

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// From a plan to the end of its job; the sandbox is taken down afterwards, beside which others go on.
async fn start_to_exit(bench: &Bench) -> Duration {
    let plan = bench.plan(&common::command(&["true"]));
    let started = Instant::now();
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let running = sandbox
        .exec(lictor_sandbox::StdinSource::Null.into())
        .await
        .expect("starts");
    let ended = running.wait().await;
    let took = started.elapsed();
    assert_eq!(ended.exit, Some(Exit::Status(0)));
    sandbox.destroy().await.expect("destroyed");
    // The next prepared one is made now, and not beside what is measured next.
    if bench.warm.is_some() {
        bench.until_warm(1).await;
    }
    took
}

fn spawned(command: &mut Command) -> Duration {
    let started = Instant::now();
    assert!(command.status().expect("runs").success());
    started.elapsed()
}

/// One sample of each in turn.
#[tokio::test]
async fn start_and_wait_of_true() {
    let mut benches = vec![("host", Bench::new(Backend::Host).await)];
    if rustix::process::geteuid().is_root() {
        benches.push(("landlock", Bench::new(Backend::Landlock).await));
    }
    benches.push(("bubblewrap", Bench::new(Backend::Bubblewrap).await));
    benches.push(("bubblewrap, prepared", Bench::warm(1).await));
    let mut bare = Command::new("bwrap");
    bare.args(BARE_BWRAP.split_whitespace());
    let (mut spawn, mut bwrap) = (Vec::new(), Vec::new());
    let mut times = vec![Vec::new(); benches.len()];
    for (_, bench) in &benches {
        start_to_exit(bench).await;
    }
    for _ in 0..rounds() {
        spawn.push(spawned(&mut Command::new("/usr/bin/true")));
        bwrap.push(spawned(&mut bare));
        for ((_, bench), times) in benches.iter().zip(&mut times) {
            times.push(start_to_exit(bench).await);
        }
    }
    for ((name, _), times) in benches.iter().zip(&times) {
        let (peer, goal) = match *name {
            "host" => (("posix_spawn", &spawn), "1.3 x"),
            "landlock" => (("posix_spawn", &spawn), "1.5 x"),
            "bubblewrap, prepared" => (("posix_spawn", &spawn), "2 x"),
            _ => (("bare bwrap", &bwrap), "1.2 x"),
        };
        row(name, times, (peer.0, peer.1), goal, "");
    }
    for (_, bench) in &mut benches {
        bench.cool_down().await;
    }
}

/// A row of the benchmark's table: p50 in times of the peer's p50, p99 in times of its p99; `more` stands beside the peer.
fn row(name: &str, times: &[Duration], (peer, theirs): (&str, &[Duration]), goal: &str, more: &str) {
    let ratio = |of: fn(&[Duration]) -> Duration| of(times).as_secs_f64() / of(theirs).as_secs_f64();
    let (at_p50, at_p99, own, beside) = (ratio(median), ratio(p99), both(times), both(theirs));
    println!(
        "| j | start to exit of `true`, {name} | p50 {at_p50:.2} x, p99 {at_p99:.2} x: {own} | {peer}: {beside}{more} | {goal} |"
    );
}

fn both(times: &[Duration]) -> String {
    let us = |d: Duration| d.as_micros();
    format!("p50 {} us, p99 {} us", us(median(times)), us(p99(times)))
}

/// The backends that use an OCI runtime beside the runtime itself, one sample of each in turn.
#[tokio::test]
async fn start_and_wait_of_true_beside_bare_runtimes() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root makes containers");
    }
    let least = oci::Bundle::make();
    let flags = ["--platform=ptrace", "--network=none", "--ignore-cgroups"];
    let engines = [("runc", ContainerEngine::Runc), ("crun", ContainerEngine::Crun)];
    for (runtime, container_engine) in engines {
        let Some(path) = program(runtime) else { continue };
        // crun refuses hosts where both versions of cgroups are mounted; ours shows it none, and so it is measured.
        let by_itself = least.run(runtime, &[]).status().is_ok_and(|s| s.success());
        let run = if by_itself {
            spawned
        } else {
            engines::spawned_apart
        };
        let flags: &[&str] = if by_itself {
            &[]
        } else {
            &["--cgroup-manager", "disabled"]
        };
        let config = Config {
            container_engine,
            oci_runtime: Some(path),
            ..Config::default()
        };
        let bench = Bench::with(Backend::Container, config).await;
        let name = format!("container, {runtime}");
        beside(&bench, &name, ("run", &|| run(&mut least.run(runtime, flags)))).await;
    }
    let bench = Bench::new(Backend::Gvisor).await;
    let bare = || spawned(&mut least.run("runsc", &flags));
    beside(&bench, "gvisor", ("runsc run", &bare)).await;
}

/// A few of each in turn.
async fn beside(bench: &Bench, name: &str, (peer, bare): (&str, &dyn Fn() -> Duration)) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds().div_ceil(5) {
        ours.push(start_to_exit(bench).await);
        theirs.push(bare());
    }
    row(name, &ours, (peer, &theirs), "1.2 x", "");
}

fn program(name: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin"].map(|dir| PathBuf::from(dir).join(name));
    places.into_iter().find(|path| path.is_file())
}

/// What each prepared sandbox holds: memory of its processes that nobody shares, and what the machine has less.
#[tokio::test]
async fn memory_of_a_prepared_sandbox() {
    const COUNT: u32 = 16;
    let mut bench = Bench::warm(0).await;
    let before = available_kib();
    bench.profile.warm = COUNT;
    bench.want_warm(vec![bench.profile.clone()]);
    bench.until_warm(COUNT as usize).await;
    let kept = before.saturating_sub(available_kib());
    let keepers = common::keepers();
    let all = common::processes();
    let below = |parents: &[u32]| -> Vec<u32> {
        let found = all.iter().filter(|p| parents.contains(&p.3));
        found.map(|p| p.0).collect()
    };
    let outer = below(&keepers);
    let inner = below(&outer);
    let own: u64 = keepers
        .iter()
        .chain(&outer)
        .chain(&inner)
        .map(|p| private_kib(*p))
        .sum();
    println!(
        "| j | memory of an idle prepared sandbox | {} KiB of its own processes | the machine has {} KiB less | say it |",
        own / u64::from(COUNT),
        kept / u64::from(COUNT)
    );
    bench.cool_down().await;
}

fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let line = line.expect("a line").trim().trim_end_matches(" kB");
    line.parse().expect("a number")
}

fn private_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text.lines().filter(|l| l.starts_with("Private_"));
    lines
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn rounds() -> usize {
    let asked = std::env::var("LICTOR_ROUNDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(ROUNDS)
}

#[tokio::test]
async fn phases_of_a_start() {
    let all = [
        (Backend::Host, ContainerEngine::Auto),
        (Backend::Landlock, ContainerEngine::Auto),
        (Backend::Bubblewrap, ContainerEngine::Auto),
        (Backend::Container, ContainerEngine::Runc),
        (Backend::Container, ContainerEngine::Crun),
        (Backend::Gvisor, ContainerEngine::Auto),
    ];
    for (backend, container_engine) in all {
        let config = Config {
            container_engine,
            ..Config::default()
        };
        let Some(bench) = Bench::on_with(backend, config).await else {
            continue;
        };
        let exec = common::command(&["true"]);
        let mut phases = [const { Vec::new() }; 5];
        for _ in 0..ROUNDS {
            let mut last = Instant::now();
            let mut lap = |i: usize| {
                phases[i].push(last.elapsed());
                last = Instant::now();
            };
            let plan = bench.plan(&exec);
            lap(0);
            let mut sandbox = bench.backend.create(plan).await.expect("created");
            lap(1);
            let running = sandbox
                .exec(lictor_sandbox::StdinSource::Null.into())
                .await
                .expect("starts");
            lap(2);
            running.wait().await;
            lap(3);
            sandbox.destroy().await.expect("destroyed");
            lap(4);
        }
        println!(
            "{backend:?} ({container_engine:?}) plan, create, exec, wait, destroy: {:?}",
            phases.map(|times| median(&times))
        );
    }
}
