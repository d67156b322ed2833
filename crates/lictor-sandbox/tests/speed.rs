//! Not a timed test: prints what a start costs beside posix_spawn and beside bare bwrap, and holds only that
//! everything ran. `cargo nextest run -p lictor-sandbox --test speed --no-capture`, in release for real figures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::Bench;
use lictor_trust::profiles::Backend;

const ROUNDS: usize = 60;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn start_and_wait_of_true() {
    let host = Bench::new(Backend::Host).await;
    let boxed = Bench::new(Backend::Bubblewrap).await;
    let mut times = [const { Vec::new() }; 4];
    let bwrap = "--unshare-all --unshare-user --disable-userns --die-with-parent --cap-drop ALL --clearenv \
        --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
        --proc /proc --ro-bind /proc/sys /proc/sys --dev /dev --tmpfs /tmp -- /usr/bin/true";
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
                .args(bwrap.split_whitespace())
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
