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
//! - No more is kept than the job is signed for, and nothing is put anywhere before all of it has the signed digest.

mod attempt;
mod tries;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::Offer;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{FileUrl, Job, StdinBytes};
use lictor_proto::egress::Rules;
use lictor_proto::{Code, Digest, JobId, Timestamp};
use lictor_sandbox::StdinSource;
use lictor_trust::Verified;
use tokio::sync::Semaphore;

use crate::core::Core;
use crate::law::Held;
use crate::offer::order::weight;
use crate::spool::stdin::StdinSpool;

/// Jobs that wait for a download; others are told to come again.
const WAITING: usize = 256;
/// Bytes of all of them.
const BYTES: usize = 32 * 1024 * 1024;

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
    /// Whom to trust besides those whom the machine does: certificates as PEM.
    pub certificates: Option<String>,
}

/// What is known of downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    /// What has come, and what is coming.
    pub(crate) spool: Mutex<StdinSpool>,
    turns: Semaphore,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By what comes.
    under_way: BTreeMap<Digest, UnderWay>,
    /// Jobs that are to be judged again when something has come, or will not.
    waiting: BTreeMap<Digest, Waiting>,
    /// Jobs for which it has failed for good.
    failed: BTreeMap<Digest, (Timestamp, Refusal)>,
}

#[derive(Debug)]
struct UnderWay {
    job: Digest,
    failed: usize,
    why: Option<Refusal>,
}

#[derive(Debug)]
struct Waiting {
    content: Digest,
    offer: Offer,
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
}

impl Downloads {
    pub(crate) fn new(spool: StdinSpool, downloader: Option<&Downloader>) -> Self {
        Self {
            spool: Mutex::new(spool),
            turns: Semaphore::new(downloader.map_or(1, |d| d.at_once)),
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
        let coming: BTreeSet<Digest> = self.known().under_way.keys().copied().collect();
        self.spool().tidy_but(|content| coming.contains(content));
        self.known().forget_failed(now);
    }
}

impl Known {
    /// What a job is told whose file is not here. `Ok` when it is to be fetched from now on, by whoever asked.
    fn asked(&mut self, wanted: &Wanted, offer: &Offer) -> Result<(), NotHere> {
        let digest = wanted.job.digest();
        if let Some((_, why)) = self.failed.remove(&digest) {
            return Err(NotHere::Failed(why));
        }
        if !self.keep(digest, wanted.content.sha256, offer) {
            let why = "too many jobs wait for downloads";
            return Err(NotHere::Later(Refusal::new(Code::TooManyJobs, why)));
        }
        match self.under_way.get(&wanted.content.sha256) {
            Some(under_way) => Err(NotHere::Later(under_way.told(wanted))),
            None => {
                let under_way = UnderWay {
                    job: digest,
                    failed: 0,
                    why: None,
                };
                self.under_way.insert(wanted.content.sha256, under_way);
                Ok(())
            }
        }
    }

    /// Keeps a job that waits, if there is room for it.
    fn keep(&mut self, job: Digest, content: Digest, offer: &Offer) -> bool {
        let others = self.waiting.iter().filter(|(id, _)| **id != job);
        let (number, bytes) = others.fold((0, 0), |(n, bytes), (_, w)| (n + 1, bytes + weight(&w.offer)));
        let fits = number < WAITING && bytes + weight(offer) <= BYTES;
        if fits {
            let offer = offer.clone();
            self.waiting.insert(job, Waiting { content, offer });
        }
        fits
    }

    fn forget_failed(&mut self, now: Timestamp) {
        self.failed.retain(|_, (expires_at, _)| *expires_at > now);
    }

    /// Forgets a download; gives the jobs that are to be judged again.
    fn ended(&mut self, wanted: &Wanted, end: &End) -> Vec<Offer> {
        if let End::Failed(why) = end {
            let told = (wanted.job.expires_at, why.clone());
            self.failed.insert(wanted.job.digest(), told);
        }
        self.let_go(&wanted.content.sha256)
    }

    fn let_go(&mut self, content: &Digest) -> Vec<Offer> {
        self.under_way.remove(content);
        let theirs = self.waiting.iter().filter(|(_, w)| w.content == *content);
        let theirs: Vec<Digest> = theirs.map(|(job, _)| *job).collect();
        let taken = theirs.iter().filter_map(|job| self.waiting.remove(job));
        taken.map(|w| w.offer).collect()
    }
}

impl UnderWay {
    fn told(&self, wanted: &Wanted) -> Refusal {
        let from = format!("{} bytes from {}", wanted.content.size, wanted.url.authority());
        match &self.why {
            _ if self.job != wanted.job.digest() => {
                let id = JobId::from_digest(&self.job);
                Refusal::new(Code::Downloading, format!("the same content comes for {id}"))
            }
            None => Refusal::new(Code::Downloading, from),
            // Another code, so that whoever waits is told.
            Some(why) => Refusal::new(
                Code::DownloadFailed,
                format!("{from}: it is tried again ({}): {}", self.failed, why.message),
            ),
        }
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
        let told = Refusal::new(
            Code::Downloading,
            format!("{} bytes from {}", wanted.content.size, wanted.url.authority()),
        );
        self.tasks.spawn(self.clone().download(wanted));
        Err(NotHere::Later(told))
    }

    async fn download(self: Arc<Self>, wanted: Wanted) {
        let id = JobId::from_digest(&wanted.job.digest());
        tracing::info!(job = %id, url = %wanted.url, "a file is being downloaded");
        let end = wanted.come(&self).await;
        let event = match &end {
            End::Here => Some(Event::new(EventType::FileDownloaded)),
            End::Failed(why) => Some(Event::new(EventType::DownloadFailed).refused(why)),
            End::Unwanted => None,
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
        if !matches!(end, End::Here) {
            self.downloads.spool().forsaken(&wanted.content.sha256);
        }
        let again = self.downloads.known().ended(&wanted, &end);
        if !self.is_closed() {
            for offer in again {
                self.tasks.spawn(judged_again(self.clone(), offer));
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

#[cfg(test)]
mod tests {
    use lictor_proto::agent::Offer;
    use lictor_proto::code::Refusal;
    use lictor_proto::{Code, Digest, Timestamp};

    use super::{BYTES, Known, UnderWay, WAITING, Waiting, weight};

    fn offer(bytes: usize) -> Offer {
        Offer {
            job: "x".repeat(bytes),
            approvals: Vec::new(),
            releases: Vec::new(),
            secrets: Vec::new(),
        }
    }

    fn id(n: usize) -> Digest {
        Digest::of(n.to_string().as_bytes())
    }

    #[test]
    fn what_waits_has_a_bound_in_number_and_bytes() {
        let mut known = Known::default();
        for n in 0..WAITING {
            assert!(known.keep(id(n), id(0), &offer(10)), "{n}");
        }
        assert!(!known.keep(id(WAITING), id(0), &offer(10)), "one too many");
        assert!(known.keep(id(0), id(0), &offer(10)), "it is here already");
        let mut known = Known::default();
        assert!(known.keep(id(1), id(0), &offer(BYTES - 10)));
        assert!(!known.keep(id(2), id(0), &offer(11)), "too large");
        assert_eq!(weight(&offer(11)), 11);
    }

    #[test]
    fn all_that_wait_for_what_came_are_judged_again_and_no_others() {
        let mut known = Known::default();
        for (job, content) in [(1, 10), (2, 10), (3, 11)] {
            known.waiting.insert(
                id(job),
                Waiting {
                    content: id(content),
                    offer: offer(job),
                },
            );
        }
        let under_way = UnderWay {
            job: id(1),
            failed: 0,
            why: None,
        };
        known.under_way.insert(id(10), under_way);
        let mut again: Vec<usize> = known.let_go(&id(10)).iter().map(|o| o.job.len()).collect();
        again.sort_unstable();
        assert_eq!(again, [1, 2]);
        assert!(known.under_way.is_empty() && known.waiting.len() == 1);
    }

    #[test]
    fn a_failure_is_told_once_and_forgotten_with_its_job() {
        let mut known = Known::default();
        let why = Refusal::plain(Code::DownloadFailed);
        known
            .failed
            .insert(id(1), (Timestamp::from_millis(5), why.clone()));
        known.failed.insert(id(2), (Timestamp::from_millis(9), why));
        known.forget_failed(Timestamp::from_millis(5));
        assert!(known.failed.len() == 1 && known.failed.contains_key(&id(2)));
    }
}
