//! Two network namespaces and the cable between them, which can be cut, lengthened, and made to swallow packets.
//!
//! ```text
//!   hub namespace [10.77.N.1] ======= veth pair ======= [10.77.N.2] agent namespace
//! ```
//! What runs inside is started with [`Netns::command`]; the machine's own network is never touched.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::binary::sibling;
use crate::program::Program;

static COUNTER: AtomicU8 = AtomicU8::new(0);

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    address: Ipv4Addr,
}

/// Two namespaces with a cable between them.
#[derive(Debug)]
pub struct Cable {
    hub: Netns,
    agent: Netns,
}

/// The device's name inside each namespace.
const DEVICE: &str = "wire0";

impl Cable {
    /// Makes both namespaces and connects them.
    ///
    /// # Errors
    /// When `ip` can't do it; see [`crate::can_make_namespaces`].
    pub fn new() -> Result<Self> {
        let id = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("lictor-{}-{id}-{end}", std::process::id());
        let hub = Netns::new(name("hub"), Ipv4Addr::new(10, 77, id, 1))?;
        let agent = Netns::new(name("agent"), Ipv4Addr::new(10, 77, id, 2))?;
        ip(&[
            "-n",
            &hub.name,
            "link",
            "add",
            DEVICE,
            "type",
            "veth",
            "peer",
            "name",
            DEVICE,
            "netns",
            &agent.name,
        ])?;
        for end in [&hub, &agent] {
            end.ip(&["address", "add", &format!("{}/24", end.address), "dev", DEVICE])?;
            end.ip(&["link", "set", DEVICE, "up"])?;
        }
        Ok(Self { hub, agent })
    }

    /// The hub's end.
    #[must_use]
    pub fn hub(&self) -> &Netns {
        &self.hub
    }

    /// The agent's end.
    #[must_use]
    pub fn agent(&self) -> &Netns {
        &self.agent
    }

    /// Pulls the cable out: both ends lose their carrier.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self) -> Result<()> {
        self.hub.ip(&["link", "set", DEVICE, "down"])
    }

    /// Puts it in again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn mend(&self) -> Result<()> {
        self.hub.ip(&["link", "set", DEVICE, "up"])
    }
}

impl Netns {
    fn new(name: String, address: Ipv4Addr) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let netns = Self { name, address };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Its address on the cable.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Turns a command into one that runs inside; the process id stays that of the program itself.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        inside(&self.name, command)
    }

    /// A command that runs inside.
    pub fn command<S: AsRef<OsStr>>(&self, program: &OsStr, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        crate::cli::clean(&mut command);
        command.args(arguments);
        self.inside(&command)
    }

    /// Starts a relay inside that leads to `target` and keeps every byte for `delay`, each way: distance.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn slow_relay(&self, target: SocketAddr, delay: Duration) -> Result<(Program, SocketAddr)> {
        let arguments = [target.to_string(), delay.as_millis().to_string()];
        let mut program = Program::start(self.command(sibling("slow-relay")?.as_os_str(), &arguments))?;
        let address = program.line("the relay's address", Duration::from_secs(10), |line| {
            line.parse().ok()
        })?;
        Ok((program, address))
    }

    /// Swallows every packet that comes in, without a word: the other side's connections become half open.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn swallow_incoming(&self) -> Result<()> {
        self.nft("add table inet swallow")?;
        self.nft("add chain inet swallow in { type filter hook input priority 0; policy drop; }")
    }

    /// Lets packets in again.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn pass_incoming(&self) -> Result<()> {
        self.nft("delete table inet swallow")
    }

    fn nft(&self, rule: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", &self.name, "nft", rule]))
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments);
        ip(&all)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(e) = ip(&["netns", "delete", &self.name]) {
            eprintln!("network namespace {} stays behind: {e:#}", self.name);
        }
    }
}

/// A command that runs in the network namespace of that name.
pub(crate) fn inside(netns: &str, command: &Command) -> Command {
    // Not `ip netns exec`: that mounts a new /sys, in which the agent would find no cgroups.
    let mut inside = Command::new("nsenter");
    inside
        .arg(format!("--net=/run/netns/{netns}"))
        .arg(command.get_program())
        .args(command.get_args());
    inside.env_clear();
    inside.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    inside
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", message.trim());
    Ok(())
}
