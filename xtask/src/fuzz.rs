//! A short run of every fuzz target, as part of `test`.
//!
//! The targets in `fuzz/` are plain cargo-fuzz targets. This builds them with the same coverage instrumentation
//! but by flags that a stable compiler has, so that nobody needs a nightly toolchain or cargo-fuzz to run them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::shell::{cargo, program, root, run, target_dir};

/// Seconds per target.
const SECONDS: u32 = 4;

const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on -Clink-dead-code=off";

/// Builds and runs all targets.
pub(crate) fn run_all() -> Result<()> {
    let target_dir = target_dir().join("fuzz");
    let mut build = cargo(&[
        "build",
        "--quiet",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--bins",
    ]);
    // With an explicit target the flags reach the fuzzed code but not build scripts and macros.
    build
        .args(["--target", host()?.as_str()])
        .arg("--target-dir")
        .arg(&target_dir);
    build.env("RUSTFLAGS", COVERAGE);
    run(build)?;
    for target in targets()? {
        fuzz(&target_dir.join(host()?).join("release").join(&target), &target)?;
    }
    Ok(())
}

fn fuzz(binary: &Path, target: &str) -> Result<()> {
    let corpus = root().join("fuzz/corpus").join(target);
    let artifacts = root().join("fuzz/artifacts").join(target);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = program(binary.to_str().context("target directory is not UTF-8")?, &[]);
    command.arg(format!("-max_total_time={SECONDS}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args([
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-verbosity=0",
        "-print_final_stats=1",
    ]);
    command.arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprint!("{text}");
        bail!("fuzz target `{target}` found something; see fuzz/artifacts/{target}");
    }
    let runs = text
        .lines()
        .find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    println!(
        "   {target}: {} inputs in {SECONDS} s, nothing found",
        runs.unwrap_or("?").trim()
    );
    Ok(())
}

/// The names of the targets, as fuzz/Cargo.toml gives them.
fn targets() -> Result<Vec<String>> {
    let mut metadata = cargo(&[
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]);
    let output = metadata.output()?;
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata of fuzz/")?;
    let names: Vec<String> = value["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|p| p["targets"].as_array().cloned().unwrap_or_default())
        .filter(|t| t["kind"][0] == "bin")
        .filter_map(|t| t["name"].as_str().map(str::to_owned))
        .collect();
    if names.is_empty() {
        bail!("fuzz/Cargo.toml has no targets");
    }
    Ok(names)
}

fn host() -> Result<String> {
    let output = program("rustc", &["-vV"])
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|l| l.strip_prefix("host: "));
    Ok(line.context("rustc does not say its host")?.to_owned())
}
