//! Which program names are shells, interpreters, or run other programs. docs/policy.md lists them for people.
//!
//! The lists decide only between `exec`, `shell` and `shell_opaque`. They cannot be complete, and a program copied
//! to another name is in none of them: digests, paths and sandboxes are the boundary, not this file.

/// Shells whose `-c` code the parser reads as they do.
const COVERED_SHELLS: &[&str] = &["bash", "dash", "sh"];

/// Shells that differ from what the parser covers; always opaque.
const OTHER_SHELLS: &[&str] = &[
    "ash",
    "csh",
    "elvish",
    "fish",
    "hush",
    "ksh",
    "ksh93",
    "lksh",
    "mksh",
    "nu",
    "oksh",
    "osh",
    "pdksh",
    "posh",
    "powershell",
    "pwsh",
    "rbash",
    "rc",
    "rksh",
    "rzsh",
    "tcsh",
    "xonsh",
    "yash",
    "zsh",
];

/// One binary, many programs: the name it is called by, or its first argument, says which.
const MULTICALL: &[&str] = &["busybox", "toybox"];

/// Programs that run code given as text, in a file or on standard input. A version suffix is ignored.
const INTERPRETERS: &[&str] = &[
    "awk",
    "bc",
    "bpftrace",
    "bun",
    "clisp",
    "clojure",
    "dc",
    "deno",
    "ed",
    "ecpg",
    "elixir",
    "emacs",
    "erl",
    "ex",
    "expect",
    "gawk",
    "gdb",
    "ghc",
    "ghci",
    "gnuplot",
    "go",
    "groovy",
    "guile",
    "iex",
    "irb",
    "java",
    "jshell",
    "julia",
    "lldb",
    "lua",
    "luajit",
    "m4",
    "make",
    "gmake",
    "mawk",
    "mysql",
    "nawk",
    "nim",
    "node",
    "nodejs",
    "nvim",
    "ocaml",
    "octave",
    "osascript",
    "perl",
    "php",
    "pip",
    "pypy",
    "psql",
    "python",
    "qjs",
    "r",
    "raku",
    "rscript",
    "ruby",
    "sbcl",
    "scala",
    "sed",
    "sqlite",
    "swift",
    "tclsh",
    "ts-node",
    "tsx",
    "uv",
    "vi",
    "vim",
    "vimdiff",
    "wish",
    "xonsh",
    "npm",
    "npx",
    "yarn",
    "pnpm",
    "cargo",
    "ninja",
    "cmake",
    "just",
];

/// Programs that run another program named in their arguments, or reach another machine's shell.
const WRAPPERS: &[&str] = &[
    "at",
    "atq",
    "batch",
    "bwrap",
    "capsh",
    "chpst",
    "chroot",
    "chrt",
    "choom",
    "cgexec",
    "crontab",
    "cpulimit",
    "daemonize",
    "dbus-launch",
    "dbus-run-session",
    "dbus-send",
    "doas",
    "entr",
    "env",
    "eatmydata",
    "fakechroot",
    "fakeroot",
    "faketime",
    "firejail",
    "flock",
    "gosu",
    "hyperfine",
    "ionice",
    "linux32",
    "linux64",
    "logrotate",
    "ltrace",
    "machinectl",
    "mosh",
    "ncat",
    "nc",
    "netcat",
    "nice",
    "nohup",
    "nsenter",
    "numactl",
    "parallel",
    "perf",
    "pkexec",
    "prlimit",
    "proot",
    "pssh",
    "rlwrap",
    "rsh",
    "rsync",
    "run-parts",
    "runcon",
    "runuser",
    "runit",
    "scp",
    "screen",
    "script",
    "setarch",
    "setpriv",
    "setsid",
    "setuidgid",
    "sftp",
    "sg",
    "socat",
    "softlimit",
    "ssh",
    "ssh-agent",
    "sshpass",
    "start-stop-daemon",
    "stdbuf",
    "strace",
    "su",
    "su-exec",
    "sudo",
    "sudoedit",
    "systemd-run",
    "taskset",
    "telnet",
    "time",
    "timeout",
    "tini",
    "tmux",
    "dumb-init",
    "tsocks",
    "torsocks",
    "unbuffer",
    "unshare",
    "valgrind",
    "watch",
    "x86_64",
    "xargs",
];

/// Words that a shell itself acts on, and that change what other words mean, or evaluate a string again.
const SHELL_BUILTINS: &[&str] = &[
    ".",
    "alias",
    "autoload",
    "bg",
    "bind",
    "builtin",
    "caller",
    "command",
    "compgen",
    "complete",
    "compopt",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "enable",
    "eval",
    "exec",
    "export",
    "fc",
    "fg",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "jobs",
    "let",
    "local",
    "logout",
    "mapfile",
    "newgrp",
    "popd",
    "printf",
    "pushd",
    "read",
    "readarray",
    "readonly",
    "select",
    "set",
    "shopt",
    "source",
    "suspend",
    "time",
    "trap",
    "typeset",
    "unalias",
    "unset",
    "[[",
    "((",
    "!",
    "{",
    "}",
];

/// What a name says about a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its `-c` code can be read.
    CoveredShell,
    /// A shell that cannot.
    OtherShell,
    /// One binary, many programs.
    Multicall,
    /// Runs code.
    Interpreter,
    /// Runs what its arguments name.
    Wrapper,
    /// Nothing of these.
    Plain,
}

/// The last part of a path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// What the last part of `path` says.
pub(super) fn kind(path: &str) -> Kind {
    let lower = base(path).to_ascii_lowercase();
    let name = lower.strip_suffix(".exe").unwrap_or(&lower);
    // A login shell is called with a dash in front.
    let name = name.strip_prefix('-').unwrap_or(name);
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let listed = |list: &[&str]| list.contains(&name) || list.contains(&plain);
    if COVERED_SHELLS.contains(&name) {
        Kind::CoveredShell
    } else if COVERED_SHELLS.contains(&plain) || listed(OTHER_SHELLS) {
        Kind::OtherShell
    } else if listed(MULTICALL) || name.starts_with("busybox") {
        Kind::Multicall
    } else if name.starts_with("ld-linux")
        || name.starts_with("ld-musl")
        || name.starts_with("ld.so")
        || listed(WRAPPERS)
    {
        Kind::Wrapper
    } else if listed(INTERPRETERS) {
        Kind::Interpreter
    } else {
        Kind::Plain
    }
}

/// Whether a shell treats this word as more than the name of a program.
pub(super) fn is_shell_builtin(word: &str) -> bool {
    SHELL_BUILTINS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_with_paths_versions_and_suffixes() {
        for (name, want) in [
            ("/usr/bin/dash", Kind::CoveredShell),
            ("-bash", Kind::CoveredShell),
            ("bash-5.2", Kind::OtherShell),
            ("zsh", Kind::OtherShell),
            ("python3.11", Kind::Interpreter),
            ("perl5.36.0", Kind::Interpreter),
            ("C:\\Windows\\PowerShell.EXE", Kind::OtherShell),
            ("/bin/busybox", Kind::Multicall),
            ("ld-linux-x86-64.so.2", Kind::Wrapper),
            ("sudo", Kind::Wrapper),
            ("ls", Kind::Plain),
            ("sha256sum", Kind::Plain),
            ("base64", Kind::Plain),
        ] {
            assert_eq!(kind(name), want, "{name}");
        }
    }
}
