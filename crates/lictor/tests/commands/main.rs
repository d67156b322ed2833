//! The real binary in a home of its own: what people type, what they get, and what it exits with.
#![allow(clippy::disallowed_methods, missing_docs)]

mod cosign;
mod errors;
mod homes;
mod keys;
mod org;
mod profiles;
mod root;
mod terminal;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A home that nothing else uses.
pub(crate) struct Home {
    dir: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with<S: AsRef<OsStr>>(&self, arguments: &[S], env: &[(&str, &OsStr)]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lictor"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LICTOR_HOME", self.dir.path())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .args(arguments);
        let output = command.output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Done {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// A command that must work; its standard output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.status, Some(0), "{done:?}");
        done.stdout
    }

    /// A command that must work; the one JSON value that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.ok(&all)).expect("one JSON value")
    }

    /// Text without what differs from home to home.
    pub(crate) fn plain(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "HOME")
    }
}
