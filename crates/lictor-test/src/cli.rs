//! Commands as a person types them: the real binary, a clean environment, a deadline, and its output to look at.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::binary::lictor;
use crate::wait::poll;

/// No command of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

/// A person's `lictor` with a home of their own.
#[derive(Debug, Clone)]
pub struct Cli {
    binary: PathBuf,
    home: PathBuf,
    pub(crate) netns: Option<String>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// How.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Cli {
    /// Commands that use this `LICTOR_HOME`.
    ///
    /// # Errors
    /// When there is no binary to run.
    pub fn new(home: &Path) -> Result<Self> {
        Ok(Self {
            binary: lictor()?,
            home: home.to_path_buf(),
            netns: None,
        })
    }

    /// The home.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The binary.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The bare command: nothing of the tester's environment reaches it but where programs are.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        clean(&mut command);
        command.env("LICTOR_HOME", &self.home).args(arguments);
        match &self.netns {
            Some(name) => crate::cable::inside(name, &command),
            None => command,
        }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it can't be started or takes too long. A status other than 0 is no error here.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Done> {
        finish(self.command(arguments), Vec::new())
    }

    /// Runs a command to its end, with bytes on its standard input.
    ///
    /// # Errors
    /// As [`Cli::run`].
    pub fn run_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<Done> {
        finish(self.command(arguments), input)
    }

    /// Runs a command that must succeed, and gives its standard output as text.
    ///
    /// # Errors
    /// When its status is not 0; the message carries what it wrote to standard error.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let done = self.run(arguments)?;
        let words: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        ensure!(
            done.status.success(),
            "lictor {} ended with {}\n{}",
            words.join(" "),
            done.status,
            done.stderr
        );
        String::from_utf8(done.stdout).context("output is not UTF-8")
    }

    /// Runs a command with `--json` that must succeed, and gives the value it printed.
    ///
    /// # Errors
    /// When its status is not 0 or it prints anything but one JSON value.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let mut all: Vec<&OsStr> = vec![OsStr::new("--json")];
        all.extend(arguments.iter().map(AsRef::as_ref));
        let text = self.ok(&all)?;
        serde_json::from_str(&text).with_context(|| format!("not one JSON value: {text}"))
    }
}

impl Done {
    /// The exit code; a signal is an error.
    ///
    /// # Errors
    /// When a signal ended it.
    pub fn code(&self) -> Result<i32> {
        self.status
            .code()
            .with_context(|| format!("ended by a signal: {}", self.status))
    }

    /// Standard output as text, whatever is not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as one JSON value per line.
    ///
    /// # Errors
    /// When a line is not JSON.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        let text = self.text();
        let lines = text.lines().filter(|l| !l.is_empty());
        lines
            .map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}")))
            .collect()
    }

    /// The last JSON line: the result of `lictor run --json`.
    ///
    /// # Errors
    /// When there is none; the message carries what was written to standard error.
    pub fn result(&self) -> Result<Value> {
        let mut lines = self.json_lines()?;
        lines.pop().with_context(|| format!("no output\n{}", self.stderr))
    }
}

/// Takes everything out of a command's environment but `PATH` and the switches of tests.
pub(crate) fn clean(command: &mut Command) {
    command.env_clear();
    for name in ["PATH", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("LANG", "C.UTF-8").env("TZ", "UTC");
}

fn finish(mut command: Command, input: Vec<u8>) -> Result<Done> {
    let name = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // A command that doesn't read its input is not an error of the test.
    thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().context("no stdout")?);
    let stderr = drain(child.stderr.take().context("no stderr")?);
    let ended = poll(&format!("the end of {name}"), PATIENCE, || {
        child.try_wait().ok().flatten()
    });
    if ended.is_err() {
        child.kill().context("kill")?;
        child.wait().context("wait")?;
    }
    let (Ok(stdout), Ok(stderr)) = (stdout.join(), stderr.join()) else {
        bail!("reading the output of {name} failed");
    };
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Ok(Done {
        status: ended.with_context(|| stderr.clone())?,
        stdout,
        stderr,
    })
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        // What was read before an error is what there is to look at.
        let _: Result<usize, _> = pipe.read_to_end(&mut all);
        all
    })
}
