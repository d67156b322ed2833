//! What a warden is started with.

use std::path::PathBuf;
use std::time::Duration;

use lictor_rootfs::Bounds;

use crate::clock::Clock;
use crate::downloads::Downloader;
use crate::pulls::Puller;

/// The settings of a warden. [`Config::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node directory.
    pub dir: PathBuf,
    /// Jobs that may run at once.
    pub max_jobs: usize,
    /// Verified offers that may wait for one of these places.
    pub max_queued: usize,
    /// How long such an offer waits before it is given back.
    pub queue_wait: Duration,
    /// Jobs that may wait for approvals.
    pub max_waiting: usize,
    /// Results that may wait for an acknowledgement before nothing new is taken.
    pub max_unacknowledged: usize,
    /// How long a result waits for an acknowledgement before it is moved to the archive directory.
    pub keep_results: Duration,
    /// Bytes that the archive directory may have; beyond that the oldest result goes.
    pub archive_bytes: u64,
    /// After how long a result is told again that the hub has not acknowledged; longer each time, up to five minutes.
    pub tell_again: Duration,
    /// How much of root filesystems is kept.
    pub rootfs: Bounds,
    /// What fetches root filesystems that the law lets this node fetch; without it nothing does.
    pub puller: Option<Puller>,
    /// What downloads files that jobs put here from URLs; without it nothing does.
    pub downloader: Option<Downloader>,
    /// How long a kept sandbox must have been seen to be over before it goes: time enough for a clock to be put right after
    /// the machine's start.
    pub kept_patience: Duration,
    /// How often the feed says what the node is.
    pub heartbeat: Duration,
    /// The journal is rotated when it has grown by this many bytes beyond twice its live content.
    pub rotate_after: u64,
    /// What documents are judged by.
    pub clock: Clock,
}

impl Config {
    /// The defaults, for the node in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_jobs: 64,
            max_queued: 256,
            queue_wait: Duration::from_secs(5),
            max_waiting: 1024,
            max_unacknowledged: 4096,
            keep_results: Duration::from_secs(7 * 24 * 3600),
            archive_bytes: 1 << 30,
            tell_again: Duration::from_secs(30),
            rootfs: Bounds {
                bytes: 20 << 30,
                unused: Duration::from_secs(30 * 24 * 3600),
            },
            puller: None,
            downloader: None,
            kept_patience: Duration::from_secs(600),
            heartbeat: Duration::from_secs(30),
            rotate_after: 4 * 1024 * 1024,
            clock: Clock::default(),
        }
    }
}
