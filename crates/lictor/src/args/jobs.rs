//! Arguments of the commands about jobs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ExplainMore, Terms, UsedSecret, used_secret};
use lictor_client::Target;
use lictor_client::rollout::Share;
use lictor_proto::doc::{FileUrl, GitCommit};
use lictor_proto::{JobId, Name};
use lictor_trust::profiles::parse_duration;

/// `lictor run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Sandbox profile of the org's law
    #[arg(long, short, default_value = "sandbox")]
    pub(crate) profile: Name,
    /// Wall time after which the whole process tree is ended: 500ms, 30s, 10m, 2h [default: the profile's]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Set a variable; nothing is inherited (repeatable)
    #[arg(long = "env", short = 'e', value_name = "K=V", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Working directory, as the job sees it [default: the profile's]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Work in this kept sandbox of the profile, made at its first use [default: one of the job's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) sandbox: Option<Name>,
    /// Bring this commit into a directory of the job's own before it begins, which goes with it: https://HOST/PATH@COMMIT, the
    /// commit by its full id. `--secret NAME=git` shows the host a secret
    #[arg(long, value_name = "URL@COMMIT", value_parser = git_commit, conflicts_with = "sandbox")]
    pub(crate) git: Option<GitCommit>,
    /// Send standard input along; it is read to its end before the job is signed
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Use this secret: NAME or NAME=memfd, NAME=file on a tmpfs of the job's own (of both LICTOR_SECRET_NAME has the
    /// path), or NAME=stdin; NAME=git is for the host of --git alone (repeatable)
    #[arg(long = "secret", value_name = "NAME[=HOW]", value_parser = used_secret)]
    pub(crate) secrets: Vec<UsedSecret>,
    /// Begin on each node only when this job has ended there, however it ended (repeatable)
    #[arg(long, value_name = "JOB")]
    pub(crate) after: Vec<JobId>,
    /// Submit, print the job's id, and leave
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// How long the job may wait before it starts [default: 5m; of a rollout 1h, or what the law allows]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) valid: Option<Duration>,
    /// Why, for people and for policy
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) spread: Spread,
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// Say which nodes would run it, and sign nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before it runs on several nodes that a pattern means
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Of several nodes, wait also for those that are not connected, until the job expires
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) what: What,
}

/// How a job is spread over its nodes. Any of these makes it a rollout, which the hub carries out.
#[derive(Debug, Args)]
pub(crate) struct Spread {
    /// Begin batch by batch: so many nodes, or a part of all, the last size again and again: 1,10,50%
    #[arg(long, value_name = "N,P%", value_delimiter = ',')]
    pub(crate) batch: Vec<Share>,
    /// At most so many nodes at once [default: a whole batch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Wait so long after the first batch: 5m
    #[arg(long, value_parser = parse_duration, requires = "batch")]
    pub(crate) pause: Option<Duration>,
    /// Stop when so many nodes, or such a part of all, have not succeeded [default of a rollout: 1]
    #[arg(long, value_name = "N|P%")]
    pub(crate) max_failures: Option<Share>,
}

/// What is to be run.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// Run this script of this machine, up to 1 MiB; `-` is standard input. What follows `--` are its arguments
    #[arg(long, value_name = "FILE", conflicts_with = "named_script")]
    pub(crate) script: Option<String>,
    /// Run this script of the law, `scripts/NAME` in the org directory. What follows `--` are its arguments
    #[arg(long, value_name = "NAME")]
    pub(crate) named_script: Option<Name>,
    /// Who reads the script: bash, sh, python3, node, perl, ruby, pwsh, ... [default: what its #! line names]
    #[arg(long, value_name = "NAME")]
    pub(crate) interpreter: Option<Name>,
    /// The program and its arguments, after `--`; with a script, the script's arguments
    #[arg(last = true, required_unless_present_any = ["script", "named_script"], value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Which nodes.
#[derive(Debug, Args)]
pub(crate) struct Targets {
    /// Nodes: name, id, glob (`web-*`), label (`role=web`, `region!=eu`), group (`@web`); with `,` between, all of it
    /// must hold (repeatable)
    #[arg(value_name = "TARGET", required_unless_present = "all")]
    pub(crate) targets: Vec<Target>,
    /// All nodes
    #[arg(long, conflicts_with = "targets")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

/// Which of these not.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Narrow {
    /// Not these, in the same words as TARGET (repeatable)
    #[arg(long, short = 'x', value_name = "TARGET")]
    pub(crate) except: Vec<Target>,
    /// Only nodes that say they are this: os=linux, arch=x86_64, version=0.1.0; each checks it again (repeatable)
    #[arg(long = "fact", value_name = "K=V", value_parser = fact)]
    pub(crate) facts: Vec<Fact>,
    /// Leave out nodes that a pattern may mean and that nothing proves, such as two of one name
    #[arg(long)]
    pub(crate) skip_unproven: bool,
}

/// What a node says that it is.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    /// `os`, `arch` or `version`.
    pub(crate) name: String,
    /// What it must be.
    pub(crate) value: String,
}

fn git_commit(text: &str) -> Result<GitCommit, String> {
    let (url, commit) = text
        .rsplit_once('@')
        .ok_or("write it as https://HOST/PATH@COMMIT, the commit as 40 hexadecimal digits")?;
    Ok(GitCommit {
        url: url.to_owned(),
        commit: commit.to_owned(),
    })
}

fn fact(text: &str) -> Result<Fact, String> {
    let (name, value) = key_value(text)?;
    if !["os", "arch", "version"].contains(&name.as_str()) {
        return Err(
            "the facts are os, arch and version; a label is a target of its own: role=web".to_owned(),
        );
    }
    Ok(Fact { name, value })
}

/// `lictor jobs`.
#[derive(Debug, Args)]
pub(crate) struct JobsList {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20)]
    pub(crate) limit: u32,
    /// Only those that wait for a node
    #[arg(long)]
    pub(crate) queued: bool,
    /// Only those for this node, by name or id
    #[arg(long)]
    pub(crate) node: Option<String>,
}

/// One job.
#[derive(Debug, Args)]
pub(crate) struct JobRef {
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor logs`.
#[derive(Debug, Args)]
pub(crate) struct Follow {
    /// Go on until the job ends, and verify its receipt
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Of this node only, by name or id [default: all of the job's]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor egress`.
#[derive(Debug, Args)]
pub(crate) struct Egress {
    #[command(subcommand)]
    pub(crate) command: EgressCommand,
}

/// What to do about ways out.
#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// Print a job's attempts to get out as they come, until it ends; of one that has ended, those in its log
    Watch(EgressWatch),
}

/// `lictor egress watch`.
#[derive(Debug, Args)]
pub(crate) struct EgressWatch {
    /// Of this node, by name or id; needed where the job is for several
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Why
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Only on this node of the job's, by name or id (repeatable) [default: on all]
    #[arg(long = "node", value_name = "NAME")]
    pub(crate) nodes: Vec<String>,
    /// Everything that waits for the nodes named by --node, in place of one job: a purge of their queues. What waits is the
    /// hub's word, so the jobs are shown before anything is signed; one that has begun is ended
    #[arg(long, requires = "nodes", conflicts_with = "id")]
    pub(crate) queued: bool,
    /// With --queued: do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(long, short, requires = "queued")]
    pub(crate) yes: bool,
    /// The job's id, `j_...`
    #[arg(required_unless_present = "queued")]
    pub(crate) id: Option<JobId>,
}

/// `lictor retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Only where it ran and did not succeed: not where it was denied or canceled
    #[arg(long)]
    pub(crate) failed: bool,
    /// How long the new job may wait before it starts [default: 5m; of a rollout 1h, or what the law allows]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) valid: Option<Duration>,
    /// Submit, print the new job's id, and leave
    #[arg(long, short)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) spread: Spread,
    /// Say which nodes would run it, and sign nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before it is signed for several nodes, or where it is another operator's job
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Of several nodes, wait also for those that are not connected, until the job expires
    #[arg(long)]
    pub(crate) wait: bool,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor rollout`.
#[derive(Debug, Args)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    pub(crate) command: RolloutCommand,
}

/// What to do with a rollout.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show how a rollout stands, batch by batch, as its hub says
    Show(JobRef),
    /// Let a rollout go on that stopped, or that pauses; what has failed so far counts no more
    Continue(JobRef),
}

/// `lictor explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// For this node [default: the only one]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// With this profile
    #[arg(long, short, default_value = "sandbox")]
    pub(crate) profile: Name,
    /// With this variable set (repeatable)
    #[arg(long = "env", short = 'e', value_name = "K=V", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) terms: Terms,
    /// With this commit brought before it begins: https://HOST/PATH@COMMIT
    #[arg(long, value_name = "URL@COMMIT", value_parser = git_commit, conflicts_with_all = ["fetch", "collect", "workspace"])]
    pub(crate) git: Option<GitCommit>,
    /// With this secret, taken to be set by who asks: NAME, NAME=memfd, NAME=stdin, NAME=file or NAME=git (repeatable)
    #[arg(long = "secret", value_name = "NAME[=HOW]", value_parser = used_secret)]
    pub(crate) secrets: Vec<UsedSecret>,
    /// As this operator instead of the configured one
    #[arg(long = "as", value_name = "OPERATOR")]
    pub(crate) operator: Option<Name>,
    /// As a firing of a schedule, which nobody has just asked for
    #[arg(long, conflicts_with_all = ["fetch", "collect"])]
    pub(crate) scheduled: bool,
    /// By the law in this org directory instead of the pinned law
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Whether this file may be put on the node: its path there
    #[arg(long, value_name = "PATH", conflicts_with_all = ["script", "named_script", "command"])]
    pub(crate) fetch: Option<String>,
    /// With --fetch: where the node fetches it from, in place of the hub
    #[arg(long, value_name = "URL", requires = "fetch")]
    pub(crate) url: Option<FileUrl>,
    /// Whether this file, or all below this directory, may be brought from the node
    #[arg(long, value_name = "PATH", conflicts_with_all = ["fetch", "script", "named_script", "command"])]
    pub(crate) collect: Option<String>,
    /// Bytes of that file or of standard input, or the most that is brought: 100MiB
    #[arg(long, value_name = "SIZE", value_parser = lictor_trust::profiles::parse_size, default_value = "1MiB")]
    pub(crate) size: u64,
    /// Permission bits of the file that is put there
    #[arg(long, value_name = "BITS", default_value = "0644")]
    pub(crate) mode: String,
    #[command(flatten)]
    pub(crate) more: ExplainMore,
    /// The text of this file, or of standard input (`-`), as a script. What follows `--` are its arguments
    #[arg(long, value_name = "FILE", conflicts_with = "named_script")]
    pub(crate) script: Option<String>,
    /// This script of the law. What follows `--` are its arguments
    #[arg(long, value_name = "NAME")]
    pub(crate) named_script: Option<Name>,
    /// Who reads the script [default: what its #! line names]
    #[arg(long, value_name = "NAME")]
    pub(crate) interpreter: Option<Name>,
    /// The program and its arguments, after `--`
    #[arg(
        last = true,
        required_unless_present_any = ["script", "named_script", "fetch", "collect", "workspace"],
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

impl Explain {
    /// What would be run, where it is a program or a script.
    pub(crate) fn what(&self) -> What {
        What {
            script: self.script.clone(),
            named_script: self.named_script.clone(),
            interpreter: self.interpreter.clone(),
            command: self.command.clone(),
        }
    }
}

/// `lictor profiles`.
#[derive(Debug, Args)]
pub(crate) struct Profiles {
    /// Of the law in this org directory instead of the pinned law
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Only this one [default: all]
    pub(crate) name: Option<Name>,
}

/// `lictor receipt`.
#[derive(Debug, Args)]
pub(crate) struct Receipt {
    #[command(subcommand)]
    pub(crate) command: ReceiptCommand,
}

/// What to do with a receipt.
#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Verify a job's receipts, one of each node: signature, chain of keys, job, and the output that the hub holds
    Verify(ReceiptVerify),
    /// Print a job's receipt exactly as its node signed it, or write it to a file to verify later
    Show(ReceiptShow),
}

/// `lictor receipt show`.
#[derive(Debug, Args)]
pub(crate) struct ReceiptShow {
    /// Write it to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Of this node, by name or id; needed where the job is for several
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor receipt verify`.
#[derive(Debug, Args)]
pub(crate) struct ReceiptVerify {
    /// A job's id, or a file with a signed receipt
    #[arg(value_name = "ID|FILE")]
    pub(crate) subject: String,
    /// With FILE: the signed job that the receipt is about, to compare
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
}

/// `K=V`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (k, v) = text
        .split_once('=')
        .ok_or("write it as NAME=VALUE; nothing is inherited")?;
    if k.is_empty() {
        return Err("the name is empty".to_owned());
    }
    Ok((k.to_owned(), v.to_owned()))
}
