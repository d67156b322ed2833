//! How much of an org may be at work at once, on all of its nodes together.
//!
//! An execution takes a place before it is offered to its node, and gives it back when the node does not take it, when
//! its result has come, or when it is lost. What finds no place waits in the order in which it came; it stays queued and
//! says why. The book is memory: what is under way is read from the database when the hub starts, and what a node says
//! that it runs is entered whether there is a place or not, since no limit ends what runs. Schedules take no place: they
//! stand. Nor does what they fire, of which the hub learns by its result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lictor_proto::code::Refusal;
use lictor_proto::{Code, JobId, NodeId, OrgId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Limits;
use super::{App, Error};
use crate::store::ExecutionKey;

/// Who is at work.
#[derive(Debug)]
pub struct RunningBook {
    limits: Limits,
    orgs: Mutex<HashMap<OrgId, Arc<Places>>>,
}

/// The places of one org.
#[derive(Debug)]
struct Places {
    most: u64,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

type Work = (JobId, NodeId);

/// Who has which place. One without a place was begun before there was one; the next that gets free is its own.
#[derive(Debug, Default)]
struct Taken {
    by: HashMap<Work, Option<OwnedSemaphorePermit>>,
    /// How many have none.
    without: usize,
}

/// A place that an execution has for as long as it is offered, and keeps once its node has taken it.
#[derive(Debug)]
pub struct Turn {
    places: Arc<Places>,
    /// `None` when it is not this one's to give back.
    work: Option<Work>,
}

impl Turn {
    /// The node has it: the place is given back when the execution ends.
    pub fn keep(mut self) {
        self.work = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.places.end(&work);
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, work: &Work) {
        let mut taken = self.lock();
        match taken.by.remove(work) {
            Some(Some(place)) if taken.without > 0 => {
                if let Some(without) = taken.by.values_mut().find(|p| p.is_none()) {
                    *without = Some(place);
                }
                taken.without -= 1;
            }
            Some(None) => taken.without -= 1,
            Some(Some(_)) | None => {}
        }
    }

    fn turn(self: &Arc<Self>, work: Option<Work>) -> Turn {
        Turn {
            places: self.clone(),
            work,
        }
    }

    /// Enters `work` with this place, or finds it there.
    fn take(self: &Arc<Self>, work: Work, place: OwnedSemaphorePermit) -> Turn {
        let mut taken = self.lock();
        if taken.by.contains_key(&work) {
            return self.turn(None);
        }
        taken.by.insert(work.clone(), Some(place));
        self.turn(Some(work))
    }
}

fn work(key: &ExecutionKey) -> Work {
    (key.job_id.clone(), key.node_id.clone())
}

impl RunningBook {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            orgs: Mutex::default(),
        }
    }

    fn places(&self, org: &OrgId) -> Arc<Places> {
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = orgs.get(org) {
            return places.clone();
        }
        let most = self.limits.of(org).running;
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        let places = Arc::new(Places {
            most,
            free: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            taken: Mutex::default(),
        });
        orgs.insert(org.clone(), places.clone());
        places
    }

    /// A place, if there is one and nobody waits for it.
    ///
    /// # Errors
    /// [`Code::TooManyRunning`].
    pub fn try_begin(&self, key: &ExecutionKey) -> Result<Turn, Refusal> {
        let places = self.places(&key.org);
        if places.lock().by.contains_key(&work(key)) {
            return Ok(places.turn(None));
        }
        match places.free.clone().try_acquire_owned() {
            Ok(place) => Ok(places.take(work(key), place)),
            Err(_) => {
                let most = places.most;
                let why = format!("{most} jobs of the org are at work, as many as may at once");
                Err(Refusal::new(Code::TooManyRunning, why))
            }
        }
    }

    /// A place, as soon as it is this one's turn. `None` only if places have ended, which they do not.
    pub async fn begin(&self, key: &ExecutionKey) -> Option<Turn> {
        let places = self.places(&key.org);
        let place = places.free.clone().acquire_owned().await.ok()?;
        Some(places.take(work(key), place))
    }

    /// Whether it is at work.
    #[must_use]
    pub fn has(&self, key: &ExecutionKey) -> bool {
        self.places(&key.org).lock().by.contains_key(&work(key))
    }

    /// It is at work, whether there is a place or not.
    pub fn enter(&self, key: &ExecutionKey) {
        let places = self.places(&key.org);
        let mut taken = places.lock();
        if !taken.by.contains_key(&work(key)) {
            let place = places.free.clone().try_acquire_owned().ok();
            taken.without += usize::from(place.is_none());
            taken.by.insert(work(key), place);
        }
    }

    /// It is at work no more.
    pub fn end(&self, key: &ExecutionKey) {
        self.places(&key.org).end(&work(key));
    }
}

impl App {
    /// Enters an execution of which its node said that it runs: one that was lost, or was begun while the hub was away.
    pub(crate) async fn enter(&self, key: &ExecutionKey) {
        if self.running.has(key) {
            return;
        }
        self.running.enter(key);
        // After it was entered: a result that came in between gave nothing back.
        let is_under_way = self.store.is_under_way(key).await.unwrap_or_else(|e| {
            tracing::error!(error = %Error::from(e).chain(), "whether a job is under way was not read");
            false
        });
        if !is_under_way {
            self.running.end(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::OrgLimits;
    use super::*;

    fn book(running: u64) -> RunningBook {
        let all = OrgLimits {
            running,
            queued: 1,
            queued_per_node: 1,
            jobs: 1,
        };
        RunningBook::new(Limits::new(all, HashMap::new()))
    }

    fn key(n: u8) -> ExecutionKey {
        let digest = lictor_proto::Digest([n; 32]);
        let org = OrgId::from_root(&lictor_proto::Digest([0; 32]));
        let node_id = NodeId::derive(&org, &[1; 32]);
        ExecutionKey {
            org,
            job_id: JobId::from_digest(&digest),
            node_id,
        }
    }

    #[test]
    fn a_place_is_given_back_when_the_node_does_not_take_it_and_when_it_ends() {
        let book = book(1);
        let turn = book.try_begin(&key(1)).unwrap();
        assert_eq!(book.try_begin(&key(2)).unwrap_err().code, Code::TooManyRunning);
        drop(turn);
        book.try_begin(&key(2)).unwrap().keep();
        assert!(book.try_begin(&key(1)).is_err());
        // Offered again, since its link broke: it has its place.
        drop(book.try_begin(&key(2)).unwrap());
        assert!(book.try_begin(&key(1)).is_err());
        book.end(&key(2));
        book.try_begin(&key(1)).unwrap().keep();
    }

    #[test]
    fn a_result_that_comes_before_the_answer_to_the_offer_leaves_no_place_taken() {
        let book = book(1);
        let turn = book.try_begin(&key(1)).unwrap();
        book.end(&key(1));
        turn.keep();
        assert!(book.try_begin(&key(2)).is_ok());
    }

    #[test]
    fn what_was_begun_without_a_place_gets_the_next_one() {
        let book = book(1);
        book.enter(&key(1));
        book.enter(&key(2));
        book.end(&key(1));
        assert!(book.try_begin(&key(3)).is_err(), "one is still at work");
        book.end(&key(2));
        assert!(book.try_begin(&key(3)).is_ok());
    }
}
