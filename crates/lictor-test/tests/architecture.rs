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
    "lettre",
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
    "bollard",
    "lictor-docker",
    "lictor-download",
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
    ("lictor-rootfs", &["proto"]),
    ("lictor-control", &[]),
    (
        "lictor-sandbox",
        &["rootfs", "control", "policy", "trust", "proto"],
    ),
    (
        "lictor-warden",
        &["sandbox", "rootfs", "policy", "audit", "trust", "proto"],
    ),
    ("lictor-egress", &["control", "trust", "proto"]),
    ("lictor-download", &["proto"]),
    ("lictor-docker", &["sandbox", "proto"]),
    ("lictor-agent", &["link", "warden", "trust", "proto"]),
    ("lictor-hub", &["link", "audit", "trust", "proto"]),
    ("lictor-client", &["link", "trust", "proto"]),
];

/// What only Linux has, as it is written in code.
const LINUX: &[&str] = &[
    "target_os",
    "target_env",
    "os::linux",
    "libc::",
    "rustix::",
    "nix::",
    "procfs::",
    "caps::",
    "\"/proc",
    "\"/sys/",
    "\"/dev/fd",
];

/// Crates that are a way to the kernel.
const KERNEL: &[&str] = &[
    "rustix",
    "libc",
    "nix",
    "procfs",
    "caps",
    "seccompiler",
    "linux-raw-sys",
];

/// Where else a word of [`LINUX`] or a crate of [`KERNEL`] may stand, and why.
const KERNEL_ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "crates/lictor/src/secret.rs",
        "rustix::",
        "whoever types a passphrase should not be seen doing so; any unix, and others have a way of their own",
    ),
    ("lictor", "rustix", "the same"),
    (
        "crates/lictor/src/commands/cp/arriving.rs",
        "rustix::",
        "the standard library renames over what is there; Linux and macOS can refuse to, and what cannot has a longer way",
    ),
    (
        "crates/lictor/src/commands/cp/arriving.rs",
        "target_os",
        "the same",
    ),
    (
        "crates/lictor-control/src/lib.rs",
        "rustix::",
        "the standard library passes no descriptors over a socket; any unix that has SOCK_SEQPACKET",
    ),
    (
        "crates/lictor-egress/src/socket.rs",
        "rustix::",
        "the standard library ends one half of a socket, and tells one kind from another, only with more ado; any unix",
    ),
    ("lictor-control", "rustix", "the same as its file"),
    ("lictor-egress", "rustix", "the same as its file"),
];

/// What a program was started with, as it is written in code.
const STARTED_WITH: &[&str] = &[
    "env::var",
    "env::args",
    "env::current_dir",
    "env::home_dir",
    "env::temp_dir",
    "env::set_",
    "env::remove_",
    "use std::env",
    "env = \"",
    "dirs::",
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

/// Whether a word is there, and not as the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// What is built into a package, without tests, tasks and comments: what `words` it has, and in which file.
fn shipped_lines_with(words: &[&'static str], elsewhere: &[&str]) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let is_shipped = path.components().nth(2).is_some_and(|c| c.as_os_str() == "src");
        if !is_shipped || is_in(&path, &["crates/lictor-test", "xtask"]) || is_in(&path, elsewhere) {
            continue;
        }
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            let there = words.iter().filter(|w| has_word(line, w));
            found.extend(there.map(|w| (path.clone(), *w)));
        }
    }
    found
}

fn packages() -> Vec<serde_json::Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--no-deps", "--format-version=1"])
        .current_dir(workspace_root())
        .output()
        .expect("cargo starts");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn our_crates_depend_on_each_other_downwards_only() {
    let packages = packages();
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
fn what_runs_jobs_unpacks_no_archive() {
    for package in ["lictor-warden", "lictor-agent"] {
        assert_free_of(&["--package", package], &["tar", "flate2", "ruzstd"]);
    }
}

#[test]
fn what_decides_knows_no_async_runtime() {
    for package in [
        "lictor-proto",
        "lictor-rootfs",
        "lictor-trust",
        "lictor-policy",
        "lictor-audit",
    ] {
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
fn what_only_linux_has_stays_in_the_sandbox() {
    for (path, word) in shipped_lines_with(LINUX, &["crates/lictor-sandbox"]) {
        let mut elsewhere = KERNEL_ELSEWHERE.iter();
        let allowed = elsewhere.any(|(file, what, _)| Path::new(file) == path && *what == word);
        assert!(
            allowed,
            "{} has `{word}`: it belongs into lictor-sandbox",
            path.display()
        );
    }
    for package in packages() {
        let name = package["name"].as_str().unwrap_or_default();
        if ["lictor-sandbox", "lictor-test", "xtask"].contains(&name) {
            continue;
        }
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        let names = dependencies
            .filter(|d| d["kind"] != "dev")
            .filter_map(|d| d["name"].as_str());
        for kernel in names.filter(|n| KERNEL.contains(n)) {
            let allowed = KERNEL_ELSEWHERE
                .iter()
                .any(|(who, what, _)| *who == name && *what == kernel);
            assert!(
                allowed,
                "{name} depends on {kernel}: what needs it belongs into lictor-sandbox"
            );
        }
    }
}

#[test]
fn no_exception_outlives_its_reason() {
    let words = shipped_lines_with(LINUX, &["crates/lictor-sandbox"]);
    let packages = packages();
    for (place, what, why) in KERNEL_ELSEWHERE {
        let in_code = words
            .iter()
            .any(|(path, word)| Path::new(place) == path && word == what);
        let in_manifest = packages.iter().any(|p| {
            let mut dependencies = p["dependencies"].as_array().expect("dependencies").iter();
            p["name"] == *place && dependencies.any(|d| d["name"] == *what)
        });
        assert!(in_code || in_manifest, "{place} has no `{what}` any more ({why})");
    }
    // And the sandbox has what is looked for: the words are the right ones.
    let sandbox = shipped_lines_with(LINUX, &["crates/lictor"]);
    for word in ["target_os", "libc::", "rustix::", "\"/proc"] {
        assert!(
            sandbox.iter().any(|(_, w)| *w == word),
            "the sandbox has no `{word}`"
        );
    }
}

#[test]
fn only_the_binary_looks_at_what_it_was_started_with() {
    // Environment variables, arguments and the current directory: libraries are told.
    let found = shipped_lines_with(STARTED_WITH, &["crates/lictor"]);
    assert!(found.is_empty(), "only the binary may ask: {found:?}");
    let binary = shipped_lines_with(STARTED_WITH, &["crates/lictor-sandbox"]);
    assert!(
        !binary.is_empty(),
        "the binary asks, in other words than are looked for"
    );
}

#[test]
fn only_the_binary_prints() {
    for (path, text) in sources() {
        if is_in(&path, &["crates/lictor", "crates/lictor-test", "xtask"])
            || path.iter().any(|p| p == "tests")
            // What cargo runs while it builds speaks to it by printing.
            || path.ends_with("build.rs")
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
