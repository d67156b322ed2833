//! Colour is for terminals; and what stands in the help is looked at when it changes.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Home;

/// A command on a terminal of its own.
fn terminal(home: &Home, arguments: &str) -> Command {
    let mut command = Command::new("script");
    let line = format!("'{}' {arguments}", env!("CARGO_BIN_EXE_lictor"));
    command
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SHELL", "/bin/sh")
        .env("LICTOR_HOME", home.path(""));
    command
}

/// What a command shows there.
fn on_a_terminal(home: &Home, arguments: &str, env: &[(&str, &str)]) -> String {
    let mut command = terminal(home, arguments);
    let output = command.envs(env.iter().copied()).stdin(Stdio::null()).output();
    String::from_utf8(output.expect("script(1) starts").stdout).expect("UTF-8")
}

/// What a command shows to somebody who types this.
fn answered(home: &Home, arguments: &str, typed: &str) -> String {
    let mut command = terminal(home, arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(typed.as_bytes()).expect("typed");
    let output = child.wait_with_output().expect("ended");
    drop(stdin);
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn colour_appears_on_a_terminal_only_and_never_with_no_color() {
    let home = Home::new();
    let escape = '\u{1b}';
    let shown = on_a_terminal(&home, "jobs", &[]);
    assert!(
        shown.contains("\u{1b}[1;31mlictor:\u{1b}[0m this home is not set up"),
        "{shown:?}"
    );
    let plain = on_a_terminal(&home, "jobs", &[("NO_COLOR", "1")]);
    assert!(
        plain.contains("lictor: this home is not set up") && !plain.contains(escape),
        "{plain:?}"
    );
    let json = on_a_terminal(&home, "--json jobs", &[]);
    assert!(json.contains("\"error\"") && !json.contains(escape), "{json:?}");
    let piped = home.run(&["jobs"]);
    assert!(piped.stderr.starts_with("lictor: this home") && !piped.stderr.contains(escape));
}

#[test]
fn whoever_signs_a_root_is_shown_it_and_types_yes() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home.ok(&["org", "root", "new"]);
    let file = home.path("org/root.2.json");
    let sign = format!("org root sign '{}'", file.display());
    let before = std::fs::read(&file).expect("there");
    let no = answered(&home, &sign, "no\n");
    assert!(no.contains("nothing changes but its dates"), "{no}");
    assert!(
        no.contains("Sign this? Type yes: ") && no.contains("nothing was signed"),
        "{no}"
    );
    assert_eq!(std::fs::read(&file).expect("there"), before);
    let yes = answered(&home, &sign, "yes\n");
    assert!(yes.contains("old root keys: 1 of 1 have signed"), "{yes}");
    assert_ne!(std::fs::read(&file).expect("there"), before);
}

#[test]
fn the_help_is_what_it_was() {
    let home = Home::new();
    let help = |words: &[&str]| home.ok(&[words, &["--help"]].concat());
    insta::assert_snapshot!("help", help(&[]));
    insta::assert_snapshot!("help_run", help(&["run"]));
    insta::assert_snapshot!("help_org_root", help(&["org", "root"]));
}

#[test]
fn the_main_errors_say_what_why_and_what_to_do() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    let said = |words: &[&str]| {
        let done = home.run(words);
        assert!(done.stdout.is_empty(), "{done:?}");
        format!(
            "$ lictor {}\n{}[{:?}]\n",
            words.join(" "),
            home.plain(&done.stderr),
            done.status
        )
    };
    let all = [
        said(&["run", "web-1"]),
        said(&["run", "--timeout", "soon", "web-1", "--", "true"]),
        said(&["frobnicate"]),
        said(&["run", "web-1", "--", "true"]),
        said(&["keys", "show", "nobody"]),
        said(&["keys", "new", "alice"]),
        said(&["org", "init", "other"]),
        said(&["org", "freshness"]),
        said(&["org", "root", "take", "/nonexistent"]),
        said(&["job", "nonsense"]),
    ];
    insta::assert_snapshot!("errors", all.join("\n"));
    let of_another = home.run_with(&["jobs"], &[("LICTOR_HOME", OsStr::new("/nonexistent"))]);
    assert!(
        of_another.stderr.contains("/nonexistent is no home"),
        "{of_another:?}"
    );
}
