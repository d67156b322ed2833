//! Arguments of `lictor keys` and `lictor org`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lictor_proto::Name;
use lictor_proto::doc::RoleName;
use lictor_trust::profiles::parse_duration;

/// `lictor keys`.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make an Ed25519 key
    New(KeysNew),
    /// List the keys of this home
    #[command(visible_alias = "list")]
    Ls,
    /// Show one key: id, public half, whether it is encrypted
    Show {
        /// The key's name
        name: Name,
    },
    /// Print the public half, as it is written in roster.toml
    ExportPublic {
        /// The key's name
        name: Name,
    },
}

/// `lictor keys new`.
#[derive(Debug, Args)]
pub(crate) struct KeysNew {
    /// Encrypt it with a passphrase, asked for on the terminal
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// Encrypt it with the passphrase in the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "encrypt")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The key's name
    pub(crate) name: Name,
}

/// `lictor org`.
#[derive(Debug, Args)]
pub(crate) struct Org {
    /// The org directory, kept in git [default: org in the home]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: OrgCommand,
}

/// What to do with an org.
#[derive(Debug, Subcommand)]
pub(crate) enum OrgCommand {
    /// Make an org: keys, root version 1, and a starter directory
    Init(OrgInit),
    /// Check that the directory would load as law, and warn of what is unwise
    Check,
    /// Run the org's own policy cases, tests/*.toml
    Test,
    /// Sign the directory as the next bundle
    Sign(OrgSign),
    /// Push root, bundle, freshness and revocations to the hub
    Push,
    /// Show the pinned law: root, bundle, people, groups, profiles
    Show,
    /// Compare the directory with the newest signed bundle
    Diff,
    /// Sign a freshness statement: this is the newest law, these are all revocations
    Freshness(OrgFreshness),
    /// Take a key, operator, node, job or grant away for good
    Revoke(OrgRevoke),
    /// Show a bundle or freshness statement that others have signed, and sign it too
    Cosign(OrgCosign),
    /// Take a bundle or freshness statement that enough have signed as this home's
    Take {
        /// The signed document
        file: PathBuf,
    },
    /// Change the org's own keys: make, sign and take the next root
    Root(OrgRoot),
}

/// `lictor org init`.
#[derive(Debug, Args)]
pub(crate) struct OrgInit {
    /// The first operator, who gets all rights
    #[arg(long, default_value = "admin")]
    pub(crate) operator: Name,
    /// Also make a key for freshness statements; without them, revocations take as long as a bundle's expiry
    #[arg(long)]
    pub(crate) freshness: bool,
    /// The org's name, for people
    pub(crate) name: Name,
}

/// `lictor org sign`.
#[derive(Debug, Args)]
pub(crate) struct OrgSign {
    /// How long the bundle is good
    #[arg(long, value_parser = parse_duration, default_value = "30d")]
    pub(crate) valid: Duration,
    /// Refuse new work when no freshness statement is younger than this
    #[arg(long, value_parser = parse_duration, default_value = "7d")]
    pub(crate) max_staleness: Duration,
    /// Sign with these keys of the home (repeatable)
    #[arg(long = "key", value_name = "NAME", default_value = "bundle")]
    pub(crate) keys: Vec<Name>,
    /// Write it to this file for others to sign with `lictor org cosign`, instead of taking it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `lictor org cosign`.
#[derive(Debug, Args)]
pub(crate) struct OrgCosign {
    /// Sign with these keys of the home (repeatable)
    #[arg(long = "key", value_name = "NAME", required = true)]
    pub(crate) keys: Vec<Name>,
    /// Do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The document
    pub(crate) file: PathBuf,
}

/// `lictor org root`.
#[derive(Debug, Args)]
pub(crate) struct OrgRoot {
    #[command(subcommand)]
    pub(crate) command: OrgRootCommand,
}

/// What to do with roots.
#[derive(Debug, Subcommand)]
pub(crate) enum OrgRootCommand {
    /// Show the root held, or what the root in a file changes and who has signed it
    Show {
        /// A root that is being signed
        file: Option<PathBuf>,
    },
    /// Write the next root, to be signed by the holders of the old and of the new root keys
    New(OrgRootNew),
    /// Show what a root changes, and sign it with root keys of this home
    Sign(OrgRootSign),
    /// Collect the signatures of copies that were signed apart
    Merge {
        /// The file that gets the signatures
        file: PathBuf,
        /// Copies of it
        #[arg(required = true, value_name = "OTHER")]
        others: Vec<PathBuf>,
    },
    /// Take a root that enough have signed as this home's; `lictor org push` hands it on
    Take {
        /// The signed root
        file: PathBuf,
    },
}

/// `lictor org root new`.
#[derive(Debug, Args)]
pub(crate) struct OrgRootNew {
    /// Give a role a key: root, bundle, freshness or release; a key of this home by name, or a public key as
    /// `lictor keys export-public` prints it (repeatable)
    #[arg(long, value_name = "ROLE=KEY", value_parser = parse_role::<String>)]
    pub(crate) add: Vec<(RoleName, String)>,
    /// Take a key from a role: a key of this home by name, a key id, or a public key (repeatable)
    #[arg(long, value_name = "ROLE=KEY", value_parser = parse_role::<String>)]
    pub(crate) remove: Vec<(RoleName, String)>,
    /// How many distinct keys of a role must sign (repeatable) [default: as before; 1 for a role that had no keys]
    #[arg(long, value_name = "ROLE=N", value_parser = parse_role::<u32>)]
    pub(crate) threshold: Vec<(RoleName, u32)>,
    /// How long bundles are taken under it
    #[arg(long, value_parser = parse_duration, default_value = "3650d")]
    pub(crate) valid: Duration,
    /// Where to write it [default: root.N.json in the org directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `lictor org root sign`.
#[derive(Debug, Args)]
pub(crate) struct OrgRootSign {
    /// Sign with these keys of the home (repeatable)
    #[arg(long = "key", value_name = "NAME", default_value = "root")]
    pub(crate) keys: Vec<Name>,
    /// Do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// The root
    pub(crate) file: PathBuf,
}

fn parse_role<T: FromStr>(text: &str) -> Result<(RoleName, T), String> {
    let (role, value) = text.split_once('=').ok_or("write ROLE=VALUE")?;
    let role = RoleName::ALL
        .into_iter()
        .find(|r| r.as_str() == role)
        .ok_or("the roles are root, bundle, freshness and release")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok((role, value))
}

/// `lictor org freshness`.
#[derive(Debug, Args)]
pub(crate) struct OrgFreshness {
    /// How long the statement is good
    #[arg(long, value_parser = parse_duration, default_value = "7d")]
    pub(crate) valid: Duration,
    /// Sign with these keys of the home (repeatable)
    #[arg(long = "key", value_name = "NAME", default_value = "freshness")]
    pub(crate) keys: Vec<Name>,
    /// Write it to this file for others to sign with `lictor org cosign`, instead of taking it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `lictor org revoke`.
#[derive(Debug, Args)]
pub(crate) struct OrgRevoke {
    /// Why
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// What kind of thing
    pub(crate) kind: RevokeKind,
    /// Key id, operator name, node id, job id or grant digest
    pub(crate) target: String,
}

/// What can be revoked from here.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[allow(missing_docs)] // the words say it
pub(crate) enum RevokeKind {
    Key,
    Operator,
    Node,
    Job,
    Schedule,
    Grant,
}
