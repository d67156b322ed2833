//! Code that counts as read is run by the real shells: whatever they tried to run was among the command words.
//!
//! There are no programs on the `PATH`, so each attempt ends in "not found" with its name. Shells that a machine does
//! not have are left out; every one has `sh`.
#![allow(clippy::disallowed_methods)] // runs the shells themselves

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use lictor_policy::{Action, classify};
use lictor_proto::doc::Exec;
use proptest::prelude::*;

const SHELLS: &[&str] = &["/bin/sh", "/bin/dash", "/bin/bash"];

/// The names that a shell looked for and did not find.
fn attempted(shell: &str, code: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().expect("directory");
    let limited = format!("ulimit -t 1; exec {shell} -c \"$0\"");
    let output = Command::new("/bin/sh")
        .args(["-c", &limited, code])
        .env_clear()
        .env("PATH", "/nowhere")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // `sh: 1: aa: not found` and `bash: line 1: aa: command not found`.
    let names = text.lines().filter_map(|line| {
        let rest = line
            .strip_suffix(": command not found")
            .or_else(|| line.strip_suffix(": not found"))?;
        Some(rest.rsplit(": ").next().unwrap_or(rest).to_owned())
    });
    names.collect()
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "aa",
        "bb",
        "cc",
        "aa",
        "bb",
        "cc",
        "aa ",
        "bb ",
        " cc",
        " ",
        " ",
        "; ",
        ";",
        "\n",
        "|",
        " | ",
        "||",
        " && ",
        "&",
        " & ",
        "(",
        ")",
        "{ ",
        "; }",
        "'",
        "\"",
        "\\",
        "#",
        " #",
        "$#",
        "$x",
        "${x}",
        "$?",
        "$",
        "=",
        "x=",
        "x=1; ",
        " > f",
        " 2>&1",
        " >&2",
        "<f",
        "&>f",
        "if ",
        "; then ",
        "; else ",
        "; fi",
        "for x in a b; do ",
        "; done",
        "case x in ",
        "x) ",
        "*) ",
        ";; ",
        " esac",
        "! ",
        "*",
        "[",
        "]",
        "~",
        "-",
        "$'",
        "<<",
        "\t",
        "é",
        "%",
        "^",
        "@",
        "+",
        ":",
        ",",
        "while aa; do ",
        "echo ",
        "echo a ",
        "\\\n",
        "\"$\\\n(aa)\"",
        "$\\\n(bb)",
        "&\\\n>f ",
        "''",
        "\"\"",
        "{",
        "}",
        "function ",
        "|&",
        ";&",
        "in ",
        "do",
        "done",
        "fi",
    ])
}

fn code() -> impl Strategy<Value = String> {
    let statement = prop_oneof![
        prop::collection::vec(piece(), 1..8).prop_map(|p| p.concat()),
        ("aa|bb|cc", prop::collection::vec(piece(), 0..5), "aa|bb|cc")
            .prop_map(|(a, p, b)| format!("{a} {}; {b}", p.concat())),
        prop::collection::vec(piece(), 0..3)
            .prop_map(|p| format!("if aa {}; then bb; else cc; fi", p.concat())),
        prop::collection::vec(piece(), 0..3).prop_map(|p| format!("echo \"{}\"; bb", p.concat())),
        prop::collection::vec(piece(), 0..3).prop_map(|p| format!("echo '{}'; cc", p.concat())),
        prop::collection::vec(piece(), 0..3).prop_map(|p| format!("case a in {}*) aa;; esac", p.concat())),
    ];
    prop::collection::vec(statement, 1..4).prop_map(|s| s.join("; "))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn real_shells_run_nothing_that_was_not_read(code in code()) {
        for shell in SHELLS.iter().filter(|s| std::path::Path::new(s).exists()) {
            let exec = Exec::new(vec!["sh".into(), "-c".into(), code.clone()]);
            let Action::Shell(read) = classify(&exec, "/usr/bin/dash") else { continue };
            let ran = attempted(shell, &code);
            prop_assert!(ran.is_subset(&read.commands), "{shell}: {code:?} ran {ran:?}, read {:?}", read.commands);
        }
    }
}
