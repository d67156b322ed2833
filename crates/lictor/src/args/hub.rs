//! Arguments of `lictor hub` and `lictor up`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `lictor hub`.
#[derive(Debug, Args)]
pub(crate) struct Hub {
    #[command(subcommand)]
    pub(crate) command: HubCommand,
}

/// What the control plane does.
#[derive(Debug, Subcommand)]
pub(crate) enum HubCommand {
    /// Run the hub in the foreground
    Serve(Serve),
    /// Manage the orgs on this hub
    Org(HubOrg),
}

/// `lictor hub serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The hub's configuration, TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Read the configuration, say whether it is good, and leave
    #[arg(long)]
    pub(crate) check_config: bool,
}

/// `lictor hub org`.
#[derive(Debug, Args)]
pub(crate) struct HubOrg {
    #[command(subcommand)]
    pub(crate) command: HubOrgCommand,
}

/// What to do with orgs.
#[derive(Debug, Subcommand)]
pub(crate) enum HubOrgCommand {
    /// Take an org onto this hub, and print its first API token
    Create(HubOrgCreate),
}

/// `lictor hub org create`.
#[derive(Debug, Args)]
pub(crate) struct HubOrgCreate {
    /// The hub's configuration, TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The org's root version 1, signed
    #[arg(long, value_name = "FILE")]
    pub(crate) root: PathBuf,
}

/// `lictor up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where everything is kept; made on the first start
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where the hub listens; port 0 takes any free one [default: 127.0.0.1, the port of the last start]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Begin with the shipped starter policy instead of one that lets this operator do anything here
    #[arg(long)]
    pub(crate) starter_policy: bool,
}
