//! What a job and its connections move, and whether they still do.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lictor_proto::egress::{Limits, Totals};

use crate::room::{JobRoom, Room};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Out of the sandbox.
    Up,
    /// Into it.
    Down,
}

/// One job's account.
#[derive(Debug)]
pub(crate) struct Ledger {
    left_up: AtomicU64,
    left_down: AtomicU64,
    attempts: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
    limits: Limits,
    room: JobRoom,
}

impl Ledger {
    pub(crate) fn new(limits: Limits, room: Room) -> Self {
        Self {
            room: JobRoom::new(room),
            left_up: AtomicU64::new(limits.bytes_up),
            left_down: AtomicU64::new(limits.bytes_down),
            attempts: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            limits,
        }
    }

    /// The number of a new attempt, from 1.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Relaxed) + 1
    }

    /// Whether all attempts have been made.
    pub(crate) fn is_spent(&self) -> bool {
        self.attempts.load(Relaxed) >= self.limits.attempts
    }

    /// Whether no byte may be moved any more, one way or the other.
    pub(crate) fn is_empty(&self) -> bool {
        self.left_up.load(Relaxed) == 0 || self.left_down.load(Relaxed) == 0
    }

    pub(crate) fn count_allowed(&self) {
        self.allowed.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            allowed: self.allowed.load(Relaxed),
            denied: self.denied.load(Relaxed),
            up: self.limits.bytes_up - self.left_up.load(Relaxed),
            down: self.limits.bytes_down - self.left_down.load(Relaxed),
        }
    }

    /// Takes up to `wanted` bytes off what is left.
    fn take(&self, way: Way, wanted: u64) -> u64 {
        let left = match way {
            Way::Up => &self.left_up,
            Way::Down => &self.left_down,
        };
        let before = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wanted)));
        before.unwrap_or(0).min(wanted)
    }
}

/// What one attempt has moved.
#[derive(Debug)]
pub(crate) struct Meter<'j> {
    ledger: &'j Ledger,
    up: AtomicU64,
    down: AtomicU64,
}

impl<'j> Meter<'j> {
    pub(crate) fn new(ledger: &'j Ledger) -> Self {
        Self {
            ledger,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    /// Pays for `n` bytes that are about to be passed on; the answer is how many may be.
    pub(crate) fn pay(&self, way: Way, n: usize) -> usize {
        let granted = self.ledger.take(way, n as u64);
        let mine = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        mine.fetch_add(granted, Relaxed);
        // At most `n`, which is a usize.
        usize::try_from(granted).unwrap_or(n)
    }

    /// Where there is room for what is on its way.
    pub(crate) fn room(&self) -> &JobRoom {
        &self.ledger.room
    }

    pub(crate) fn up(&self) -> u64 {
        self.up.load(Relaxed)
    }

    pub(crate) fn down(&self) -> u64 {
        self.down.load(Relaxed)
    }

    /// Returns when nothing has moved for `limit`, give or take a quarter of it. A look four times in that span costs
    /// less than a timer per read.
    pub(crate) async fn idle(&self, limit: Duration) {
        let mut seen = (self.up(), self.down());
        let mut quiet = 0;
        while quiet < 4 {
            tokio::time::sleep(limit / 4).await;
            let now = (self.up(), self.down());
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}
