//! Arguments of `lictor cp`.

use std::time::Duration;

use clap::Args;
use lictor_proto::{Digest, JobId, Name, limits};
use lictor_trust::profiles::{parse_duration, parse_size};

use super::{Narrow, Spread, Targets};
use crate::failure::{Failure, Result};

/// `lictor cp`.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Sandbox profile of the org's law; it decides where files may be, and whose they are
    #[arg(long, short, default_value = "host")]
    pub(crate) profile: Name,
    /// Permission bits of a file that is put on nodes: 0644 [default: those that it has here; 0644 where it comes from a URL]
    #[arg(long, value_name = "BITS")]
    pub(crate) mode: Option<String>,
    /// Its owner and group there: app, app:app, :app, by name or number [default: the user that the profile's jobs run as]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    pub(crate) owner: Option<Owner>,
    /// Put it in the place of a file that is there
    #[arg(long)]
    pub(crate) replace: bool,
    /// SHA-256 of what a URL gives, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Option<Digest>,
    /// Bytes of what a URL gives, exactly
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) size: Option<u64>,
    /// Most that is brought from each node, all files together: 100MiB, 4GiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
    pub(crate) max_bytes: u64,
    /// Wall time after which it is given up: 30s, 10m, 2h [default: the profile's]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Put it in, or bring it from, this kept sandbox of the profile
    #[arg(long, value_name = "NAME")]
    pub(crate) sandbox: Option<Name>,
    /// How long the job may wait before it starts, and a file be on its way: 30m, 6h [default: 5m, and 1s more for each
    /// 256 KiB that go to a node; never more than the law's max_job_validity]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) valid: Option<Duration>,
    /// Why, for people and for policy
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Sign with this key of the home instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<Name>,
    /// Do not ask before a file is put on, or brought from, several nodes that a pattern means
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Begin on each node only when this job has ended there, however it ended (repeatable)
    #[arg(long, value_name = "JOB")]
    pub(crate) after: Vec<JobId>,
    /// To nodes: submit, print the id of each file's job, and leave
    #[arg(long, short)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) spread: Spread,
    /// To all nodes, or from all; the path there is then `:/path`
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
    /// Say which nodes would get it, or be asked for it, and sign nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// To or from several nodes: wait also for those that are not connected, until the job expires
    #[arg(long)]
    pub(crate) wait: bool,
    /// Files of this machine; or TARGET:/path: nodes, in the words of `lictor run`, and there a file or a directory (with --all `:/path`);
    /// or an https:// or http:// URL, which the nodes fetch from
    #[arg(required = true)]
    pub(crate) from: Vec<String>,
    /// TARGET:/path: nodes, and the path there (with --all `:/path`); or a place on this machine. From a pattern, a label, a group or
    /// --all it is a directory, below which each node has one of its name
    pub(crate) to: String,
}

impl Copy {
    pub(crate) fn timeout_ms(&self) -> Option<u64> {
        self.timeout
            .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// The nodes that the word before the path means, and what narrows them.
    pub(crate) fn targets(&self, text: &str) -> Result<Targets> {
        let named = match (self.all, text.is_empty()) {
            (true, false) => {
                return Err(Failure::new("--all and a target, both")
                    .hint("With --all the place is `:/path`, as in `lictor cp --all app.conf :/etc/app/`."));
            }
            (true, true) => Vec::new(),
            (false, _) => Targets::of(text)?.targets,
        };
        Ok(Targets {
            targets: named,
            all: self.all,
            narrow: self.narrow.clone(),
        })
    }

    /// That nothing is said which is for files to nodes only.
    pub(crate) fn is_from_a_node(&self) -> Result<()> {
        let said = [
            (self.detach, "--detach"),
            (
                self.spread.is_wanted(),
                "--batch, --concurrency or --max-failures",
            ),
        ];
        match said.iter().find(|(is_said, _)| *is_said) {
            Some((_, option)) => Err(Failure::new(format!("{option} is for files to nodes"))
                .hint("What is brought from nodes is verified here, so this command waits for it, and fetches from some of them at a time.")),
            None => Ok(()),
        }
    }
}

/// Whose a file is to be.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
}

fn owner(text: &str) -> std::result::Result<Owner, String> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if user.is_empty() && group.is_empty() {
        return Err("USER, USER:GROUP or :GROUP".to_owned());
    }
    Ok(Owner {
        user: some(user),
        group: some(group),
    })
}

fn sha256(text: &str) -> std::result::Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}")
        .parse()
        .map_err(|_| "64 hexadecimal digits in lower case".to_owned())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    match parse_size(text) {
        Ok(size) if (1..=limits::ARTIFACT).contains(&size) => Ok(size),
        Ok(_) => Err("1 byte to 4GiB".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

impl Targets {
    /// The nodes that one word means.
    pub(crate) fn of(text: &str) -> Result<Self> {
        let target = text
            .parse()
            .map_err(|e| Failure::new(format!("{text} is no target")).because(&e))?;
        Ok(Self {
            targets: vec![target],
            all: false,
            narrow: Narrow::default(),
        })
    }
}
