//! git, as a child of a job's process in the job's sandbox: with nothing of the host's settings, and nothing of a workspace's.
//!
//! # Invariants
//! - No setting is read but those that stand here: not the system's, not a user's, and not the workspace's own, which the jobs
//!   that work there may write. So no hook, filter, external diff, file monitor or helper of theirs is ever started.
//! - No credential is in an argument, a variable or a file.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use lictor_proto::Code;

use crate::carry::CarryError;

/// Settings that hold in place of all others.
const SETTINGS: [&str; 15] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.sshCommand=/bin/false",
    "core.askPass=",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "http.followRedirects=false",
];
/// What git and its parts are found by.
const PATH: &str = "/usr/bin:/bin";
/// Files are taken as they are, whatever a repository says of their ends of lines, filters and the like.
pub(super) const AS_THEY_ARE: &str =
    "* !text !eol !crlf !ident !filter !working-tree-encoding !diff !merge\n";

/// One repository, and how git is started for it.
pub(super) struct Git {
    /// What git takes for its own directory.
    dir: PathBuf,
    /// Where the files are.
    tree: PathBuf,
    /// Settings besides.
    pub(super) settings: Vec<String>,
    /// Variables besides.
    pub(super) variables: Vec<(&'static str, String)>,
}

impl Git {
    pub(super) fn new(dir: PathBuf, tree: &Path) -> Self {
        Self {
            dir,
            tree: tree.to_owned(),
            settings: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// A new repository at its place, with nothing in it.
    pub(super) fn make(&self) -> Result<(), CarryError> {
        let made = || -> io::Result<()> {
            fs::create_dir(&self.dir)?;
            for inner in ["objects", "refs", "info"] {
                fs::create_dir(self.dir.join(inner))?;
            }
            fs::write(self.dir.join("HEAD"), "ref: refs/heads/main\n")?;
            let config = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n";
            fs::write(self.dir.join("config"), config)?;
            fs::write(self.dir.join("info/attributes"), AS_THEY_ARE)
        };
        made().map_err(|e| failed(format!("cannot make {}: {e}", self.dir.display())))
    }

    /// What starts `git WORDS`.
    pub(super) fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the process of a job, which ends with all of its children"
        )]
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .env("GIT_DIR", &self.dir)
            .env("GIT_WORK_TREE", &self.tree)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.tree)
            .stdin(Stdio::null());
        for setting in SETTINGS
            .iter()
            .copied()
            .chain(self.settings.iter().map(String::as_str))
        {
            command.arg("-c").arg(setting);
        }
        command.args(words);
        command
    }

    /// Runs it to its end; what it says goes to standard error.
    pub(super) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<(), CarryError> {
        let mut command = self.command(words);
        let status = command.stdout(Stdio::null()).status();
        check(words, status.map_err(|e| missing(&e))?)
    }

    /// Runs it and gives what it writes.
    pub(super) fn ask<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String, CarryError> {
        let mut command = self.command(words);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.map_err(|e| missing(&e))?;
        check(words, output.status)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A child with pipes.
pub(super) fn start(command: &mut Command) -> Result<Child, CarryError> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    piped.spawn().map_err(|e| missing(&e))
}

/// That it ended well.
pub(super) fn check<S: AsRef<OsStr>>(words: &[S], status: ExitStatus) -> Result<(), CarryError> {
    let what = words
        .first()
        .map_or_else(String::new, |w| w.as_ref().to_string_lossy().into_owned());
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("git {what}: {status}"))),
    }
}

pub(super) fn failed(why: String) -> CarryError {
    CarryError::new(Code::GitFailed, why)
}

fn missing(e: &io::Error) -> CarryError {
    failed(format!(
        "git cannot be started in the sandbox: {e}; is it installed on the node?"
    ))
}
