//! Hub and agent as processes of their own, as they run in earnest; where wanted, each on its end of a [`Cable`].
//!
//! ```text
//!   lictor up (once, makes org, hub and node) ─▶ stopped ─▶ lictor hub serve + lictor agent run
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lictor_client::Home;
use serde_json::Value;
use tempfile::TempDir;

use crate::cable::{Cable, Netns};
use crate::cli::Cli;
use crate::lab::{Lab, LabOptions, passable_dir};
use crate::program::Program;
use crate::wait::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A hub and an agent, each of which can be killed and started again.
#[derive(Debug)]
pub struct Split {
    hub: Option<Program>,
    agent: Option<Program>,
    cli: Cli,
    home: PathBuf,
    listen: SocketAddr,
    agent_binary: Option<PathBuf>,
    cable: Option<Cable>,
    lease_seconds: u64,
    poll: bool,
    agent_settings: String,
    hub_settings: String,
    _dir: TempDir,
}

/// How hub and agent are started.
#[derive(Debug, Default)]
pub struct SplitOptions {
    /// The hub on one end of it, the agent on the other; both on loopback when there is none.
    pub cable: Option<Cable>,
    /// Further arguments of the `lictor up` that makes org, hub and node.
    pub arguments: Vec<String>,
    /// After how many seconds of silence the hub calls an execution lost; its default when nothing is said.
    pub lease_seconds: Option<u64>,
    /// The agent polls instead of holding a link.
    pub poll: bool,
    /// Further lines of the agent's configuration.
    pub agent_settings: String,
    /// Further lines of the hub's configuration.
    pub hub_settings: String,
}

impl Split {
    /// Both on this machine's loopback.
    ///
    /// # Errors
    /// When something doesn't start; the message carries its standard error.
    pub fn start() -> Result<Self> {
        Self::start_over(None)
    }

    /// The hub on one end of a cable, the agent on the other. Commands run on the hub's end.
    ///
    /// # Errors
    /// As [`Split::start`].
    pub fn start_over(cable: Option<Cable>) -> Result<Self> {
        Self::start_with(SplitOptions {
            cable,
            ..SplitOptions::default()
        })
    }

    /// With options.
    ///
    /// # Errors
    /// As [`Split::start`].
    pub fn start_with(options: SplitOptions) -> Result<Self> {
        let dir = passable_dir("lictor-split-")?;
        let home = dir.path().join("home");
        let cable = options.cable;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut lab = Lab::start_with(LabOptions {
            dir: Some(home.clone()),
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            arguments: options.arguments,
            ..LabOptions::default()
        })?;
        lab.stop()?;
        let reach = cable.as_ref().map_or(Ipv4Addr::LOCALHOST, |c| c.hub().address());
        let any = if cable.is_some() {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        };
        let cli = match &cable {
            Some(cable) => lab.cli().clone().inside(cable.hub()),
            None => lab.cli().clone(),
        };
        let mut split = Self {
            hub: None,
            agent: None,
            cli,
            home,
            listen: SocketAddr::new(IpAddr::V4(any), port),
            agent_binary: None,
            cable,
            lease_seconds: options.lease_seconds.unwrap_or(90),
            poll: options.poll,
            agent_settings: options.agent_settings,
            hub_settings: options.hub_settings,
            _dir: dir,
        };
        split.point_agent_at(SocketAddr::from((reach, port)))?;
        split.start_hub()?;
        split.start_agent()?;
        Ok(split)
    }

    /// Starts the hub and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn start_hub(&mut self) -> Result<()> {
        self.hub = None;
        let config = self.home.join("split-hub.toml");
        let dir = self.home.join("hub");
        let (listen, lease) = (self.listen, self.lease_seconds);
        let more = &self.hub_settings;
        let text = format!("dir = {dir:?}\nlisten = \"{listen}\"\nlease_seconds = {lease}\n{more}");
        fs::write(&config, text)?;
        let config = config.to_str().context("path is not UTF-8")?;
        let mut program = Program::start(self.cli.command(&["hub", "serve", "--config", config]))?;
        let ready = program.line("the hub's ready line", PATIENCE, |line| {
            let ready: Value = serde_json::from_str(line).ok()?;
            (ready["ready"] == true).then_some(ready)
        })?;
        if !listen.ip().is_loopback() {
            self.talk_over_tls(&ready["web_spki"])?;
        }
        self.hub = Some(program);
        Ok(())
    }

    /// Commands take the hub's key from its own mouth: it listens where others can connect, and takes no plain HTTP.
    fn talk_over_tls(&self, web_spki: &Value) -> Result<()> {
        let home = Home::at(&self.home);
        let mut config = home.config()?;
        let address = config.hub.as_mut().context("a home that knows no hub")?;
        address.url = format!("https://127.0.0.1:{}", self.listen.port());
        address.spki = Some(serde_json::from_value(web_spki.clone())?);
        Ok(home.write_config(&config)?)
    }

    /// Starts the agent and waits until the hub says that it is connected.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn start_agent(&mut self) -> Result<()> {
        self.spawn_agent()?;
        let connected = wait_until("the agent's link", PATIENCE, || self.is_connected());
        connected.with_context(|| self.agent.as_ref().map(Program::stderr).unwrap_or_default())
    }

    /// Starts the agent and waits for nothing.
    ///
    /// # Errors
    /// When there is no process.
    pub fn spawn_agent(&mut self) -> Result<()> {
        self.agent = None;
        let dir = self.home.join("agent");
        let config = self.home.join("split-agent.toml");
        fs::write(&config, format!("dir = {dir:?}\n{}", self.agent_settings))?;
        let config = config.to_str().context("path is not UTF-8")?;
        let mut arguments = vec!["agent", "run", "--config", config];
        if self.poll {
            arguments.push("--poll");
        }
        let mut command = self.cli.outside().command(&arguments);
        if let Some(binary) = &self.agent_binary {
            let mut other = Command::new(binary);
            other.args(command.get_args());
            crate::cli::clean(&mut other);
            command = other;
        }
        if let Some(cable) = &self.cable {
            command = cable.agent().inside(&command);
        }
        self.agent = Some(Program::start(command)?);
        Ok(())
    }

    /// Whether the hub says that the node is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let Ok(nodes) = self.cli.json(&["nodes"]) else {
            return false;
        };
        let all = nodes
            .as_array()
            .or_else(|| nodes["items"].as_array())
            .or_else(|| nodes["nodes"].as_array());
        all.into_iter()
            .flatten()
            .any(|n| n["name"] == "local" && n["connected"] == true)
    }

    /// The hub's process.
    ///
    /// # Errors
    /// When it was ended.
    pub fn hub(&mut self) -> Result<&mut Program> {
        self.hub.as_mut().context("the hub was ended")
    }

    /// The agent's process.
    ///
    /// # Errors
    /// When it was ended.
    pub fn agent(&mut self) -> Result<&mut Program> {
        self.agent.as_mut().context("the agent was ended")
    }

    /// The commands of the operator.
    #[must_use]
    pub fn cli(&self) -> &Cli {
        &self.cli
    }

    /// The cable between hub and agent.
    ///
    /// # Errors
    /// When both are on loopback.
    pub fn cable(&self) -> Result<&Cable> {
        self.cable.as_ref().context("there is no cable")
    }

    /// The operator's home, with `hub/` and `agent/` below it.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The hub has these further lines in its configuration from its next start on.
    pub fn set_hub_settings(&mut self, text: &str) {
        text.clone_into(&mut self.hub_settings);
    }

    /// The port that the hub listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listen.port()
    }

    /// The agent is this binary from its next start on.
    pub fn set_agent_binary(&mut self, path: &Path) {
        self.agent_binary = Some(path.to_path_buf());
    }

    /// Tells the agent, which is not running, where its hub is.
    ///
    /// # Errors
    /// When its directory isn't that of a node.
    pub fn point_agent_at(&self, hub: SocketAddr) -> Result<()> {
        let path = self.home.join("agent/hub.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path)?)?;
        value["url"] = format!("https://{hub}").into();
        fs::write(&path, serde_json::to_vec(&value)?)?;
        Ok(())
    }
}

impl Cli {
    /// The same commands, run in a network namespace.
    #[must_use]
    pub fn inside(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.name().to_owned());
        self
    }

    /// The same commands, run in this process's own network.
    #[must_use]
    pub fn outside(&self) -> Self {
        let mut cli = self.clone();
        cli.netns = None;
        cli
    }
}
