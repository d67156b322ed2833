//! Arguments of the commands around nodes, tokens, audit, and the home itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lictor_proto::{Digest, Name, NodeId, OrgId};
use lictor_trust::profiles::parse_duration;

/// `lictor doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The agent's configuration, where it has one: what sandboxes are made with is looked at as it says
    #[cfg(feature = "agent")]
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub(crate) config: Option<PathBuf>,
    /// Where the node keeps its keys and journal: that of `lictor up` in this home, else /var/lib/lictor/agent
    #[cfg(feature = "agent")]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `lictor nodes`.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[command(subcommand)]
    pub(crate) command: Option<NodesCommand>,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// List the nodes, checked against roster and grants (the default)
    #[command(visible_alias = "list")]
    Ls,
    /// Sign leave for a machine to enrol, and print what to type there
    Grant(Grant),
}

/// `lictor nodes grant`.
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Give the node a label, which node groups in fleet.toml may match (repeatable)
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub(crate) labels: Vec<(Name, Name)>,
    /// What the machine is
    #[arg(long, value_enum, default_value_t = Kind::Server)]
    pub(crate) kind: Kind,
    /// How long it may be used
    #[arg(long, value_parser = parse_duration, default_value = "1h")]
    pub(crate) ttl: Duration,
    /// How many machines may use it; more than one makes NAME a prefix
    #[arg(long, default_value_t = 1)]
    pub(crate) uses: u32,
    /// The node whose name the new one takes over
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) replaces: Option<NodeId>,
    /// The hub's address as the new machine sees it, https://HOST:PORT [default: the home's]
    #[arg(long, value_name = "URL")]
    pub(crate) hub_url: Option<String>,
    /// The node's name
    pub(crate) name: Name,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the words say it
pub(crate) enum Kind {
    Server,
    Desktop,
    Mobile,
    Bridge,
}

impl From<Kind> for lictor_proto::doc::NodeKind {
    fn from(k: Kind) -> Self {
        match k {
            Kind::Server => Self::Server,
            Kind::Desktop => Self::Desktop,
            Kind::Mobile => Self::Mobile,
            Kind::Bridge => Self::Bridge,
        }
    }
}

/// `lictor tokens`.
#[derive(Debug, Args)]
pub(crate) struct Tokens {
    #[command(subcommand)]
    pub(crate) command: TokensCommand,
}

/// What to do with API tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// List the tokens of the org
    #[command(visible_alias = "list")]
    Ls,
    /// Make a token; its secret is shown once
    New(NewToken),
    /// Make a token worthless
    Revoke {
        /// The token's public id
        id: String,
    },
}

/// `lictor tokens new`.
#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// What it may do on the hub; it never grants execution
    #[arg(long, value_enum, default_value_t = Scope::Read)]
    pub(crate) scope: Scope,
    /// How long it is good [default: for good]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// How many requests it may make in a second, and twice as many at once [default: as many as the hub lets any token]
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<u32>,
    /// What it is for
    pub(crate) label: String,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// See everything of the org
    Read,
    /// Also submit signed documents
    Submit,
    /// Also make and revoke tokens
    Admin,
}

impl From<Scope> for lictor_proto::api::TokenScope {
    fn from(s: Scope) -> Self {
        match s {
            Scope::Read => Self::Read,
            Scope::Submit => Self::Submit,
            Scope::Admin => Self::Admin,
        }
    }
}

/// `lictor audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) source: AuditSource,
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

/// Whose log.
#[derive(Debug, Args)]
pub(crate) struct AuditSource {
    /// The hub's log of this org (the default)
    #[arg(long, global = true)]
    pub(crate) hub: bool,
    /// The log of the node in this directory
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "hub")]
    pub(crate) agent: Option<PathBuf>,
}

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the records for people
    Show,
    /// Print the records as JSON lines, exactly as they are chained
    Export,
    /// Find any changed, removed or reordered record, and by receipts that this home has seen, any cut-off end
    Verify {
        /// A head of this log that was kept elsewhere, which must occur; every receipt carries one (repeatable)
        #[arg(long = "head", value_name = "sha256:HEX")]
        heads: Vec<Digest>,
        /// Verify exported records in this file instead
        file: Option<PathBuf>,
    },
}

/// `lictor connect`.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// SHA-256 of the hub's HTTPS key; needed unless the hub is on this machine
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) spki: Option<Digest>,
    /// SHA-256 of the hub's link key, which goes into enrolment tokens
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) link_spki: Option<Digest>,
    /// The org's id, from somebody you trust
    #[arg(long)]
    pub(crate) org: OrgId,
    /// Who you are in the org's roster
    #[arg(long)]
    pub(crate) operator: Name,
    /// Which key of this home signs
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Name,
    /// File with the API token, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// The hub's address: https://HOST:PORT, or http:// on this machine
    pub(crate) url: String,
}

/// `K=V` of two names.
fn label(text: &str) -> Result<(Name, Name), String> {
    let (k, v) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name = |s: &str| s.parse::<Name>().map_err(|e| e.to_string());
    Ok((name(k)?, name(v)?))
}
