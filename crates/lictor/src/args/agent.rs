//! Arguments of `lictor agent`.

use std::path::PathBuf;
#[cfg(unix)]
use std::time::Duration;

use clap::{Args, Subcommand};
use lictor_proto::Name;
#[cfg(unix)]
use lictor_proto::{Digest, JobId};
#[cfg(unix)]
use lictor_trust::profiles::{ImageName, parse_duration, parse_size};

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
    /// Read the results that the hub did not take in time
    #[cfg(unix)]
    Archive(Archive),
    /// Manage the root filesystems that profiles may name on this node
    #[cfg(unix)]
    Rootfs(Rootfs),
    /// Manage the sandboxes that this node keeps for jobs that name them
    #[cfg(unix)]
    Sandbox(Sandbox),
}

/// `lictor agent archive`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct Archive {
    /// Where the node keeps its keys, journal and spool
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/lictor/agent",
        global = true
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: ArchiveCommand,
}

/// What to read of it; the hub gets what is in it when it is back, and then it goes.
#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// List the results, oldest first
    #[command(visible_alias = "list")]
    Ls,
    /// Show one: what the receipt says, and where job, receipt and output are
    Show {
        /// The job
        job: JobId,
        /// Write what was kept of its output instead, as the job did: to standard output and standard error
        #[arg(long)]
        output: bool,
    },
}

/// `lictor agent sandbox`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct Sandbox {
    /// Where the node keeps its keys, journal and spool
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/lictor/agent",
        global = true
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: SandboxCommand,
}

/// What to do with kept sandboxes; one that a job works in is left alone.
#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// List what is kept, how much it holds, when it was last used, and by which job it is in use
    #[command(visible_alias = "list")]
    Ls,
    /// Remove one with all that it holds
    #[command(visible_alias = "remove")]
    Rm {
        /// Its name, or its key where several have that name
        sandbox: String,
    },
    /// Copy what one holds, to be restored later
    Snapshot {
        /// Its name, or its key where several have that name
        sandbox: String,
        /// What the copy is called; one of that name is replaced
        name: Name,
    },
    /// Put a snapshot in the place of what one holds
    Restore {
        /// Its name, or its key where several have that name
        sandbox: String,
        /// The snapshot
        name: Name,
    },
}

/// `lictor agent rootfs`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct Rootfs {
    /// Where the node keeps its keys, journal and spool
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/lictor/agent",
        global = true
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: RootfsCommand,
}

/// What to do with root filesystems.
#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum RootfsCommand {
    /// Add a tarball, an OCI image archive, or a directory of the OCI image layout
    Add {
        /// The file or directory
        #[arg(value_name = "FILE|DIR")]
        source: PathBuf,
        /// Add it only when this is its digest: a tarball's own, or that of an image or of an index
        #[arg(long, value_name = "SHA256")]
        expect: Option<Digest>,
    },
    /// Fetch an OCI image from a registry, by its digest; takes skopeo
    Pull {
        /// The image, as REGISTRY/NAME@sha256:...
        #[arg(value_name = "IMAGE")]
        image: PulledImage,
        /// The agent's configuration, TOML; instead of --dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List what is there, and when it was last used
    #[command(visible_alias = "list")]
    Ls,
    /// Remove one that no job uses
    #[command(visible_alias = "remove")]
    Rm {
        /// Which one
        #[arg(value_name = "SHA256")]
        digest: Digest,
    },
    /// Remove what has not been used for long, and then what was used longest ago
    Prune {
        /// Keep at most so much, in bytes or with KiB, MiB or GiB
        #[arg(long, value_parser = parse_size, default_value = "20GiB")]
        max: u64,
        /// Keep what was used within this time
        #[arg(long, value_parser = parse_duration, default_value = "30d")]
        unused: Duration,
    },
}

/// An image in a registry.
#[cfg(unix)]
#[derive(Debug, Clone)]
pub(crate) struct PulledImage {
    pub(crate) image: ImageName,
    pub(crate) digest: Digest,
}

#[cfg(unix)]
impl std::str::FromStr for PulledImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write REGISTRY/NAME@sha256:..., with the digest of the image or of an index that has it"
                .to_owned()
        };
        let (image, digest) = text.split_once('@').ok_or_else(wrong)?;
        Ok(Self {
            image: image.parse().map_err(|e| format!("{e}"))?,
            digest: digest.parse().map_err(|_| wrong())?,
        })
    }
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
