//! The hub's configuration: one TOML file, unknown keys refused. `docs/config/hub.toml` is the example.

pub mod s3;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_proto::OrgId;
use serde::Deserialize;

use crate::app::limits::{Limits, OrgLimits, Rate};
use crate::app::retention::Retention;
use s3::S3Config;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Where the database, objects and keys are; made if need be.
    pub dir: PathBuf,
    /// Address and port; port 0 is any free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// DNS names and addresses in the certificate that people's programs see; the listening address is always in.
    #[serde(default)]
    pub names: Vec<String>,
    /// Connections at once; more wait to be accepted.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
    /// After how many seconds without a word from its node an execution is `lost`.
    #[serde(default = "default_lease")]
    pub lease_seconds: u64,
    /// How long a shutdown waits for connections to end, in seconds.
    #[serde(default = "default_grace")]
    pub grace_seconds: u64,
    /// Executions of one org that may be at work at once, on all its nodes; more wait, and say so.
    #[serde(default = "default_running_org")]
    pub max_running_per_org: u64,
    /// Jobs of one org that are stored, ended ones too; more are refused with `jobs_full`.
    #[serde(default = "default_jobs_org")]
    pub max_jobs_per_org: u64,
    /// Requests that one API token may make in a second, on average; more are refused with `rate_limited`.
    #[serde(default = "default_rate")]
    pub requests_per_second: NonZeroU32,
    /// Requests that one API token may make at once, after a while without any.
    #[serde(default = "default_burst")]
    pub request_burst: NonZeroU32,
    /// How people are told of what happens.
    #[serde(default)]
    pub notify: NotifySettings,
    /// Other limits for single orgs, by their id.
    #[serde(default)]
    pub orgs: HashMap<OrgId, OrgSettings>,
    /// Executions of one org that may wait; more are refused with `queue_full`.
    #[serde(default = "default_queue_org")]
    pub max_queued_per_org: u64,
    /// Executions of one node that may wait; more are refused with `queue_full`.
    #[serde(default = "default_queue_node")]
    pub max_queued_per_node: u64,
    /// MiB of inputs and files for jobs that are stored for one org; more are refused.
    #[serde(default = "default_stored")]
    pub max_stored_mib_per_org: u64,
    /// Hours that standard input is kept which no valid job names.
    #[serde(default = "default_stdin_hours")]
    pub keep_stdin_hours: u64,
    /// Days that logs of ended executions are kept; 0 is for ever.
    #[serde(default)]
    pub keep_logs_days: u64,
    /// Days that ended jobs are kept, with their receipts; 0 is for ever.
    #[serde(default)]
    pub keep_jobs_days: u64,
    /// A bucket for logs and inputs; files below `dir` when left out.
    #[serde(default)]
    pub s3: Option<S3Config>,
}

/// Notifications: `docs/notifications.md`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifySettings {
    /// Whether webhooks may go to addresses that are not public, and by plain HTTP to those.
    pub allow_private: bool,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// After how many seconds without a word a node that is not connected is lost.
    pub node_lost_seconds: u64,
    /// How many days before its end law is about to expire.
    pub law_days: u32,
    /// The server for e-mail; none is sent without it.
    pub smtp: Option<SmtpSettings>,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self {
            allow_private: false,
            ca_file: None,
            node_lost_seconds: 600,
            law_days: 7,
            smtp: None,
        }
    }
}

/// A server that takes e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Its name.
    pub host: String,
    /// Its port.
    #[serde(default = "default_smtp_port")]
    pub port: u16,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Who logs in, where there is a password.
    #[serde(default)]
    pub username: String,
    /// The file with the password; nobody logs in without it.
    pub password_file: Option<PathBuf>,
    /// Whom mail is from: an address, or `Name <address>`.
    pub from: String,
}

impl SmtpSettings {
    /// Whether it is on this machine.
    fn is_here(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// How the connection to the server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// TLS after STARTTLS; without it nothing is sent.
    #[default]
    Starttls,
    /// TLS from the start.
    Tls,
    /// None: for a relay on this machine.
    None,
}

fn default_smtp_port() -> u16 {
    587
}

/// What is otherwise for one org; what is not named is as for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgSettings {
    /// As [`HubConfig::max_running_per_org`].
    pub max_running: Option<u64>,
    /// As [`HubConfig::max_queued_per_org`].
    pub max_queued: Option<u64>,
    /// As [`HubConfig::max_queued_per_node`].
    pub max_queued_per_node: Option<u64>,
    /// As [`HubConfig::max_jobs_per_org`].
    pub max_jobs: Option<u64>,
}

fn default_running_org() -> u64 {
    10_000
}
fn default_jobs_org() -> u64 {
    1_000_000
}
fn default_rate() -> NonZeroU32 {
    const { NonZeroU32::new(2000).unwrap() }
}
fn default_burst() -> NonZeroU32 {
    const { NonZeroU32::new(4000).unwrap() }
}
fn default_stored() -> u64 {
    100 * 1024
}
fn default_queue_org() -> u64 {
    100_000
}
fn default_queue_node() -> u64 {
    10_000
}
fn default_stdin_hours() -> u64 {
    48
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8420))
}
fn default_connections() -> usize {
    20_000
}
fn default_lease() -> u64 {
    90
}
fn default_grace() -> u64 {
    10
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML of this shape.
    #[error("malformed configuration")]
    Malformed(#[from] toml::de::Error),
    /// A value makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
}

impl HubConfig {
    /// All defaults, in this directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: default_listen(),
            names: Vec::new(),
            max_connections: default_connections(),
            lease_seconds: default_lease(),
            grace_seconds: default_grace(),
            max_running_per_org: default_running_org(),
            max_jobs_per_org: default_jobs_org(),
            requests_per_second: default_rate(),
            request_burst: default_burst(),
            notify: NotifySettings::default(),
            orgs: HashMap::new(),
            max_queued_per_org: default_queue_org(),
            max_queued_per_node: default_queue_node(),
            keep_stdin_hours: default_stdin_hours(),
            keep_logs_days: 0,
            keep_jobs_days: 0,
            max_stored_mib_per_org: default_stored(),
            s3: None,
        }
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        if config.max_connections == 0 {
            return Err(ConfigError::Invalid("max_connections must be at least 1"));
        }
        if config.max_stored_mib_per_org == 0 || config.max_stored_mib_per_org > 1 << 30 {
            return Err(ConfigError::Invalid("max_stored_mib_per_org is 1 to 2^30"));
        }
        if let Some(s3) = &config.s3 {
            s3.check()?;
        }
        if config.keep_stdin_hours == 0 {
            return Err(ConfigError::Invalid("keep_stdin_hours must be at least 1"));
        }
        let days = config.keep_logs_days.max(config.keep_jobs_days);
        if days > 36_500 || config.keep_stdin_hours > 876_000 {
            return Err(ConfigError::Invalid(
                "nothing is kept longer than a hundred years",
            ));
        }
        let settings = config.orgs.values();
        let most = [
            config.max_running_per_org,
            config.max_queued_per_org,
            config.max_queued_per_node,
            config.max_jobs_per_org,
        ];
        let of_org = settings.flat_map(|o| [o.max_running, o.max_queued, o.max_queued_per_node, o.max_jobs]);
        if most.into_iter().map(Some).chain(of_org).any(|n| n == Some(0)) {
            return Err(ConfigError::Invalid(
                "a limit that lets nothing through: it must be at least 1",
            ));
        }
        if let Some(smtp) = &config.notify.smtp
            && smtp.tls == SmtpTls::None
            && smtp.password_file.is_some()
            && !smtp.is_here()
        {
            return Err(ConfigError::Invalid(
                "notify.smtp: tls = \"none\" would send the password over an open line; \"starttls\" or \"tls\" does not",
            ));
        }
        if config.lease_seconds < 40 {
            // Nodes speak every 30 s.
            return Err(ConfigError::Invalid("lease_seconds must be at least 40"));
        }
        Ok(config)
    }

    /// Reads the file; a relative `dir` is relative to the file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text)?;
        if let Some(base) = path.parent() {
            config.dir = base.join(&config.dir);
            if let Some(s3) = &mut config.s3 {
                s3.credentials = base.join(&s3.credentials);
            }
            let smtp = config.notify.smtp.as_mut().and_then(|s| s.password_file.as_mut());
            for file in config.notify.ca_file.as_mut().into_iter().chain(smtp) {
                *file = base.join(&*file);
            }
        }
        Ok(config)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub(crate) fn limits(&self) -> Limits {
        let all = OrgLimits {
            running: self.max_running_per_org,
            queued: self.max_queued_per_org,
            queued_per_node: self.max_queued_per_node,
            jobs: self.max_jobs_per_org,
        };
        let of = |own: &OrgSettings| OrgLimits {
            running: own.max_running.unwrap_or(all.running),
            queued: own.max_queued.unwrap_or(all.queued),
            queued_per_node: own.max_queued_per_node.unwrap_or(all.queued_per_node),
            jobs: own.max_jobs.unwrap_or(all.jobs),
        };
        let own = self.orgs.iter().map(|(org, own)| (org.clone(), of(own)));
        Limits::new(all, own.collect())
    }

    pub(crate) fn rate(&self) -> Rate {
        Rate {
            per_second: self.requests_per_second,
            burst: self.request_burst,
        }
    }

    pub(crate) fn retention(&self) -> Retention {
        let days = |n: u64| (n > 0).then(|| Duration::from_secs(n * 86_400));
        Retention {
            stdin: Duration::from_secs(self.keep_stdin_hours * 3600),
            logs: days(self.keep_logs_days),
            jobs: days(self.keep_jobs_days),
        }
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_is_a_configuration() {
        let text = include_str!("../../../docs/config/hub.toml");
        let config = HubConfig::parse(text).unwrap();
        assert_eq!(config.listen, default_listen());
    }

    #[test]
    fn refuses_unknown_keys_and_senseless_values() {
        for bad in [
            "dir = \"x\"\nlisten_on = 1",
            "dir = \"x\"\nlease_seconds = 5",
            "dir = \"x\"\nmax_running_per_org = 0",
            "dir = \"x\"\nrequests_per_second = 0",
            "",
        ] {
            assert!(HubConfig::parse(bad).is_err(), "{bad}");
        }
    }
}
