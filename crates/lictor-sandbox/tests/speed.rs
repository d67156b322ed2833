//! Not a timed test: prints what a start costs beside posix_spawn and beside bare bwrap, and holds only that
//! everything ran. `cargo nextest run -p lictor-sandbox --test speed --no-capture`, in release for real figures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::Bench;
use lictor_trust::profiles::Backend;

const ROUNDS: usize = 60;
/// The namespaces and mounts of a sandbox by hand, as the benchmark has them.
const BARE_BWRAP: &str = include_str!("common/bare-bwrap");

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn start_and_wait_of_true() {
    let host = Bench::new(Backend::Host).await;
    let boxed = Bench::new(Backend::Bubblewrap).await;
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let started = Instant::now();
        assert!(Command::new("/usr/bin/true").status().expect("runs").success());
        times[0].push(started.elapsed());
        let started = Instant::now();
        assert!(host.run(&["true"]).await.succeeded());
        times[1].push(started.elapsed());
        let started = Instant::now();
        assert!(
            Command::new("bwrap")
                .args(BARE_BWRAP.split_whitespace())
                .status()
                .expect("runs")
                .success()
        );
        times[2].push(started.elapsed());
        let started = Instant::now();
        assert!(boxed.run(&["true"]).await.succeeded());
        times[3].push(started.elapsed());
    }
    let least = times.clone().map(|t| t.into_iter().min().expect("rounds"));
    println!("least of {ROUNDS} (spawn, host, bwrap, bubblewrap): {least:?}");
    let [spawn, host, bwrap, boxed] = times.map(median);
    println!(
        "posix_spawn {spawn:?}, host {host:?}: {:.2} x",
        host.as_secs_f64() / spawn.as_secs_f64()
    );
    println!(
        "bare bwrap {bwrap:?}, bubblewrap {boxed:?}: {:.2} x",
        boxed.as_secs_f64() / bwrap.as_secs_f64()
    );
}

#[tokio::test]
async fn phases_of_a_start() {
    for backend in [Backend::Host, Backend::Bubblewrap] {
        let bench = Bench::new(backend).await;
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
            "{backend:?} plan, create, exec, wait, destroy: {:?}",
            phases.map(median)
        );
    }
}
