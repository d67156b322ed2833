//! `cargo xtask demo` and `bench`: set-up, build, and then the program of `lictor-test` that does it.
//!
//! This process becomes that program, so that a signal sent to one reaches the other.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup;
use crate::shell::{cargo, run, target_dir};

/// The word for row j in `--only`.
const STARTS: &str = "starts";

/// Shows the point of Lictor on this machine.
pub(crate) fn demo(arguments: &[&str]) -> Result<()> {
    println!("== setup");
    setup::for_demo()?;
    println!("== build");
    run(cargo(&["build", "--workspace", "--bins"]))?;
    println!("== demo");
    become_program("debug", "demo", arguments)
}

/// The demo from start to end, as a test: it fails when a scene does not show what it should.
pub(crate) fn demo_once() -> Result<()> {
    // Together with the tests, which have been built: nothing is compiled a second time with other features.
    run(cargo(&["build", "--workspace", "--bins", "--tests", "--quiet"]))?;
    let mut demo = Command::new(target_dir().join("debug").join("demo"));
    demo.arg("--once");
    run(demo)
}

/// Measures, against floors and peers.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    println!("== setup");
    setup::for_bench()?;
    println!("== build");
    // Apart from the rest, so that it is built with its own features and no others.
    let release = ["build", "--release", "--package", "lictor"];
    let agent_only = ["--no-default-features", "--features", "agent"];
    run(cargo(&[&release[..], &agent_only].concat()))?;
    let built = target_dir().join("release");
    std::fs::copy(built.join("lictor"), built.join("lictor-agent-only"))?;
    // What measures and what is measured; each further program would be optimised as a whole for minutes.
    let programs = [
        "--package",
        "lictor-test",
        "--bin",
        "lictor",
        "--bin",
        "bench",
        "--bin",
        "spawn-base",
    ];
    run(cargo(&[&release[..], &programs].concat()))?;
    println!("== bench");
    let only = arguments.iter().skip_while(|a| **a != "--only").nth(1);
    if only.is_none_or(|word| *word == STARTS) {
        starts(arguments)?;
    }
    if only == Some(&STARTS) {
        return Ok(());
    }
    become_program("release", "bench", arguments)
}

/// Row j. It is the sandbox crate's own: only its tests make plans that nobody has permitted.
fn starts(arguments: &[&str]) -> Result<()> {
    let rounds = if arguments.contains(&"--quick") {
        "60"
    } else {
        "500"
    };
    let test = [
        "test",
        "--release",
        "--package",
        "lictor-sandbox",
        "--features",
        "testing",
        "--test",
        "speed",
    ];
    let shown = ["--", "--nocapture", "--test-threads", "1"];
    let mut starts = cargo(&[&test[..], &shown].concat());
    starts.env("LICTOR_ROUNDS", rounds);
    if setup::is_root() {
        starts.env("LICTOR_TEST_DOCKER", setup::docker()?);
    }
    run(starts)
}

fn become_program(profile: &str, name: &str, arguments: &[&str]) -> Result<()> {
    let path = target_dir().join(profile).join(name);
    let error = Command::new(&path).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", path.display()))
}
