//! Files that jobs put on this node and that it fetches itself: when one is fetched, and what its job is told meanwhile.
//!
//! ```text
//!   permitted, and not here --> under way --> here --judged again--> it runs
//!                                  |  ^ '----> failed for good ----> a receipt
//!                         broke off'--'again after a while, from where it was
//! ```
//!
//! The warden speaks with no server. A process of the agent's own program makes each request
//! ([`lictor_sandbox::Errand`]), without keys, files or a network of its own, through the egress proxy, by the rules that the
//! profile's `fetch_from` is. What it writes is counted and hashed here and goes to a spool of its own, into which no hub
//! can put anything.
//!
//! # Invariants
//! - Nothing is asked for but what a signed job names, after policy has permitted that job under the law held then. When the
//!   law changes, the job expires, or somebody cancels it, it ends; what may go on is judged anew first.
//! - A waiting job has no place among those that run.
//! - However slow a server is, it holds up nobody else for longer than a turn: neither other files, nor the same one from elsewhere.
//!   However often it breaks off, that is one turn for the same from elsewhere.
//! - No more is kept than the job is signed for, and nothing is put anywhere before all of it has the signed digest.

mod attempt;
mod known;
mod tries;

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::Offer;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{FileUrl, Job, StdinBytes};
use lictor_proto::egress::Rules;
use lictor_proto::{Code, JobId, Timestamp};
use lictor_sandbox::StdinSource;
use lictor_trust::Verified;
use tokio::sync::Semaphore;

use crate::core::Core;
use crate::law::Held;
use crate::spool::stdin::StdinSpool;
use known::{Known, Next, QUEUES};

/// What downloads: arguments of the agent's own program, and how much of it there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloader {
    /// They come before the order.
    pub arguments: Vec<String>,
    /// How many at once.
    pub at_once: usize,
    /// How often one that brings nothing new is tried before its job is refused.
    pub tries: usize,
    /// In so much time at least 64 KiB have to come, or it counts as broken off.
    pub stall: Duration,
    /// After so much time one lets others have its turn, if any wait.
    pub turn: Duration,
    /// Whom to trust besides those whom the machine does: certificates as PEM.
    pub certificates: Option<String>,
}

/// What is known of downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    /// What has come, and what is coming.
    pub(crate) spool: Mutex<StdinSpool>,
    turns: Semaphore,
    /// How many wait for one.
    queue: AtomicUsize,
    known: Mutex<Known>,
}

/// One download: of what, from where, for whom, and by which law.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) job: Verified<Job>,
    pub(crate) url: FileUrl,
    pub(crate) content: StdinBytes,
    pub(crate) rules: Rules,
    pub(crate) law: Arc<Held>,
}

/// Why a permitted job has no file yet.
#[derive(Debug)]
pub(crate) enum NotHere {
    /// It comes; the job is judged again then.
    Later(Refusal),
    /// It does not.
    Failed(Refusal),
}

/// How a download ended.
#[derive(Debug)]
enum End {
    /// The file is in the spool.
    Here,
    /// It will not come for this job.
    Failed(Refusal),
    /// The job is to be judged again first.
    Unwanted,
    /// It has had its turn, and other jobs want the same from elsewhere.
    Yields,
}

impl Downloads {
    pub(crate) fn new(spool: StdinSpool, downloader: Option<&Downloader>) -> Self {
        Self {
            spool: Mutex::new(spool),
            turns: Semaphore::new(downloader.map_or(1, |d| d.at_once)),
            queue: AtomicUsize::new(0),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spool(&self) -> MutexGuard<'_, StdinSpool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of larger files that are still to come.
    pub(crate) fn coming(&self) -> u64 {
        self.spool().coming()
    }

    /// Lets go of what nobody needs any more.
    pub(crate) fn tidy(&self, now: Timestamp) {
        let coming = self.known().coming();
        self.spool().tidy_but(|content| coming.contains(content));
        self.known().forget_failed(now);
    }
}

impl Core {
    /// The file of a job that policy has permitted. When it is not here, it is fetched from now on.
    pub(crate) fn downloaded(
        self: &Arc<Self>,
        wanted: Wanted,
        offer: &Offer,
    ) -> Result<StdinSource, NotHere> {
        match self.downloads.spool().get(&wanted.content) {
            Ok(file) => return Ok(StdinSource::File(file)),
            Err(missing) if missing.code == Code::StdinMissing => {}
            Err(other) => return Err(NotHere::Later(other)),
        }
        if self.config.downloader.is_none() {
            let why = "this agent downloads nothing";
            return Err(NotHere::Failed(Refusal::new(Code::Unenforceable, why)));
        }
        self.downloads.known().asked(&wanted, offer)?;
        let queues = match self.downloads.turns.available_permits() {
            0 => QUEUES,
            _ => "",
        };
        let (size, from) = (wanted.content.size, wanted.url.authority());
        let told = Refusal::new(Code::Downloading, format!("{size} bytes from {from}{queues}"));
        self.tasks.spawn(self.clone().download(wanted));
        Err(NotHere::Later(told))
    }

    /// After so much time a download lets others have their turn.
    fn turn(&self) -> Duration {
        self.config.downloader.as_ref().map_or(Duration::ZERO, |d| d.turn)
    }

    async fn download(self: Arc<Self>, wanted: Wanted) {
        let id = JobId::from_digest(&wanted.job.digest());
        tracing::info!(job = %id, url = %wanted.url, "a file is being downloaded");
        let end = wanted.come(&self).await;
        let event = match &end {
            End::Here => Some(Event::new(EventType::FileDownloaded)),
            End::Failed(why) => Some(Event::new(EventType::DownloadFailed).refused(why)),
            End::Unwanted | End::Yields => None,
        };
        if let Some(event) = event {
            let event = event
                .with_id("job", &wanted.job.digest())
                .with_id("job_id", &id)
                .with("url", wanted.url.as_str())
                .with_id("sha256", &wanted.content.sha256)
                .with("size", wanted.content.size);
            self.audit_always(event).await;
        }
        if matches!(end, End::Yields) {
            return self.pass_on(&wanted).await;
        }
        self.over(&wanted, &end);
    }

    /// Nobody goes on with it: all that have waited for it are judged again.
    fn over(self: &Arc<Self>, wanted: &Wanted, end: &End) {
        if !matches!(end, End::Here) {
            self.downloads.spool().forsaken(&wanted.content.sha256);
        }
        let again = self.downloads.known().ended(wanted, end);
        if !self.is_closed() {
            for offer in again {
                self.tasks.spawn(judged_again(self.clone(), offer));
            }
        }
    }

    /// Lets another job fetch the same from elsewhere, from where it is: whoever has waited longest and may.
    async fn pass_on(self: Arc<Self>, wanted: &Wanted) {
        loop {
            let next = self.downloads.known().pass_on(wanted);
            let (job, offer) = match next {
                _ if self.is_closed() => return,
                Next::Begun => return,
                // Whoever waits for it from the same place is judged again, like all others at an end.
                Next::Nobody => return self.over(wanted, &End::Unwanted),
                Next::Job(job, offer) => (job, offer),
            };
            judged_again(self.clone(), offer).await;
            if self.downloads.known().has_begun(&wanted.content.sha256, &job) {
                return;
            }
        }
    }
}

/// Offers a job again. In a box: what judges a job may begin a download, and a download ends with this.
fn judged_again(core: Arc<Core>, offer: Offer) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        // Whatever comes of it is in the journal and follows as events.
        let reply = crate::offer::offer(core, offer).await;
        tracing::debug!(?reply, "a job that waited for a download was judged again");
    })
}
