//! Arguments of `lictor workspace`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lictor_proto::Name;
use lictor_trust::profiles::parse_duration;

/// `lictor workspace`.
#[derive(Debug, Args)]
pub(crate) struct Workspaces {
    #[command(flatten)]
    pub(crate) terms: WorkspaceTerms,
    #[command(subcommand)]
    pub(crate) command: WorkspaceCommand,
}

/// What every job about a workspace says.
#[derive(Debug, Args)]
pub(crate) struct WorkspaceTerms {
    /// Sandbox profile of the org's law that the workspace belongs to
    #[arg(long, short, global = true, default_value = "sandbox")]
    pub(crate) profile: Name,
    /// Whose workspace it is, where jobs choose their user: one that the profile lists [default: the profile's own]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<Name>,
    /// The group of such jobs, where they choose that, too
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) group: Option<Name>,
    /// Wall time after which it is given up: 30s, 10m [default: the profile's]
    #[arg(long, global = true, value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// How long the job may wait before it starts
    #[arg(long, global = true, value_parser = parse_duration, default_value = "5m")]
    pub(crate) valid: Duration,
    /// Why, for people and for policy
    #[arg(long, global = true, default_value = "")]
    pub(crate) reason: String,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) key: Option<Name>,
}

/// What to do, each on one node.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// List the profile's workspaces on a node, and who has each
    #[command(visible_alias = "list")]
    Ls {
        /// The node
        node: String,
    },
    /// Show one
    Show {
        #[command(flatten)]
        one: Workspace,
    },
    /// Bring a commit of a repository into an empty one, which is made if need be
    Clone(Bring),
    /// Bring another commit into a clone; files of neither commit stay, changes of jobs in others are lost
    Fetch(Bring),
    /// Print what of its files is not as in the commit that was cloned, as a patch, new files included
    Diff {
        #[command(flatten)]
        one: Workspace,
        /// Into this file, up to 1 GiB [default: to standard output, up to 1 MiB]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Also new files that .gitignore leaves out
        #[arg(long)]
        ignored: bool,
        /// Against this commit, by its full id, in place of the one that was cloned
        #[arg(long, value_name = "COMMIT")]
        against: Option<String>,
    },
    /// Copy what one holds, kept and removed with it
    Snapshot {
        #[command(flatten)]
        one: Workspace,
        /// What the copy is called; another one of that name is replaced
        snapshot: Name,
    },
    /// Put such a copy in the place of what it holds
    Restore {
        #[command(flatten)]
        one: Workspace,
        /// What the copy is called
        snapshot: Name,
    },
    /// Remove one, with its snapshots
    #[command(visible_alias = "remove")]
    Rm {
        #[command(flatten)]
        one: Workspace,
    },
}

/// What is brought, and where to.
#[derive(Debug, Args)]
pub(crate) struct Bring {
    #[command(flatten)]
    pub(crate) one: Workspace,
    /// https://HOST/PATH; the profile's egress has to list the host
    pub(crate) url: String,
    /// The commit's full id, 40 hexadecimal digits
    pub(crate) commit: String,
    /// Show this secret to the host when it asks: USER:PASSWORD, or a token
    #[arg(long, value_name = "SECRET")]
    pub(crate) credential: Option<Name>,
}

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Workspace {
    /// The node
    pub(crate) node: String,
    /// What it is called: the NAME of `lictor run --sandbox NAME`
    pub(crate) name: Name,
}
