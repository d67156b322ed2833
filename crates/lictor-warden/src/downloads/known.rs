//! Who waits for which download, and whose turn it is.
//!
//! ```text
//!   asked --> queues <--> comes --> ended: all that waited for it are judged again
//!                ^          |
//!                |          '--its turn is over, and others know another way--> reserved for who waits longest --nobody is left--> ended
//!                '-------------------------------------------------------------------'
//! ```

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::agent::Offer;
use lictor_proto::code::Refusal;
use lictor_proto::doc::FileUrl;
use lictor_proto::{Code, Digest, JobId, Timestamp};

use super::tries::Tally;
use super::{End, NotHere, Wanted};
use crate::offer::order::weight;

/// Jobs that wait for a download; others are told to come again.
const WAITING: usize = 256;
/// Bytes of all of them.
const BYTES: usize = 32 * 1024 * 1024;

/// What is said of one that has no turn.
pub(super) const QUEUES: &str = ": it waits for its turn, since as many come at once as may";

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By what comes.
    under_way: BTreeMap<Digest, UnderWay>,
    /// Jobs that are to be judged again when something has come, or will not.
    waiting: BTreeMap<Digest, Waiting>,
    /// Jobs for which it has failed for good.
    failed: BTreeMap<Digest, (Timestamp, Refusal)>,
    /// What has come of the turns of jobs that let others have theirs. They are all counted: else two servers that bring nothing
    /// would have their turns one after the other for ever.
    tallies: BTreeMap<Digest, Tally>,
    /// The place of whoever waits next.
    next: u64,
}

#[derive(Debug)]
struct UnderWay {
    /// For whom, and so from where.
    job: Digest,
    stage: Stage,
    failed: usize,
    why: Option<Refusal>,
}

/// How a download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its job is judged again, and then it begins.
    Reserved,
    /// It has no turn.
    Queues,
    /// It has one.
    Comes,
}

/// Who goes on with a download that has had its turn.
#[derive(Debug)]
pub(super) enum Next {
    /// This job, when it may: it is to be judged again.
    Job(Digest, Offer),
    /// Somebody has begun, or it has ended.
    Begun,
    /// Nobody is left that it could be passed on to.
    Nobody,
}

#[derive(Debug)]
struct Waiting {
    content: Digest,
    url: FileUrl,
    offer: Offer,
    /// Who has waited longer has less.
    place: u64,
}

impl Known {
    /// What a job is told whose file is not here. `Ok` when it is to be fetched from now on, by whoever asked.
    pub(super) fn asked(&mut self, wanted: &Wanted, offer: &Offer) -> Result<(), NotHere> {
        let digest = wanted.job.digest();
        if let Some((_, why)) = self.failed.remove(&digest) {
            return Err(NotHere::Failed(why));
        }
        if !self.keep(digest, wanted.content.sha256, &wanted.url, offer) {
            let why = "too many jobs wait for downloads";
            return Err(NotHere::Later(Refusal::new(Code::TooManyJobs, why)));
        }
        match self.under_way.get(&wanted.content.sha256) {
            Some(other) if other.job != digest || other.stage != Stage::Reserved => {
                Err(NotHere::Later(other.told(wanted)))
            }
            _ => {
                self.stands_for(wanted.content.sha256, digest, Stage::Queues);
                Ok(())
            }
        }
    }

    fn stands_for(&mut self, content: Digest, job: Digest, stage: Stage) {
        let under_way = UnderWay {
            job,
            stage,
            failed: 0,
            why: None,
        };
        self.under_way.insert(content, under_way);
    }

    /// Keeps a job that waits, if there is room for it.
    fn keep(&mut self, job: Digest, content: Digest, url: &FileUrl, offer: &Offer) -> bool {
        let others = self.waiting.iter().filter(|(id, _)| **id != job);
        let (number, bytes) = others.fold((0, 0), |(n, bytes), (_, w)| (n + 1, bytes + weight(&w.offer)));
        let fits = number < WAITING && bytes + weight(offer) <= BYTES;
        if fits {
            let before = self.waiting.get(&job).map(|w| w.place);
            let place = before.unwrap_or_else(|| self.place());
            let (url, offer) = (url.clone(), offer.clone());
            let waiting = Waiting {
                content,
                url,
                offer,
                place,
            };
            self.waiting.insert(job, waiting);
        }
        fits
    }

    fn place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What comes.
    pub(super) fn coming(&self) -> BTreeSet<Digest> {
        self.under_way.keys().copied().collect()
    }

    /// Says how the download stands.
    pub(super) fn stands(&mut self, content: &Digest, stage: Stage) {
        if let Some(under_way) = self.under_way.get_mut(content) {
            under_way.stage = stage;
        }
    }

    /// Says why it broke off.
    pub(super) fn broke_off(&mut self, content: &Digest, why: Refusal) {
        if let Some(under_way) = self.under_way.get_mut(content) {
            under_way.failed += 1;
            under_way.why = Some(why);
        }
    }

    /// Whether another job waits for the same from elsewhere.
    pub(super) fn has_another_way(&self, wanted: &Wanted) -> bool {
        self.other_ways(wanted).next().is_some()
    }

    fn other_ways(&self, wanted: &Wanted) -> impl Iterator<Item = (&Digest, &Waiting)> {
        let (job, content, url) = (wanted.job.digest(), wanted.content.sha256, wanted.url.clone());
        let others = self.waiting.iter();
        others.filter(move |(id, w)| **id != job && w.content == content && w.url != url)
    }

    /// The job that fetches next what this one's turn did not suffice for, to be judged again: this one itself, when all the
    /// others that waited may not.
    pub(super) fn pass_on(&mut self, wanted: &Wanted) -> Next {
        let (own, content) = (wanted.job.digest(), wanted.content.sha256);
        match self.under_way.get(&content) {
            Some(now) if now.job == own || now.stage == Stage::Reserved => {}
            _ => return Next::Begun,
        }
        let first = self.other_ways(wanted).min_by_key(|(_, w)| w.place);
        let job = first.map_or(own, |(job, _)| *job);
        let Some(taken) = self.waiting.remove(&job) else {
            return Next::Nobody;
        };
        // Behind all that wait by now.
        let place = self.place();
        if let Some(own) = self.waiting.get_mut(&own) {
            own.place = place;
        }
        self.stands_for(content, job, Stage::Reserved);
        Next::Job(job, taken.offer)
    }

    /// Takes what has come of a job's turns so far.
    pub(super) fn tally(&mut self, job: &Digest) -> Tally {
        self.tallies.remove(job).unwrap_or_default()
    }

    /// Keeps it until the job's next turn.
    pub(super) fn keep_tally(&mut self, job: Digest, tally: Tally) {
        self.tallies.insert(job, tally);
    }

    /// Whether the download was begun that was reserved for this job.
    pub(super) fn has_begun(&self, content: &Digest, job: &Digest) -> bool {
        let under_way = self.under_way.get(content);
        under_way.is_some_and(|u| u.job != *job || u.stage != Stage::Reserved)
    }

    /// Lets go of what was kept for jobs that are over.
    pub(super) fn forget_failed(&mut self, now: Timestamp) {
        self.failed.retain(|_, (expires_at, _)| *expires_at > now);
        let waiting = &self.waiting;
        self.tallies.retain(|job, _| waiting.contains_key(job));
    }

    /// Forgets a download; gives the jobs that are to be judged again.
    pub(super) fn ended(&mut self, wanted: &Wanted, end: &End) -> Vec<Offer> {
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
            None if self.stage == Stage::Queues => Refusal::new(Code::Downloading, format!("{from}{QUEUES}")),
            None => Refusal::new(Code::Downloading, from),
            // Another code, so that whoever waits is told.
            Some(why) => Refusal::new(
                Code::DownloadFailed,
                format!("{from}: it is tried again ({}): {}", self.failed, why.message),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn keep(known: &mut Known, job: usize, content: usize, offer: &Offer) -> bool {
        let url = "https://a.example.org/file".parse().expect("a URL");
        known.keep(id(job), id(content), &url, offer)
    }

    #[test]
    fn what_waits_has_a_bound_in_number_and_bytes() {
        let mut known = Known::default();
        for n in 0..WAITING {
            assert!(keep(&mut known, n, 0, &offer(10)), "{n}");
        }
        assert!(!keep(&mut known, WAITING, 0, &offer(10)), "one too many");
        assert!(keep(&mut known, 0, 0, &offer(10)), "it is here already");
        let mut known = Known::default();
        assert!(keep(&mut known, 1, 0, &offer(BYTES - 10)));
        assert!(!keep(&mut known, 2, 0, &offer(11)), "too large");
        assert_eq!(weight(&offer(11)), 11);
    }

    #[test]
    fn who_asks_again_keeps_its_place() {
        let mut known = Known::default();
        for job in [1, 2, 1] {
            assert!(keep(&mut known, job, 0, &offer(1)));
        }
        assert!(known.waiting[&id(1)].place < known.waiting[&id(2)].place);
    }

    #[test]
    fn all_that_wait_for_what_came_are_judged_again_and_no_others() {
        let mut known = Known::default();
        for (job, content) in [(1, 10), (2, 10), (3, 11)] {
            assert!(keep(&mut known, job, content, &offer(job)));
        }
        known.stands_for(id(10), id(1), Stage::Comes);
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

    #[test]
    fn what_a_turn_came_to_is_kept_as_long_as_its_job_waits() {
        let mut known = Known::default();
        assert!(keep(&mut known, 1, 10, &offer(1)));
        let mut tally = Tally::default();
        tally.count(0, 0, Code::DownloadFailed);
        for job in [1, 2] {
            known.keep_tally(id(job), tally);
        }
        known.forget_failed(Timestamp::from_millis(0));
        assert!(known.tally(&id(1)).is_enough(1).is_some(), "it begins anew");
        assert!(known.tally(&id(1)).is_enough(1).is_none(), "it was taken");
        assert!(known.tallies.is_empty(), "of a job that is over");
    }
}
