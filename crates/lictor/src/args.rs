//! The command line as types: what can be typed, and nothing of what it does.
//!
//! One file per area below `args/`; `commands/` has a file of the same name that does the work. `docs/cli.md` is
//! written from these types, so a sentence here is a sentence of the reference.

#[cfg(feature = "agent")]
mod agent;
mod explain;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod jobs;
mod notify;
mod org;
mod people;
mod schedules;
mod secrets;
mod setup;
mod terms;
mod workspaces;

#[cfg(feature = "agent")]
pub(crate) use agent::*;
pub(crate) use explain::*;
pub(crate) use files::*;
#[cfg(feature = "hub")]
pub(crate) use hub::*;
pub(crate) use jobs::*;
pub(crate) use notify::*;
pub(crate) use org::*;
pub(crate) use people::*;
pub(crate) use schedules::*;
pub(crate) use secrets::*;
pub(crate) use setup::*;
pub(crate) use terms::*;
pub(crate) use workspaces::*;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run signed jobs on your machines, each in a sandbox, and get a verifiable receipt back.
#[derive(Debug, Parser)]
#[command(name = "lictor", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit status of `run`: the remote command's; 128+n when signal n ended it; 124 timed out; \
125 Lictor's own error, or a result that no receipt confirms; 126 denied."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Directory with configuration, keys and pinned trust [default: ~/.lictor]
    #[arg(
        long,
        global = true,
        env = "LICTOR_HOME",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The word that makes this program the egress proxy of an agent.
#[cfg(feature = "agent")]
pub(crate) const EGRESS_PROXY: &str = "egress-proxy";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a hub and a local node in one command, for one machine
    #[cfg(all(feature = "hub", feature = "agent"))]
    Up(Up),
    /// Run a command or a script on a node and stream its output
    Run(Box<Run>),
    /// Copy a file to nodes, or files from a node: one end is TARGET:/path
    Cp(Box<Copy>),
    /// See and change the workspaces of a node: what jobs with --sandbox NAME leave for the next
    #[command(visible_alias = "workspaces")]
    Workspace(Workspaces),
    /// List jobs, newest first
    Jobs(JobsList),
    /// Show one job: command, state, receipt
    Job(JobRef),
    /// Print the output of a job
    Logs(Follow),
    /// See what jobs with a way out try to reach
    Egress(Egress),
    /// End a job, by a signed cancel
    Cancel(Cancel),
    /// Sign a job again for the nodes whose receipts say that it did not succeed
    Retry(Retry),
    /// See and continue rollouts: jobs that the hub spreads over their nodes batch by batch
    #[command(visible_alias = "rollouts")]
    Rollout(Rollout),
    /// Sign work that nodes do again and again by themselves, at the times of a cron expression
    #[command(visible_alias = "schedules")]
    Schedule(Schedule),
    /// Sign that a job may begin on some of its nodes, where the law demands it
    Release(Release),
    /// List jobs that wait for approval
    Approvals,
    /// Approve a job, after showing exactly what is approved
    Approve(Approve),
    /// Say, signed, that you would not approve a job; it stops nothing, and is shown to the requester and other approvers
    Reject(Reject),
    /// List the jobs that ran by breaking the glass, or sign that you have looked at one
    Review(Review),
    /// Predict what policy says about a command or a script, and which rules decide
    Explain(Box<Explain>),
    /// Explain the sandbox profiles of the law in words
    #[command(visible_alias = "profile")]
    Profiles(Profiles),
    /// List the nodes, or let a new machine enrol
    #[command(visible_alias = "node")]
    Nodes(Nodes),
    /// Verify a receipt
    Receipt(Receipt),
    /// Read and verify audit logs
    Audit(Audit),
    /// Make and look at signing keys
    #[command(visible_alias = "key")]
    Keys(Keys),
    /// Make, check, sign and push an org's law
    Org(Org),
    /// Make and revoke API tokens of the hub
    #[command(visible_alias = "token")]
    Tokens(Tokens),
    /// Have webhooks and e-mail addresses told of what happens
    Notify(Notify),
    /// Seal secrets to nodes, list and remove them; jobs use them by `lictor run --secret`
    #[command(visible_alias = "secrets")]
    Secret(Secrets),
    /// Point this home at an org on a hub
    Connect(Connect),
    /// Look for what is wrong: hub, clock, versions, sandboxes, and which profiles this host can hold
    Doctor(Doctor),
    /// The machine side: enrol, and run the agent
    #[cfg(feature = "agent")]
    Agent(Agent),
    /// What an agent starts for jobs with a way out
    #[cfg(all(feature = "agent", unix))]
    #[command(name = EGRESS_PROXY, hide = true)]
    EgressProxy,
    /// What an agent starts in a job's sandbox to carry files
    #[cfg(all(feature = "agent", unix))]
    #[command(name = lictor_sandbox::CARRY_FILES, hide = true)]
    CarryFiles {
        /// What to carry, as JSON
        order: String,
    },
    /// What an agent starts to download a file for a job
    #[cfg(all(feature = "agent", unix))]
    #[command(name = lictor_sandbox::DOWNLOAD, hide = true)]
    DownloadFile {
        /// What to ask for, as JSON
        order: String,
    },
    /// The control plane
    #[cfg(feature = "hub")]
    Hub(Hub),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn walk(command: &clap::Command, look: &mut impl FnMut(&clap::Command)) {
        look(command);
        command.get_subcommands().for_each(|c| walk(c, look));
    }

    #[test]
    fn lists_and_removals_have_one_word_and_the_long_one_beside_it_everywhere() {
        let (mut lists, mut removals) = (0, 0);
        walk(&Cli::command(), &mut |command| {
            let name = command.get_name();
            assert!(!matches!(name, "list" | "remove" | "delete"), "say ls and rm");
            let has = |alias: &str| command.get_visible_aliases().any(|a| a == alias);
            if name == "ls" {
                assert!(has("list"));
                lists += 1;
            }
            if name == "rm" {
                assert!(has("remove"));
                removals += 1;
            }
        });
        assert!(lists >= 8 && removals >= 6, "{lists} lists, {removals} removals");
    }

    #[test]
    fn whoever_takes_a_noun_for_its_plural_is_understood() {
        for (said, meant) in [
            ("workspaces", "workspace"),
            ("rollouts", "rollout"),
            ("schedules", "schedule"),
            ("node", "nodes"),
            ("key", "keys"),
            ("token", "tokens"),
            ("secrets", "secret"),
            ("profile", "profiles"),
        ] {
            let command = Cli::command();
            let found = command.find_subcommand(said).map(clap::Command::get_name);
            assert_eq!(found, Some(meant), "{said}");
        }
    }
}
