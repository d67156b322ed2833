//! Keeping a connection up: a loop around one fallible function, with jittered exponential backoff.
//!
//! The jitter matters more than the curve: after a hub restarts, a thousand agents must not come back in step.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First wait.
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one; the next failure starts from the beginning.
const STABLE: Duration = Duration::from_secs(60);

/// How long to wait before the next attempt. Pure: time and chance come from outside.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST }
    }
}

impl Backoff {
    /// The wait after an attempt that held for `held`; `chance` is uniform over `u32`. Between half the current
    /// ceiling and all of it; the ceiling doubles up to 30 s.
    pub fn next(&mut self, held: Duration, chance: u32) -> Duration {
        if held >= STABLE {
            self.ceiling = FIRST;
        }
        let half = self.ceiling / 2;
        let wait = half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        wait
    }
}

/// Runs `attempt` again and again until `stop`, waiting in between. An attempt ends by itself at `stop`.
pub async fn keep_up<F, A, E>(stop: &CancellationToken, mut attempt: F)
where
    F: FnMut() -> A,
    A: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = attempt().await;
        if stop.is_cancelled() {
            return;
        }
        let wait = backoff.next(began.elapsed(), chance());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match ended {
            Ok(()) => tracing::info!(wait_ms, "the hub ended the connection; connecting again"),
            Err(e) => tracing::warn!(error = %e, wait_ms, "no connection to the hub; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// A number without bias, for [`Backoff::next`].
pub(crate) fn chance() -> u32 {
    // Without random bytes every agent waits its full time: slower, still correct.
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_thirty_seconds_and_never_beyond() {
        let mut b = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| b.next(Duration::ZERO, u32::MAX)).collect();
        assert_eq!(waits[0], FIRST);
        assert_eq!(waits[1], FIRST * 2);
        assert!(waits.iter().all(|w| *w <= LONGEST));
        assert_eq!(waits[11], LONGEST);
    }

    #[test]
    fn chance_takes_away_up_to_half() {
        let mut a = Backoff::default();
        assert_eq!(a.next(Duration::ZERO, 0), FIRST / 2);
    }

    #[test]
    fn a_stable_connection_resets_it() {
        let mut b = Backoff::default();
        for _ in 0..10 {
            b.next(Duration::ZERO, u32::MAX);
        }
        assert_eq!(b.next(STABLE, u32::MAX), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let stop = CancellationToken::new();
        let mut attempts = 0;
        let keeping = keep_up(&stop, || {
            attempts += 1;
            std::future::ready(Err::<(), _>("no"))
        });
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            stop.cancel();
        };
        tokio::join!(keeping, stopping);
        assert!((5..40).contains(&attempts), "{attempts}");
    }
}
