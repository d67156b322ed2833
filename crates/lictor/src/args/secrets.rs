//! Arguments of `lictor secret`, and how a job names secrets.

use clap::{Args, Subcommand};
use lictor_client::Target;
use lictor_proto::Name;
use lictor_proto::doc::{Delivery, SecretUse};

/// `lictor secret`.
#[derive(Debug, Args)]
pub(crate) struct Secrets {
    #[command(subcommand)]
    pub(crate) command: SecretsCommand,
}

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Seal a value to nodes, sign it, and have the hub keep it; the value is read from standard input, or asked for
    Set(SecretSet),
    /// List the secrets, or show the nodes that one is sealed to
    #[command(visible_alias = "list")]
    Ls {
        /// Only this one, verified, with its nodes
        name: Option<Name>,
    },
    /// Delete what the hub has of a secret; a value that somebody may know stays known: change it where it is used
    #[command(visible_alias = "remove")]
    Rm {
        /// Its name
        name: Name,
    },
}

/// `lictor secret set`.
#[derive(Debug, Args)]
pub(crate) struct SecretSet {
    /// What it is called; jobs and policy name it so
    pub(crate) name: Name,
    /// Nodes that may open it, in the words of `lictor run`: names, globs, labels, @groups
    #[arg(long, value_name = "TARGET", num_args = 1.., required_unless_present = "all")]
    pub(crate) nodes: Vec<Target>,
    /// All nodes that there are now
    #[arg(long, conflicts_with = "nodes")]
    pub(crate) all: bool,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
}

/// A secret of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedSecret {
    /// Its name.
    pub(crate) name: Name,
    /// How it reaches the job.
    pub(crate) delivery: Delivery,
}

impl UsedSecret {
    /// What a job has used, whatever version it was.
    pub(crate) fn of(used: &SecretUse) -> Self {
        Self {
            name: used.name.clone(),
            delivery: used.delivery,
        }
    }
}

/// `NAME` or `NAME=memfd|stdin|file|git`.
pub(crate) fn used_secret(text: &str) -> Result<UsedSecret, String> {
    let (name, word) = text.split_once('=').unwrap_or((text, "memfd"));
    let delivery = Delivery::from_word(word).ok_or(
        "write it as NAME, NAME=memfd (a file in memory; LICTOR_SECRET_NAME is its path), NAME=stdin, NAME=file (a file in mounts of the job's own), or NAME=git (for the host of --git alone)",
    )?;
    let name = name.parse().map_err(|e| format!("{e}"))?;
    Ok(UsedSecret { name, delivery })
}
