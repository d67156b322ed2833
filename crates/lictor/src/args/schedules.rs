//! Arguments of `lictor schedule`.

use std::time::Duration;

use clap::{Args, Subcommand};
use lictor_proto::doc::{Missed, Overlap};
use lictor_proto::{JobId, Name};
use lictor_trust::profiles::parse_duration;

use super::jobs::key_value;
use super::{Targets, Terms, UsedSecret, What, used_secret};

/// `lictor schedule`.
#[derive(Debug, Args)]
pub(crate) struct Schedule {
    #[command(subcommand)]
    pub(crate) command: ScheduleCommand,
}

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Sign a schedule: its nodes keep it and fire it by themselves, with a hub or without
    Add(Box<ScheduleAdd>),
    /// List schedules, newest first
    #[command(visible_alias = "list")]
    Ls(ScheduleLs),
    /// Show one: which nodes keep it, its next times, and what was fired last
    Show(ScheduleShow),
    /// End a schedule, by a signed cancel; what it has fired goes on
    #[command(visible_alias = "remove")]
    Rm(ScheduleRm),
}

/// `lictor schedule add`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleAdd {
    /// When: minute, hour, day of month, month, day of week, as in crontab(5); with seconds in a field before them, if wanted
    #[arg(long, value_name = "EXPR")]
    pub(crate) cron: String,
    /// The time zone of these times, by its IANA name: Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub(crate) tz: String,
    /// How long it goes on, at most 30 days; sign it again before it ends
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) until: Duration,
    /// Spread its nodes over so long after each time, each always at the same place
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub(crate) jitter: Duration,
    /// Times that pass while a node cannot fire: skip them, or make up for the last of them once
    #[arg(long, value_name = "skip|once", value_parser = missed, default_value = "skip")]
    pub(crate) missed: Missed,
    /// Times that come while the firing before still runs: skip them, or wait for its end
    #[arg(long, value_name = "skip|wait", value_parser = overlap, default_value = "skip")]
    pub(crate) overlap: Overlap,
    /// How long after its time a firing may still begin [default: 5m; with --missed once 12h, or what the law allows]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) start_within: Option<Duration>,
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
    /// Work in this kept sandbox of the profile, made at its first use [default: one of the firing's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) sandbox: Option<Name>,
    /// Have each firing use this secret, in the version that is the newest now: NAME or NAME=memfd, NAME=file on a tmpfs
    /// of the job's own (of both LICTOR_SECRET_NAME has the path), or NAME=stdin (repeatable)
    #[arg(long = "secret", value_name = "NAME[=HOW]", value_parser = used_secret)]
    pub(crate) secrets: Vec<UsedSecret>,
    #[command(flatten)]
    pub(crate) terms: Terms,
    /// Why, for people and for policy
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// Say which nodes would keep it, and sign nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before it is signed for several nodes that a pattern means
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) what: What,
}

/// `lictor schedule ls`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleLs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 100)]
    pub(crate) limit: u32,
    /// Only those for this node, by name or id
    #[arg(long)]
    pub(crate) node: Option<String>,
}

/// `lictor schedule show`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleShow {
    /// How many of its last firings to show, each with its verified receipts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) firings: u32,
    /// The schedule's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor schedule rm`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleRm {
    /// Why
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Only on this node of the schedule's, by name or id (repeatable) [default: on all]
    #[arg(long = "node", value_name = "NAME")]
    pub(crate) nodes: Vec<String>,
    /// The schedule's id, `j_...`
    pub(crate) id: JobId,
}

fn missed(text: &str) -> Result<Missed, String> {
    match text {
        "skip" => Ok(Missed::Skip),
        "once" => Ok(Missed::Once),
        _ => Err("skip, or once".to_owned()),
    }
}

fn overlap(text: &str) -> Result<Overlap, String> {
    match text {
        "skip" => Ok(Overlap::Skip),
        "wait" => Ok(Overlap::Wait),
        _ => Err("skip, or wait".to_owned()),
    }
}
