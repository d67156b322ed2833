//! Arguments of the commands by which people sign about jobs: releases, approvals, rejections, reviews.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lictor_proto::{JobId, Name};
use lictor_trust::profiles::parse_duration;

/// `lictor release`.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The nodes of this batch of the rollout, as its hub says; they are shown before anything is signed, so neither --yes
    /// nor --json goes with it (repeatable)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Vec<u32>,
    /// This node of the job's, by name or id (repeatable)
    #[arg(long = "node", value_name = "NAME", required_unless_present = "batch")]
    pub(crate) nodes: Vec<String>,
    /// Do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// How long the release counts
    #[arg(long, value_parser = parse_duration, default_value = "1h")]
    pub(crate) valid: Duration,
    /// Release as this operator instead of the configured one
    #[arg(long = "as", value_name = "OPERATOR")]
    pub(crate) operator: Option<Name>,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor approve`.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// Do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Approve it also for nodes that have not asked: what they will find out is not shown, and where the law does not
    /// bind approvals to it, the approval counts there all the same
    #[arg(long)]
    pub(crate) unasked: bool,
    /// How long the approval counts
    #[arg(long, value_parser = parse_duration, default_value = "1h")]
    pub(crate) valid: Duration,
    /// What the job brings (standard input, or its file), when that is too large to be shown or is no text: it is
    /// approved if this is it
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Approve as this operator instead of the configured one
    #[arg(long = "as", value_name = "OPERATOR")]
    pub(crate) approver: Option<Name>,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor reject`.
#[derive(Debug, Args)]
pub(crate) struct Reject {
    /// Why, for the requester and other approvers
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Reject as this operator instead of the configured one
    #[arg(long = "as", value_name = "OPERATOR")]
    pub(crate) operator: Option<Name>,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    /// The job's id, `j_...`
    pub(crate) id: JobId,
}

/// `lictor review`.
#[derive(Debug, Args)]
pub(crate) struct Review {
    /// Look through so many of the newest jobs
    #[arg(long, short = 'n', default_value_t = 100)]
    pub(crate) limit: u32,
    /// List only those that nobody has reviewed
    #[arg(long)]
    pub(crate) open: bool,
    /// With ID: do not ask for confirmation; needed with --json, which shows nothing to confirm
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// With ID: what you found
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// With ID: review as this operator instead of the configured one
    #[arg(long = "as", value_name = "OPERATOR")]
    pub(crate) operator: Option<Name>,
    /// With ID: sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    /// The job to sign for, `j_...` [default: list them]
    pub(crate) id: Option<JobId>,
}
