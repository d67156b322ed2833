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

/// What every code here is given as its first argument and as the variable `A`.
const EVIL: &str = "a[$(zz)]";

/// The names that a shell looked for and did not find.
fn attempted(shell: &str, code: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().expect("directory");
    let limited = format!("ulimit -t 1; exec {shell} -c \"$0\" arg0 \"$A\"");
    let output = Command::new("/bin/sh")
        .args(["-c", &limited, code])
        .env_clear()
        .env("PATH", "/nowhere")
        .env("A", EVIL)
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
        "x+=1",
        "%1",
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

/// Builtins that were looked at: they evaluate none of their arguments. Everything else that a shell has built in
/// must be opaque, so that one that a new version brings is noticed here.
const HARMLESS_BUILTINS: &[&str] = &[
    ":", "[", "break", "cd", "chdir", "continue", "echo", "exit", "false", "kill", "pwd", "return", "shift",
    "test", "times", "true", "type", "ulimit", "umask", "wait",
];

/// Text that runs `zz` as soon as a shell evaluates it, in a variable that the code sets, gets, or is given.
const BAITS: &[&str] = &[
    "d=\\$; x=\"a[${d}(zz)]\"; ",
    "d='$'; b='['; x=\"a${b}${d}(zz)]\"; ",
    "d='$'; x=\"a'['${d}(zz)]\"; ",
    "for x in 'a['\"$1\"'(zz)]'; do ",
    "x=$A; ",
    "",
];

/// Places where bash takes text for a name or a number.
fn hook() -> impl Strategy<Value = String> {
    let builtin = prop::sample::select(builtins());
    let option = prop::sample::select(vec![
        "", "", "-n -p ", "-p ", "-v ", "-R ", "-t ", "-n ", "-s ", "-c ", "1 -eq ", "-u ", "a ", "-- ",
    ]);
    let operand = prop::sample::select(vec![
        "\"$x\"",
        "$x",
        "$A",
        "\"$1\"",
        "a[x]",
        "a[A]",
        "\"a[x]\"",
        "'a[x]'",
        "a[x]=1",
        "{a[A]}>f",
        "{a[x]}<f",
        "{a'['x]}>f",
        "x=$x",
        "1",
    ]);
    let name = prop::sample::select(vec![
        "RANDOM",
        "SRANDOM",
        "HISTCMD",
        "OPTIND",
        "SECONDS",
        "LINENO",
        "COMP_CWORD",
        "y",
        "a[x]",
        "a[A]",
    ]);
    let value = prop::sample::select(vec!["\"$x\"", "$x", "$A", "$1", "\"a[$1(zz)]\""]);
    prop_oneof![
        (builtin, option, operand).prop_map(|(b, o, v)| format!("true & {b} {o}{v}")),
        (name.clone(), value.clone()).prop_map(|(n, v)| format!("{n}={v}")),
        (name.clone(), value.clone()).prop_map(|(n, v)| format!("{n}+={v}; {n}+=1")),
        (name, value).prop_map(|(n, v)| format!("for {n} in {v}; do :; done")),
    ]
}

/// What the shells here have built in.
fn builtins() -> Vec<String> {
    let listed = Command::new("/bin/bash").args(["-c", "compgen -b"]).output();
    let listed = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let mut all: Vec<_> = listed.unwrap_or_default().lines().map(str::to_owned).collect();
    all.extend(HARMLESS_BUILTINS.iter().map(|b| (*b).to_owned()));
    all
}

#[test]
fn every_builtin_is_opaque_or_was_looked_at() {
    for name in builtins() {
        let exec = Exec::new(vec!["sh".into(), "-c".into(), format!("{name} a")]);
        if let Action::Shell(read) = classify(&exec, "/usr/bin/dash") {
            assert!(HARMLESS_BUILTINS.contains(&name.as_str()), "{name}: {read:?}");
        }
    }
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

    #[test]
    fn real_shells_evaluate_nothing_that_was_read(bait in prop::sample::select(BAITS), hook in hook()) {
        let done = if bait.starts_with("for") { "; done" } else { "" };
        let code = format!("{bait}{hook}{done}; echo end");
        for shell in SHELLS.iter().filter(|s| std::path::Path::new(s).exists()) {
            let mut exec = Exec::new(vec!["sh".into(), "-c".into(), code.clone(), "arg0".into(), EVIL.into()]);
            exec.env.insert("A".into(), EVIL.into());
            let Action::Shell(_) = classify(&exec, "/usr/bin/dash") else { continue };
            prop_assert!(!attempted(shell, &code).contains("zz"), "{shell}: {code:?}");
        }
    }
}
