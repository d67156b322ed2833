//! Memory for bytes on their way: every connection has a little, and what is more has to be had from the job's share and
//! from what there is for all jobs.
//!
//! ```text
//! least, always ── + as much of `most` as both the job's share and the whole have left ──▶ Piece ── dropped: given back
//! ```
//!
//! A piece is held while its bytes are written. Who waits for bytes to come holds nothing, so a connection that is
//! silent costs no buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What every connection may have in hand each way.
pub(crate) const LEAST: usize = 8 * 1024;
/// The most that is moved at once.
pub(crate) const MOST: usize = 256 * 1024;
/// One job's share beyond what is always there.
const OF_A_JOB: usize = 4 * 1024 * 1024;
/// All jobs' together.
const OF_ALL: usize = 64 * 1024 * 1024;

/// An amount that is taken from and given back to.
#[derive(Debug)]
struct Stock(AtomicUsize);

impl Stock {
    /// Takes up to `wanted`.
    fn take(&self, wanted: usize) -> usize {
        let before = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| Some(left - left.min(wanted)));
        before.unwrap_or(0).min(wanted)
    }

    fn give_back(&self, amount: usize) {
        self.0.fetch_add(amount, Relaxed);
    }
}

/// What all jobs share.
#[derive(Debug, Clone)]
pub struct Room(Arc<Stock>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Stock(AtomicUsize::new(OF_ALL))))
    }
}

/// One job's.
#[derive(Debug)]
pub(crate) struct JobRoom {
    own: Stock,
    all: Room,
}

impl JobRoom {
    pub(crate) fn new(all: Room) -> Self {
        Self {
            own: Stock(AtomicUsize::new(OF_A_JOB)),
            all,
        }
    }

    /// Room for as much as can be had.
    pub(crate) fn piece(&self) -> Piece<'_> {
        let own = self.own.take(MOST - LEAST);
        let extra = self.all.0.take(own);
        self.own.give_back(own - extra);
        Piece { room: self, extra }
    }
}

/// Room for some bytes.
#[derive(Debug)]
pub(crate) struct Piece<'r> {
    room: &'r JobRoom,
    extra: usize,
}

impl Piece<'_> {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        LEAST + self.extra
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.room.own.give_back(self.extra);
        self.room.all.0.give_back(self.extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_within_the_jobs_share_and_comes_back() {
        let job = JobRoom::new(Room::default());
        let held: Vec<Piece<'_>> = (0..100).map(|_| job.piece()).collect();
        let sum: usize = held.iter().map(Piece::len).sum();
        assert_eq!(sum, 100 * LEAST + OF_A_JOB);
        assert_eq!(job.piece().len(), LEAST, "there is always a little");
        drop(held);
        assert_eq!(job.piece().len(), MOST);
    }

    #[test]
    fn many_jobs_stay_within_what_there_is_for_all() {
        let all = Room::default();
        let jobs: Vec<JobRoom> = (0..40).map(|_| JobRoom::new(all.clone())).collect();
        let held: Vec<Piece<'_>> = jobs.iter().flat_map(|job| (0..20).map(|_| job.piece())).collect();
        let sum: usize = held.iter().map(Piece::len).sum();
        assert_eq!(sum, 800 * LEAST + OF_ALL);
        drop(held);
        assert_eq!(jobs[0].piece().len(), MOST);
    }
}
