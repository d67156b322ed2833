//! How much an org and a token may have of the hub, so that none of them can take it from the others.
//!
//! | what | beyond it |
//! |---|---|
//! | executions that wait, per org and per node; jobs stored per org (`queue.rs`) | a submission is refused |
//! | executions at work, per org (`running.rs`) | they stay queued and say so |
//! | requests per token (here) | a request is refused, before anything of it is looked at |
//!
//! No limit drops what was taken or ends what runs.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, OrgId};

use super::Error;

/// The limits of one org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrgLimits {
    /// Executions at work at once.
    pub running: u64,
    /// Executions that wait.
    pub queued: u64,
    /// Executions that wait for one node.
    pub queued_per_node: u64,
    /// Jobs that are stored.
    pub jobs: u64,
}

/// The limits of all orgs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits {
    all: OrgLimits,
    own: Arc<HashMap<OrgId, OrgLimits>>,
}

impl Limits {
    /// `all`, but for these orgs.
    #[must_use]
    pub fn new(all: OrgLimits, own: HashMap<OrgId, OrgLimits>) -> Self {
        let own = Arc::new(own);
        Self { all, own }
    }

    /// Those of this org.
    #[must_use]
    pub fn of(&self, org: &OrgId) -> OrgLimits {
        self.own.get(org).copied().unwrap_or(self.all)
    }
}

/// How often a token may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Requests in a second, on average.
    pub per_second: NonZeroU32,
    /// Requests at once, after a while without any.
    pub burst: NonZeroU32,
}

/// Tokens whose rate is remembered; beyond it all begin anew.
const TOKENS: usize = 10_000;

/// How often each token has asked lately.
#[derive(Debug)]
pub struct RateBook {
    all: Rate,
    clock: DefaultClock,
    tokens: Mutex<HashMap<String, Arc<DefaultDirectRateLimiter>>>,
}

impl RateBook {
    /// An empty one.
    #[must_use]
    pub fn new(all: Rate) -> Self {
        Self {
            all,
            clock: DefaultClock::default(),
            tokens: Mutex::default(),
        }
    }

    /// The most that a token may have of its own.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.all.per_second.get()
    }

    /// Counts a request of this token, which may make `own` in a second if that is less than any may.
    ///
    /// # Errors
    /// [`Error::Later`] with when it may come again.
    pub fn take(&self, token: &str, own: Option<u32>) -> Result<(), Error> {
        let rate = self.of(own);
        let Err(not_until) = self.limiter(token, rate).check() else {
            return Ok(());
        };
        let again_in = not_until.wait_time_from(self.clock.now());
        let (n, burst) = (rate.per_second, rate.burst);
        let why = format!("this token may make {n} requests a second, and {burst} at once");
        Err(Error::Later(Refusal::new(Code::RateLimited, why), again_in))
    }

    /// The token is no more.
    pub fn forget(&self, token: &str) {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(token);
    }

    /// A token with a rate of its own may make twice as many at once.
    fn of(&self, own: Option<u32>) -> Rate {
        match own.and_then(NonZeroU32::new) {
            Some(own) if own < self.all.per_second => Rate {
                per_second: own,
                burst: own.saturating_add(own.get()).min(self.all.burst),
            },
            _ => self.all,
        }
    }

    fn limiter(&self, token: &str, rate: Rate) -> Arc<DefaultDirectRateLimiter> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = tokens.get(token) {
            return limiter.clone();
        }
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let limiter = Arc::new(RateLimiter::direct(quota));
        tokens.insert(token.to_owned(), limiter.clone());
        limiter
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_token_that_asks_too_often_is_told_when_to_come_again_and_others_are_not_held_up() {
        let book = RateBook::new(rate(10, 3));
        for _ in 0..3 {
            book.take("one", None).unwrap();
        }
        let Err(Error::Later(why, again_in)) = book.take("one", None) else {
            panic!("a fourth was let through");
        };
        assert_eq!(why.code, Code::RateLimited);
        assert!(again_in <= Duration::from_millis(100), "{again_in:?}");
        book.take("two", None).unwrap();
        // Of its own, a token may have less and never more.
        book.take("slow", Some(1)).unwrap();
        book.take("slow", Some(1)).unwrap();
        assert!(book.take("slow", Some(1)).is_err());
        for _ in 0..3 {
            book.take("greedy", Some(1_000_000)).unwrap();
        }
        assert!(book.take("greedy", Some(1_000_000)).is_err());
    }
}
