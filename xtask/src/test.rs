//! `cargo xtask test`: everything that must hold before a change lands. Cheap steps first, system tests last.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, root, run};
use crate::steps::Steps;

/// Runs every step; the first failure ends it.
pub(crate) fn run_all() -> Result<()> {
    let mut steps = Steps::new();
    steps.step("setup", setup::for_tests)?;
    steps.step("format", || run(cargo(&["fmt", "--all", "--check"])))?;
    steps.step("clippy", clippy)?;
    steps.step("features", features)?;
    steps.step("docs", docs)?;
    if root().join("fuzz/Cargo.toml").is_file() {
        steps.step("fuzz", crate::fuzz::run_all)?;
    }
    steps.step("doctests", || {
        run(cargo(&["test", "--workspace", "--doc", "--quiet"]))
    })?;
    steps.step("tests", tests)?;
    steps.step("guest", crate::guest::run_all)?;
    steps.step("demo", crate::programs::demo_once)?;
    steps.finish();
    Ok(())
}

fn clippy() -> Result<()> {
    run(cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// The packages that people install: a machine's agent without the hub, and the bare client.
fn features() -> Result<()> {
    // The agent is checked as it is packaged: nothing that only the hub asks of a shared dependency helps it.
    run(cargo(&[
        "check",
        "--quiet",
        "--package",
        "lictor",
        "--no-default-features",
        "--features",
        "agent",
    ]))?;
    // The other combinations only differ in our own code; with the workspace's dependencies that takes seconds.
    run(cargo(&[
        "check",
        "--quiet",
        "--workspace",
        "--no-default-features",
    ]))?;
    run(cargo(&[
        "check",
        "--quiet",
        "--workspace",
        "--no-default-features",
        "--features",
        "lictor/hub",
    ]))
}

fn docs() -> Result<()> {
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ]);
    // Private items are documented, for whoever works on them: links to them lead somewhere.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    run(doc)
}

fn tests() -> Result<()> {
    let mut tests = match setup::has_nextest() {
        true => cargo(&["nextest", "run", "--workspace"]),
        false => cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]),
    };
    if setup::is_root() {
        tests.env("LICTOR_TEST_DOCKER", setup::docker()?);
    }
    run(tests)
}
