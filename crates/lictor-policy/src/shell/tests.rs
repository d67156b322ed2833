//! What is exec, what is shell, and the many ways to be neither.

use std::collections::BTreeSet;

use super::*;

fn exec(argv: &[&str]) -> Exec {
    Exec::new(argv.iter().map(|s| (*s).to_owned()).collect())
}

fn kind(argv: &[&str], program: &str) -> &'static str {
    classify(&exec(argv), program).name()
}

fn sh(code: &str) -> Action {
    classify(&exec(&["sh", "-c", code]), "/usr/bin/dash")
}

fn commands(code: &str) -> BTreeSet<String> {
    match sh(code) {
        Action::Shell(read) => read.commands,
        other => panic!("{code}: {other:?}"),
    }
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn literal_arguments_to_a_plain_program_are_exec() {
    assert_eq!(kind(&["ls", "-l", "; rm -rf /"], "/usr/bin/ls"), "exec");
    assert_eq!(kind(&["env"], "/usr/bin/env"), "exec");
    assert_eq!(kind(&["python3", "--version"], "/usr/bin/python3.11"), "exec");
    assert_eq!(kind(&["find", "/", "-name", "x"], "/usr/bin/find"), "exec");
    assert_eq!(kind(&["busybox", "ls"], "/bin/busybox"), "exec");
    assert_eq!(kind(&["/opt/backup.sh"], "/opt/backup.sh"), "exec");
}

#[test]
fn every_command_word_of_readable_code_is_found() {
    for (code, want) in [
        ("ls -l", &["ls"][..]),
        (
            "ls | grep x && cat y || echo no; id",
            &["ls", "grep", "cat", "echo", "id"],
        ),
        (
            "if test -f /x; then cat /x; elif true; then id; else false; fi",
            &["test", "cat", "true", "id", "false"],
        ),
        ("for f in a b; do cat \"$f\"; done", &["cat"]),
        ("while true; do date; done", &["true", "date"]),
        ("until false; do date; done", &["false", "date"]),
        ("case $x in a) ls;; *) id;; esac", &["ls", "id"]),
        ("(cd /tmp; ls) & { id; }", &["cd", "ls", "id"]),
        ("! ls", &["ls"]),
        ("'ls' \"-l\"", &["ls"]),
        ("X=1; echo ${X} $1 $? done", &["echo"]),
        ("ls 2>&1 >/dev/null", &["ls"]),
        ("dd if=/dev/zero count=1", &["dd"]),
        ("echo one # two; rm", &["echo"]),
        ("/usr/bin/ls; ./x", &["/usr/bin/ls", "./x"]),
        ("echo a\nid\n", &["echo", "id"]),
        ("[ -f /x ] && echo yes", &["[", "echo"]),
        ("sleep 60 & sleep 60", &["sleep"]),
    ] {
        assert_eq!(commands(code), set(want), "{code}");
    }
}

#[test]
fn files_that_redirections_open_are_found() {
    let Action::Shell(read) = sh("echo x > /etc/motd; cat < /etc/passwd 2>> log >&2; { id; } >'a b'; > new")
    else {
        panic!("readable");
    };
    assert_eq!(
        read.redirects,
        set(&["/etc/motd", "/etc/passwd", "log", "a b", "new"])
    );
}

#[test]
fn code_that_builds_or_hides_commands_is_opaque() {
    for code in [
        "eval ls",
        "source /x",
        ". /x",
        "exec ls",
        "command ls",
        "builtin echo",
        "trap 'rm x' EXIT",
        "alias ls=rm",
        "f() { rm x; }; f",
        "function f { ls; }",
        "$x",
        "\"$x\"",
        "${x} y",
        "l$x",
        "$(ls)",
        "echo $(ls)",
        "echo `ls`",
        "cat <(ls)",
        "echo 'quoted $(x)'",
        "l\\s",
        "l*",
        "~/x",
        "{ls,-l}",
        "x=rm; $x y",
        "sudo ls",
        "env ls",
        "xargs rm",
        "nohup ls",
        "timeout 5 ls",
        "find / -exec rm {} +",
        "find / $x",
        "ssh host ls",
        "nice ls",
        "time ls",
        "python3 -c 'x'",
        "perl x.pl",
        "awk '{print}'",
        "sed -n 1p",
        "sh -c ls",
        "bash x.sh",
        "busybox sh",
        "echo $((x))",
        "((x=1))",
        "[[ -v x ]]",
        "let x=1",
        "read x",
        "printf -v x y",
        "test -v 'a[x]'",
        "[ $op x ]",
        "export PATH=/x",
        "PATH=/x; ls",
        "LD_PRELOAD=x ls",
        "FOO=1 ls",
        "IFS=x; ls",
        "for PATH in /x; do ls; done",
        "BASH_ENV=x",
        "a[0]=1",
        "a=(1 2)",
        "cat <<EOF\nls\nEOF\n",
        "cat <<< x",
        "echo $'a\\'; rm x #'",
        "echo ${x@P}",
        "echo ${!x}",
        "echo ${x:-$y}",
        "echo $[1]",
        "coproc ls",
        "select x in a; do ls; done",
        "echo > $x",
        "echo >& $x",
        "set -k",
        "shopt -s expand_aliases",
        "hash -p /x ls",
        "enable -f x y",
        "git -c alias.x='!rm' x",
        "tar -I x -xf y",
        "ls\u{a0}x",
        "ls\u{0b}x",
        "ls\rx",
        "echo \u{2028}",
        "((",
        "if",
        "ls |",
        "'open",
        "ls )",
        "",
        "   ",
        "# only",
    ] {
        // Code without a command is readable and runs nothing; it is in the list to show that it names none.
        match sh(code) {
            Action::ShellOpaque { .. } => {}
            Action::Shell(read) => assert!(
                read.commands.is_empty() && code.trim_start_matches('#').trim().len() < 6,
                "{code}: {read:?}"
            ),
            Action::Exec | Action::Script(_) | Action::Fetch | Action::Collect | Action::Workspace => {
                panic!("{code}")
            }
        }
    }
}

#[test]
fn nothing_forbidden_hides_behind_a_line_that_goes_on() {
    for pair in [
        "$(", "${", "$[", "$'", "$\"", "<(", ">(", "<<", "((", "[[", "&>", "|&", ";&",
    ] {
        let (first, second) = pair.split_at(1);
        for code in [
            format!("echo {first}\\\n{second}rm -rf /x)"),
            format!("echo \"{first}\\\n{second}rm -rf /x)\""),
            format!("echo {first}\\\n\\\n{second}rm x"),
            format!("aa {first}\\\n{second} bb"),
        ] {
            assert!(matches!(sh(&code), Action::ShellOpaque { .. }), "{code:?}");
        }
    }
}

#[test]
fn no_locale_makes_a_letter_swallow_a_sign() {
    for code in [
        "echo \"\u{20ac}\"",
        "echo \"\u{c1}\\\"; id; echo \\\"\"",
        "echo \u{c1}|id",
        "echo \u{4e2d}\\; id",
        "echo '\u{c1}'\u{c1}}",
        "echo \u{c1}@",
    ] {
        assert!(matches!(sh(code), Action::ShellOpaque { .. }), "{code}");
    }
    assert_eq!(
        commands("echo \"Gr\u{fc}\u{df}e\" '\u{4e2d}\u{6587}' \u{e9}t\u{e9}; id"),
        set(&["echo", "id"])
    );
}

#[test]
fn numbers_that_no_descriptor_has_are_opaque() {
    for code in [
        "echo 99999999999>x",
        "echo 1000<x",
        "99999999999999999999999>&2 aa",
        "{ aa; } 4294967296>f",
    ] {
        assert!(matches!(sh(code), Action::ShellOpaque { .. }), "{code}");
    }
    assert_eq!(commands("ls 2>&1 9>/dev/null 199<x"), set(&["ls"]));
}

#[test]
fn a_panic_of_the_parser_is_an_answer() {
    // The screen keeps this from the parser; here is what would happen if it did not.
    let answer = walk::parse("echo 99999999999>x");
    assert_eq!(answer.map(|_| ()), Err("the parser failed at the code"));
    let manifest = include_str!("../../../../Cargo.toml");
    assert!(
        !manifest.contains("panic ="),
        "panics are caught, so they must unwind"
    );
}

#[test]
fn text_that_bash_evaluates_cannot_be_put_together() {
    for code in [
        "d=\\$; RANDOM=\"a[${d}(touch /tmp/p)]\"",
        "d=\\$; SRANDOM=\"a[${d}(touch /tmp/p)]\"",
        "d=\\$; HISTCMD=\"a[${d}(touch /tmp/p)]\"",
        "d=\\$; OPTIND=\"a[${d}(touch /tmp/p)]\"",
        "d=\\$; for RANDOM in \"a[${d}(touch /tmp/p)]\"; do :; done",
        "d=\\$; sleep 0 & wait -n -p \"a[${d}(touch /tmp/p)]\"",
        "d=\\$; x=\"a[${d}(touch /tmp/p)]\"; echo hi {b[x]}>/dev/null",
        // The same with the job's own variables and arguments in place of assignments.
        "RANDOM=$1",
        "RANDOM=5",
        "wait -n -p \"$A\"",
        "wait $A",
        "echo hi {b[A]}>/dev/null",
        "echo hi {b[$1]}</dev/null",
        "echo {fd}>x",
        "b[A]=1",
        "echo b[A]",
        "x=1; echo \"[$x]\"",
        "x=\\[; echo $x",
        "for x in \"a[b]\"; do id; done",
        "x+=1",
        "_=1",
        "FOO=1",
        "for SECONDS in 1; do id; done",
        "histchars=x",
        "http_proxy=x HOME=/x; id",
        "HOME=/tmp/x; git pull",
        "%1",
        "fg",
        "bg %1",
        "help x",
    ] {
        assert!(matches!(sh(code), Action::ShellOpaque { .. }), "{code}");
    }
}

#[test]
fn brackets_that_are_only_text_are_read() {
    for (code, want) in [
        ("grep '^[0-9]' f", &["grep"][..]),
        ("x=1; grep '[a-z]' f", &["grep"]),
        ("echo \"[done]\"", &["echo"]),
        ("sleep 1 & wait", &["sleep", "wait"]),
        ("if [ -f /x ]; then id; fi", &["[", "id"]),
        ("myName=1; a=2; N=3; echo $N", &["echo"]),
    ] {
        assert_eq!(commands(code), set(want), "{code}");
    }
}

#[test]
fn shells_interpreters_and_wrappers_in_argv_are_opaque_or_read() {
    for (argv, program) in [
        (&["sh", "x.sh"][..], "/usr/bin/dash"),
        (&["sh"], "/usr/bin/dash"),
        (&["bash", "-lc", "ls"], "/usr/bin/bash"),
        (&["zsh", "-c", "ls"], "/usr/bin/zsh"),
        (&["python3", "-c", "x"], "/usr/bin/python3.11"),
        (&["python3", "x.py"], "/usr/bin/python3.11"),
        (&["perl", "-e", "x"], "/usr/bin/perl"),
        (&["node", "-e", "x"], "/usr/bin/node"),
        (&["awk", "BEGIN{}"], "/usr/bin/mawk"),
        (&["sudo", "ls"], "/usr/bin/sudo"),
        (&["env", "sh", "-c", "ls"], "/usr/bin/env"),
        (&["find", "/", "-exec", "sh", "{}", ";"], "/usr/bin/find"),
        (&["busybox", "sh", "-c", "ls"], "/bin/busybox"),
        (&["sh", "-c", "ls"], "/bin/busybox"),
        (
            &["/lib64/ld-linux-x86-64.so.2", "/bin/sh"],
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        ),
    ] {
        assert_eq!(kind(argv, program), "shell_opaque", "{argv:?}");
    }
}

#[test]
fn a_link_to_a_shell_is_a_shell_under_any_name() {
    assert_eq!(kind(&["/tmp/harmless", "-c", "ls"], "/usr/bin/dash"), "shell");
    assert_eq!(
        kind(&["/tmp/harmless", "-c", "eval x"], "/usr/bin/dash"),
        "shell_opaque"
    );
    assert_eq!(kind(&["harmless", "x"], "/usr/bin/python3.11"), "shell_opaque");
    // Called as a shell, but something else: nobody knows how it reads its arguments.
    assert_eq!(kind(&["sh", "-c", "ls"], "/opt/thing"), "shell_opaque");
}

#[test]
fn variables_of_the_job_that_change_commands_make_a_shell_opaque() {
    let mut job = exec(&["sh", "-c", "ls"]);
    job.env.insert("FOO".into(), "x".into());
    assert_eq!(classify(&job, "/usr/bin/dash").name(), "shell");
    job.env.insert("BASH_FUNC_ls%%".into(), "() { rm x; }".into());
    assert_eq!(classify(&job, "/usr/bin/dash").name(), "shell_opaque");
}

#[test]
fn hostile_nesting_ends_at_once() {
    for piece in [
        "(",
        "{ ",
        "( ",
        "if ",
        "$(",
        "`",
        "[[ ",
        "while ",
        "case x in x) ",
        "f() ",
        "\"",
        "${",
        "<(",
    ] {
        for n in [8, 10, 24, 5_000] {
            assert!(
                matches!(sh(&piece.repeat(n)), Action::ShellOpaque { .. }),
                "{piece} x {n}"
            );
        }
    }
    let deep = format!("{}ls{}", "{ ".repeat(20), "; }".repeat(20));
    assert_eq!(commands(&deep), set(&["ls"]));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]
    #[test]
    fn any_text_is_classified_without_panic(code in "[ a-z;|&(){}<>$`'\"\\\\*=#!\\n-]{0,60}") {
        let _ = sh(&code);
    }

    #[test]
    fn text_with_a_substitution_is_never_readable(before in "[ -~]{0,20}", after in "[ -~]{0,20}") {
        let opaque = matches!(sh(&format!("{before}$({after}")), Action::ShellOpaque { .. });
        proptest::prop_assert!(opaque);
    }
}

#[test]
fn a_number_sign_is_a_comment_only_where_shells_take_it_for_one() {
    for code in [
        "echo $#; id",
        "echo ${#x}; id",
        "echo a#b; id",
        "echo ''#; id",
        "echo \"a\"#; id",
        "echo a\\\n#b; id",
    ] {
        match sh(code) {
            Action::Shell(read) => assert!(read.commands.contains("id"), "{code}"),
            Action::ShellOpaque { .. } => {}
            Action::Exec | Action::Script(_) | Action::Fetch | Action::Collect | Action::Workspace => {
                panic!("{code}")
            }
        }
    }
}

#[test]
fn a_script_of_a_covered_shell_is_read_and_any_other_is_not() {
    let script = |text: &str| Script::new("sh".parse().expect("a name"), text.to_owned(), vec![]);
    let read = |text: &str, program: &str| read_script(&script(text), text, program);
    let code = read(
        "#!/bin/sh\n# comment\nls /tmp\nuptime > /tmp/x\n",
        "/usr/bin/dash",
    )
    .expect("readable");
    assert!(code.commands.iter().eq(["ls", "uptime"]), "{code:?}");
    assert!(code.redirects.contains("/tmp/x"));
    assert!(read("eval x\n", "/usr/bin/dash").is_err());
    assert!(read("ls\n", "/usr/bin/python3.11").is_err());
    let mut odd = script("ls\n");
    odd.env.insert("BASH_ENV".into(), "/tmp/x".into());
    assert!(read_script(&odd, "ls\n", "/usr/bin/dash").is_err());
}
