//! Programs that are plain but for some of their arguments, which make them run something else.
//!
//! Options are found as `getopt` finds them, and rather once too often: a long option also abbreviated
//! (`--filt=CMD`), a letter anywhere among letters (`-cICMD`), before or after other arguments. As with all lists of
//! names, this is no boundary.

use super::names;

/// Programs, and the arguments that make them run something else:
/// - `--option`: that long option, any abbreviation of it, and whatever begins with it;
/// - `-o`: that letter in any word of short options;
/// - `start*`: any argument that begins so;
/// - anything else: that very argument.
const CONDITIONAL: &[(&[&str], &[&str])] = &[
    (&["find"], &["-exec*", "-ok*", "-fprint*", "-fls*"]),
    (&["fd", "fdfind"], &["-x", "-X", "--exec"]),
    (&["rg"], &["--pre", "--hostname-bin"]),
    // Its words can be abbreviated: `ip n e NAME CMD`.
    (&["ip"], &["e", "ex", "exe", "exec", "-b", "--batch"]),
    (&["docker"], &["run", "exec", "compose", "build"]),
    (&["podman"], &["run", "exec", "compose", "build", "unshare"]),
    (&["kubectl"], &["exec", "run", "debug", "plugin", "cp"]),
    (
        &["git"],
        &[
            "-c",
            "-C",
            "-u",
            "-x",
            "-O",
            "--config-env",
            "--exec-path",
            "--exec",
            "--git-dir",
            "--work-tree",
            "--template",
            "--upload-pack",
            "--receive-pack",
            "--ext-diff",
            "--extcmd",
            "--textconv",
            "--open-files-in-pager",
            "bisect",
            "difftool",
            "filter-branch",
            "mergetool",
            "rebase",
            "submodule",
            "ext::*",
        ],
    ),
    (
        TAR,
        &[
            "-I",
            "-F",
            "--checkpoint-action",
            "--info-script",
            "--new-volume-script",
            "--rmt-command",
            "--rsh-command",
            "--to-command",
            "--use-compress-program",
        ],
    ),
    (&["zip"], &["-T", "--test", "--unzip-command", "-unzip-command*"]),
    (
        &["man"],
        &["-P", "--pager", "-H", "--html", "-C", "--config-file"],
    ),
    (&["sort"], &["--compress-program"]),
    (&["split"], &["--filter"]),
    (&["cpio"], &["--rsh-command", "--rmt-command", "--to-command"]),
    (&["tcpdump"], &["-z", "--postrotate-command"]),
    (&["journalctl"], &["--pager"]),
    (&["systemctl"], &["edit"]),
    (&["wget"], &["-e", "--execute", "--use-askpass", "--config"]),
    (
        &["apt", "apt-cache", "apt-get"],
        &["-o", "--option", "-c", "--config-file"],
    ),
    (&["test", "["], &["-v", "-R"]),
    (&["wait"], &["-*"]),
];

/// Their first argument is letters, also without a dash.
const TAR: &[&str] = &["tar", "gtar", "bsdtar"];

/// The shortest abbreviation of a long option that counts, with its dashes.
const SHORTEST: usize = 3;

/// Whether a program that is plain by name runs something else with these arguments; `None` is an argument that only
/// the shell will know.
pub(super) fn runs_other(path: &str, args: &[Option<String>]) -> bool {
    let name = names::base(path);
    let Some((_, patterns)) = CONDITIONAL.iter().find(|(names, _)| names.contains(&name)) else {
        return false;
    };
    args.iter().enumerate().any(|(at, arg)| {
        let Some(arg) = arg.as_deref() else { return true };
        let letters = match arg.strip_prefix('-') {
            Some(rest) if !rest.starts_with('-') => rest,
            None if at == 0 && TAR.contains(&name) => arg,
            _ => "",
        };
        patterns.iter().any(|p| fits(p, arg, letters))
    })
}

fn fits(pattern: &str, arg: &str, letters: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return arg.starts_with(start);
    }
    if pattern.starts_with("--") {
        let name = arg.split_once('=').map_or(arg, |(name, _)| name);
        let abbreviated = name.len() >= SHORTEST && pattern.starts_with(name);
        return abbreviated || name.starts_with(pattern);
    }
    match pattern.strip_prefix('-') {
        Some(letter) => letters.contains(letter),
        None => arg == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::runs_other;

    fn other(line: &str) -> bool {
        let mut words = line.split(' ').map(str::to_owned);
        let program = words.next().unwrap();
        runs_other(&program, &words.map(Some).collect::<Vec<_>>())
    }

    #[test]
    fn options_count_however_they_are_written() {
        for line in [
            "/usr/bin/tar -cICMD -f a /x",
            "tar cfI a CMD /x",
            "tar -c -f a --use=CMD /x",
            "tar --u CMD",
            "tar xf a --to-c=CMD",
            "tar -xf a --checkpoint=1 --checkpoint-act=exec=CMD",
            "split --filt=CMD f",
            "split --f=CMD f",
            "split -b 1 --filter CMD f",
            "man --pag=CMD x",
            "man -aPCMD x",
            "git fetch --upload-p=CMD",
            "git -c alias.x=!CMD x",
            "git difftool --extc=CMD",
            "git clone --templ=/tmp/x y",
            "git clone ext::CMD",
            "find . -execdir CMD ;",
            "find . -okdir CMD ;",
            "sort --comp=CMD",
            "ip netns ex a CMD",
            "ip -batch f",
            "rg --pr CMD x",
            "apt-get -yo Dpkg::x=CMD install x",
            "wait -n -p a[x]",
            "test -v a[x]",
        ] {
            assert!(other(line), "{line}");
        }
    }

    #[test]
    fn other_arguments_do_not() {
        for line in [
            "tar -czf a /x",
            "tar xzf a",
            "tar -x -f a --directory=/x",
            "tar x -- a",
            "split -b 10 f",
            "split --bytes=10 f",
            "man ls",
            "git fetch --all",
            "git status -s",
            "git log --oneline",
            "find . -name x -type f",
            "sort -u",
            "ip addr show",
            "ip -4 route",
            "systemctl status x",
            "cat -v --filter",
            "wait 1",
        ] {
            assert!(!other(line), "{line}");
        }
    }
}
