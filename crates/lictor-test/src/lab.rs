//! A laboratory: `lictor up` in a temporary directory, which is a hub, an org, and one enrolled agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::Cli;
use crate::program::Program;

/// First start makes keys, law and a database; on a loaded machine that takes a while.
const READY: Duration = Duration::from_secs(60);

/// A running `lictor up`.
#[derive(Debug)]
pub struct Lab {
    program: Option<Program>,
    options: LabOptions,
    url: String,
    node: String,
    cli: Cli,
    home: PathBuf,
    _dir: Option<TempDir>,
}

/// How to start it.
#[derive(Debug, Clone, Default)]
pub struct LabOptions {
    /// Further arguments of `lictor up`.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Its directory; a temporary one when there is none.
    pub dir: Option<PathBuf>,
    /// Where its hub listens; any free port of loopback when nothing is said.
    pub listen: Option<SocketAddr>,
    /// The network namespace that it runs in, and its operator's commands; this process's own when nothing is said.
    pub netns: Option<String>,
}

impl Lab {
    /// Starts one and waits until a job can run.
    ///
    /// # Errors
    /// When it doesn't say that it is ready; the message carries its standard error.
    pub fn start() -> Result<Self> {
        Self::start_with(LabOptions::default())
    }

    /// Starts one with options.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_with(options: LabOptions) -> Result<Self> {
        let (home, dir) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let dir = passable_dir("lictor-lab-")?;
                (dir.path().join("home"), Some(dir))
            }
        };
        let mut cli = Cli::new(&home)?;
        cli.netns.clone_from(&options.netns);
        let mut lab = Self {
            program: None,
            options,
            url: String::new(),
            node: String::new(),
            cli,
            home,
            _dir: dir,
        };
        lab.start_again()?;
        Ok(lab)
    }

    /// Starts `lictor up` on the same directory after it was stopped or killed.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let listen = self.options.listen;
        self.start_at(listen.map_or("127.0.0.1:0".to_owned(), |a| a.to_string()))
    }

    /// As [`Lab::start_again`], where it listened before: other agents find it again.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn come_back(&mut self) -> Result<()> {
        let before = self.url.strip_prefix("http://").context("no address")?;
        self.start_at(before.to_owned())
    }

    fn start_at(&mut self, listen: String) -> Result<()> {
        self.program = None;
        let home = self.home.to_str().context("path is not UTF-8")?;
        let mut command = self.cli.command(&["up", "--dir", home, "--listen", &listen]);
        command
            .args(&self.options.arguments)
            .envs(self.options.environment.iter().cloned());
        let mut program = Program::start(command)?;
        let ready = program.line("the ready line", READY, |line| {
            serde_json::from_str::<Value>(line)
                .ok()
                .filter(|v| v["ready"] == true)
        })?;
        self.url = ready["url"]
            .as_str()
            .context("no url in the ready line")?
            .to_owned();
        self.node = ready["node"]
            .as_str()
            .context("no node in the ready line")?
            .to_owned();
        self.program = Some(program);
        Ok(())
    }

    /// The commands of the operator that `up` made.
    #[must_use]
    pub fn cli(&self) -> &Cli {
        &self.cli
    }

    /// The hub's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The directory that `up` keeps everything in.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().context("the lab is stopped")
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.program.as_ref().context("the lab is stopped")?.pid())
    }

    /// Ends it by SIGTERM.
    ///
    /// # Errors
    /// When it doesn't end in time or not with status 0.
    pub fn stop(&mut self) -> Result<()> {
        let mut program = self.program.take().context("the lab is stopped")?;
        let status = program.terminate()?;
        anyhow::ensure!(
            status.success(),
            "`lictor up` ended with {status}\n{}",
            program.stderr()
        );
        Ok(())
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.program()?.kill()?;
        self.program = None;
        Ok(())
    }
}

/// A temporary directory that others may pass through, as `/var/lib` is: a sandbox's user has to reach its workspace.
pub(crate) fn passable_dir(prefix: &str) -> Result<TempDir> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    let mut builder = tempfile::Builder::new();
    Ok(builder.prefix(prefix).permissions(mode).tempdir()?)
}
