//! How much a job may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{duration, optional_size, size};

/// Limits of one job; what is `None` is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Wall time when the job names none.
    #[serde(default = "default_timeout", with = "duration")]
    pub timeout: Duration,
    /// The most that a job may ask for.
    #[serde(default = "default_max_timeout", with = "duration")]
    pub max_timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    #[serde(default = "default_grace", with = "duration")]
    pub grace: Duration,
    /// Bytes of output kept, both streams together: one half from the start, the other from the end.
    #[serde(default = "default_keep", with = "size")]
    pub keep: u64,
    /// What happens beyond that.
    #[serde(default)]
    pub overflow: Overflow,
    /// Memory of the whole tree, in bytes; where no cgroup holds that, address space of one process.
    #[serde(default, with = "optional_size")]
    pub memory: Option<u64>,
    /// Processes and threads.
    #[serde(default)]
    pub pids: Option<u64>,
    /// CPU seconds of one process.
    #[serde(default)]
    pub cpu_seconds: Option<u64>,
    /// Thousandths of a processor that the whole tree has, 10 to 10,000,000: 1500 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Bytes that the whole tree reads from each disk in a second, 4 KiB or more.
    #[serde(default, with = "optional_size", skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_s: Option<u64>,
    /// Bytes that it writes to each disk in a second, 4 KiB or more.
    #[serde(default, with = "optional_size", skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_s: Option<u64>,
    /// Largest file that may be written, in bytes.
    #[serde(default, with = "optional_size")]
    pub file_size: Option<u64>,
    /// Bytes that the job may have in its own places at once, `/workspace`, `/tmp` and `/dev/shm` together; they are
    /// memory then.
    #[serde(default, with = "optional_size", skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Files, directories and links there; goes with `disk`, and is a quarter of its KiB when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Open files of one process.
    #[serde(default)]
    pub open_files: Option<u64>,
}

/// What happens to output beyond `keep`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// The middle is dropped for whoever cannot keep up; the job never waits.
    #[default]
    Drop,
    /// The job waits until what it wrote has been read.
    Throttle,
}

fn default_timeout() -> Duration {
    Duration::from_secs(600)
}
fn default_max_timeout() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn default_grace() -> Duration {
    Duration::from_secs(5)
}
fn default_keep() -> u64 {
    16 * 1024 * 1024
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: default_timeout(),
            max_timeout: default_max_timeout(),
            grace: default_grace(),
            keep: default_keep(),
            overflow: Overflow::default(),
            memory: None,
            pids: None,
            cpu_seconds: None,
            cpu_millis: None,
            read_bytes_per_s: None,
            write_bytes_per_s: None,
            file_size: None,
            disk: None,
            files: None,
            open_files: None,
        }
    }
}

impl Limits {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.timeout > self.max_timeout {
            return Err("timeout is over limits.max_timeout".into());
        }
        // What the kernel gives out in one period, from its smallest share to more than any machine has.
        if self.cpu_millis.is_some_and(|m| !(10..=10_000_000).contains(&m)) {
            return Err("cpu_millis is not from 10 to 10000000".into());
        }
        self.validate_disk()?;
        let rates = [
            ("read_bytes_per_s", self.read_bytes_per_s),
            ("write_bytes_per_s", self.write_bytes_per_s),
        ];
        // Less would be no limit but a standstill: a page at a time is the least that is read or written.
        let low = rates.iter().find(|(_, rate)| rate.is_some_and(|n| n < 4096));
        low.map_or(Ok(()), |(name, _)| Err(format!("{name} is less than 4096")))
    }

    /// A disk is memory: of the job, which it must fit into, and each file of it takes about 1 KiB besides its bytes.
    fn validate_disk(&self) -> Result<(), String> {
        let Some(disk) = self.disk else {
            return self.files.map_or(Ok(()), |_| Err("files goes with disk".into()));
        };
        let files = self.files.unwrap_or(disk / 4096);
        if disk < 65_536 {
            return Err("disk is less than 64KiB".into());
        }
        if files == 0 {
            return Err("files is 0".into());
        }
        let all = files.checked_mul(1024).and_then(|n| n.checked_add(disk));
        let memory = self
            .memory
            .ok_or("disk goes with memory, which it is a part of")?;
        match all.is_some_and(|n| n <= memory) {
            true => Ok(()),
            false => {
                Err("disk, and 1 KiB for each of files, is more than memory, which it is a part of".into())
            }
        }
    }
}
