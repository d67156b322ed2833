//! The shape of the workspace, held by its dependency graph and its sources.
//!
//! What a crate may depend on is what makes its promises believable: a hub that cannot make a permit, a warden
//! that cannot be reached from a network. Each rule here is one sentence of ARCHITECTURE.md.

// This test asks cargo.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lictor_test::workspace_root;

/// Whatever reads from or writes to a network, or speaks a protocol of one.
const NETWORK: &[&str] = &[
    "aws-lc-rs",
    "axum",
    "h2",
    "http",
    "http-body",
    "hyper",
    "hyper-util",
    "object_store",
    "rcgen",
    "reqwest",
    "ring",
    "rustls",
    "tokio-rustls",
    "tokio-tungstenite",
    "tower-http",
    "tungstenite",
    "httparse",
    "lictor-link",
    "lictor-egress",
    "lictor-agent",
    "lictor-client",
    "lictor-hub",
];

const HUB_ONLY: &[&str] = &[
    "lictor-hub",
    "sqlx",
    "sqlx-core",
    "libsqlite3-sys",
    "object_store",
    "utoipa",
    "zstd-sys",
];

/// What of our own each crate may depend on directly. A new edge is a decision: put it here with the change.
const EDGES: &[(&str, &[&str])] = &[
    ("lictor-proto", &[]),
    ("lictor-trust", &["proto"]),
    ("lictor-audit", &["proto"]),
    ("lictor-link", &["proto"]),
    ("lictor-policy", &["trust", "proto"]),
    ("lictor-sandbox", &["policy", "trust", "proto"]),
    ("lictor-warden", &["sandbox", "policy", "audit", "trust", "proto"]),
    ("lictor-egress", &["trust", "proto"]),
    ("lictor-agent", &["link", "warden", "trust", "proto"]),
    ("lictor-hub", &["link", "audit", "trust", "proto"]),
    ("lictor-client", &["link", "trust", "proto"]),
];

/// The packages of a crate's tree, as `name features`, with the features it has when built for that crate alone.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--edges=normal",
            "--prefix=none",
            "--no-dedupe",
            "--format={p}|{f}",
        ])
        .args(arguments)
        .current_dir(workspace_root())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| {
            let (package, features) = line.split_once('|').unwrap_or((line, ""));
            format!("{} {features}", package.split(' ').next().unwrap_or_default())
        })
        .collect()
}

fn names(arguments: &[&str]) -> BTreeSet<String> {
    tree(arguments)
        .iter()
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn assert_free_of(package: &[&str], forbidden: &[&str]) {
    let found = names(package);
    let bad: Vec<_> = forbidden.iter().filter(|f| found.contains(**f)).collect();
    assert!(bad.is_empty(), "{package:?} depends on {bad:?}");
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for member in fs::read_dir(workspace_root().join("crates")).expect("crates/") {
        collect(&member.expect("entry").path(), &mut found);
    }
    collect(&workspace_root().join("xtask"), &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push((
                path.strip_prefix(workspace_root()).expect("inside").to_path_buf(),
                text,
            ));
        }
    }
}

fn is_in(path: &Path, members: &[&str]) -> bool {
    members.iter().any(|m| path.starts_with(m))
}

#[test]
fn our_crates_depend_on_each_other_downwards_only() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--no-deps", "--format-version=1"])
        .current_dir(workspace_root())
        .output()
        .expect("cargo starts");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    for (name, allowed) in EDGES {
        let package = packages
            .iter()
            .find(|p| p["name"] == *name)
            .expect("every crate of the table exists");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let target = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"] == "dev" {
                continue;
            }
            if let Some(ours) = target.strip_prefix("lictor-") {
                assert!(allowed.contains(&ours), "{name} may not depend on {target}");
            }
        }
    }
    let ours = packages
        .iter()
        .filter_map(|p| p["name"].as_str())
        .filter(|n| n.starts_with("lictor-"));
    for name in ours.filter(|n| *n != "lictor-test") {
        assert!(
            EDGES.iter().any(|(n, _)| *n == name),
            "{name} is missing from the table of this test"
        );
    }
}

#[test]
fn the_warden_knows_no_network() {
    assert_free_of(&["--package=lictor-warden"], NETWORK);
}

#[test]
fn what_decides_knows_no_async_runtime() {
    for package in ["lictor-proto", "lictor-trust", "lictor-policy", "lictor-audit"] {
        assert_free_of(&["--package", package], &["tokio"]);
    }
    assert_free_of(&["--package=lictor-policy", "--features=authorise"], &["tokio"]);
}

#[test]
fn the_hub_cannot_make_a_permit() {
    let hub = ["--package=lictor-hub"];
    assert_free_of(
        &hub,
        &[
            "lictor-policy",
            "lictor-sandbox",
            "lictor-warden",
            "lictor-agent",
            "lictor-client",
        ],
    );
}

#[test]
fn the_warden_is_where_permits_are_made() {
    // The counterpart of the test above: it shows that the feature is visible to this kind of test at all.
    let warden = tree(&["--package=lictor-warden"]);
    assert!(
        warden
            .iter()
            .any(|l| l.starts_with("lictor-policy ") && l.contains("authorise"))
    );
}

#[test]
fn no_package_lifts_the_permit() {
    // The sandbox's own conformance suite makes plans without permits; nothing that is built for use may.
    let binary = tree(&["--package=lictor"]);
    let sandbox: Vec<_> = binary
        .iter()
        .filter(|l| l.starts_with("lictor-sandbox "))
        .collect();
    assert!(!sandbox.is_empty(), "the binary has the sandbox");
    assert!(sandbox.iter().all(|l| !l.contains("testing")), "{sandbox:?}");
}

#[test]
fn agent_and_client_know_no_hub() {
    assert_free_of(&["--package=lictor-agent"], HUB_ONLY);
    assert_free_of(&["--package=lictor-client"], HUB_ONLY);
    assert_free_of(
        &["--package=lictor-client"],
        &["lictor-agent", "lictor-warden", "lictor-sandbox"],
    );
}

#[test]
fn an_agent_package_contains_no_hub() {
    let agent_only = ["--package=lictor", "--no-default-features", "--features=agent"];
    assert_free_of(&agent_only, HUB_ONLY);
    assert!(names(&agent_only).contains("lictor-warden"));
}

#[test]
fn tls_has_one_provider_and_no_openssl() {
    assert_free_of(
        &["--package=lictor"],
        &["ring", "openssl", "openssl-sys", "native-tls"],
    );
}

#[test]
fn only_the_sandbox_is_unsafe() {
    for (path, text) in sources() {
        if is_in(
            &path,
            &[
                "crates/lictor-sandbox",
                "crates/lictor-test/tests/architecture.rs",
            ],
        ) {
            continue;
        }
        for word in [
            "unsafe {",
            "unsafe fn",
            "unsafe impl",
            "unsafe extern",
            "allow(unsafe_code",
        ] {
            assert!(!text.contains(word), "{} contains `{word}`", path.display());
        }
    }
}

#[test]
fn only_the_binary_prints() {
    for (path, text) in sources() {
        if is_in(&path, &["crates/lictor", "crates/lictor-test", "xtask"])
            || path.iter().any(|p| p == "tests")
        {
            continue;
        }
        for word in ["print_stdout", "print_stderr", "println!(", "eprint!("] {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!code.contains(word), "{} contains `{word}`", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_is_short_enough_to_read() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(
            text.starts_with("//!"),
            "{} does not open with `//!`",
            path.display()
        );
        assert!(lines <= 500, "{} has {lines} lines: divide it", path.display());
    }
}
