//! Arguments of `lictor agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lictor_proto::Name;

/// `lictor agent`.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) command: AgentCommand,
}

/// What the machine side does.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Join the org that a token names
    Enroll(Enroll),
    /// Run the agent in the foreground
    Run(ServeAgent),
}

/// `lictor agent enroll`.
#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// The token that `lictor nodes grant` printed; `-` reads it from standard input
    #[arg(long, env = "LICTOR_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// Where the node keeps its keys, journal and spool
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lictor/agent")]
    pub(crate) dir: PathBuf,
    /// The node's name, where the grant leaves a choice
    #[arg(long)]
    pub(crate) name: Option<Name>,
}

/// `lictor agent run`.
#[derive(Debug, Args)]
pub(crate) struct ServeAgent {
    /// The agent's configuration, TOML; instead of --dir
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub(crate) config: Option<PathBuf>,
    /// Where the node keeps its keys, journal and spool
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lictor/agent")]
    pub(crate) dir: PathBuf,
    /// Poll by plain requests instead of holding a link
    #[arg(long)]
    pub(crate) poll: bool,
}
