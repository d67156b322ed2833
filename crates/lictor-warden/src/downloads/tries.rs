//! One download to its end: try, wait, try again from where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::attempt::{Broken, Turn};
use super::known::Stage;
use super::{End, Wanted};
use crate::core::Core;
use crate::journal::state::Phase;

/// What is waited after the first try that brought nothing, the second, ...; the last of them from then on.
const AGAIN: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];
/// So much more is something new.
pub(super) const SOMETHING: u64 = 64 * 1024;
/// Between two looks at whether it is still wanted.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What its turns have come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// One after the other that brought nothing new.
    in_vain: usize,
    /// Those after which there was less than before.
    anew: usize,
}

impl Tally {
    pub(super) fn count(&mut self, before: u64, after: u64, code: Code) {
        self.anew += usize::from(after < before);
        self.in_vain = match code {
            _ if after >= before.saturating_add(SOMETHING) => 0,
            // The node has no place for it now: no fault of who has it.
            Code::LimitExceeded => self.in_vain,
            _ => self.in_vain + 1,
        };
    }

    /// What there is to be said of it after so many as may be.
    pub(super) fn is_enough(&self, tries: usize) -> Option<String> {
        let Self { in_vain, anew } = self;
        if *in_vain >= tries {
            return Some(format!("given up after {in_vain} tries that brought nothing new"));
        }
        (*anew >= tries).then(|| format!("given up, since {anew} times what had come was of no use"))
    }

    fn pause(&self) -> Duration {
        let pause = AGAIN.get(self.in_vain.saturating_sub(1)).or(AGAIN.last());
        pause.copied().unwrap_or_default()
    }
}

impl Wanted {
    /// Has it come, however often it breaks off.
    pub(super) async fn come(&self, core: &Arc<Core>) -> End {
        let job = self.job.digest();
        let mut tally = core.downloads.known().tally(&job);
        let tries = core.config.downloader.as_ref().map_or(1, |d| d.tries);
        let mut begun = None;
        loop {
            let Some(turn) = self.turn(core).await else {
                return End::Unwanted;
            };
            // What broke off goes on with the same turn: who breaks off again and again would never have had one.
            let since = *begun.get_or_insert_with(Instant::now);
            let before = self.has_come(core);
            let tried = Turn::of(self, core, since).attempt().await;
            drop(turn);
            let (why, is_over) = match tried {
                Ok(()) => return End::Here,
                Err(Broken::Unwanted) => return End::Unwanted,
                Err(Broken::Final(why)) => return End::Failed(why),
                Err(Broken::OutOfTurn) => (Refusal::new(Code::Downloading, "others have their turn"), true),
                Err(Broken::Again(why)) => (why, false),
            };
            tally.count(before, self.has_come(core), why.code);
            if let Some(enough) = tally.is_enough(tries) {
                return End::Failed(given_up(&enough, &why));
            }
            let mut pause = Duration::ZERO;
            if !is_over {
                tracing::warn!(job = %job, url = %self.url, error = %why, "a download broke off");
                core.downloads.known().broke_off(&self.content.sha256, why);
                pause = tally.pause();
            }
            let rest = timeout(pause, self.had_its_turn(core, since));
            match self.while_wanted(core, rest).await {
                None => return End::Unwanted,
                Some(Ok(())) => {
                    core.downloads.known().keep_tally(job, tally);
                    return End::Yields;
                }
                Some(Err(_)) => {}
            }
        }
    }

    /// Until it has had its turn and others know another way.
    async fn had_its_turn(&self, core: &Core, since: Instant) {
        let downloads = &core.downloads;
        while since.elapsed() < core.turn() || !downloads.known().has_another_way(self) {
            sleep(LOOK).await;
        }
    }

    /// One of those that may be at it at once, in the order in which they asked; `None` when it is not wanted any more before.
    async fn turn<'a>(&self, core: &'a Core) -> Option<SemaphorePermit<'a>> {
        let (content, turns) = (&self.content.sha256, &core.downloads.turns);
        let turn = match turns.try_acquire() {
            // What is free is nobody else's: this one waits for nothing, so nobody is cut off for it.
            Ok(turn) => self.is_wanted(core).then_some(turn)?,
            Err(_) => {
                core.downloads.known().stands(content, Stage::Queues);
                let _queued = Queued::with(&core.downloads.queue);
                // Nobody closes it.
                self.while_wanted(core, turns.acquire()).await?.ok()?
            }
        };
        core.downloads.known().stands(content, Stage::Comes);
        Some(turn)
    }

    fn has_come(&self, core: &Core) -> u64 {
        core.downloads.spool().have(&self.content.sha256)
    }

    /// What a future comes to, unless the file is not wanted any more before.
    async fn while_wanted<T>(&self, core: &Core, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if !self.is_wanted(core) {
                return None;
            }
            tokio::select! {
                done = &mut work => return Some(done),
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Whether its job may still want it, by the law under which it was permitted.
    pub(super) fn is_wanted(&self, core: &Core) -> bool {
        let law = core.law.current();
        let waits = {
            let (state, digest) = (core.journal.state(), self.job.digest());
            match state.job(&digest).map(|j| &j.phase) {
                Some(Phase::Waiting { .. }) => true,
                Some(_) => false,
                None => !state.is_seen(&digest),
            }
        };
        waits
            && !core.is_closed()
            && !core.is_draining()
            && law.judges_as(&self.law)
            && law.acting(core.now()).is_ok()
            && law.trust.now(core.now()) < self.job.expires_at
    }
}

/// Counts whoever waits for a turn.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn with(queue: &'a AtomicUsize) -> Self {
        queue.fetch_add(1, Ordering::Relaxed);
        Self(queue)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the job is told that it was for.
fn given_up(enough: &str, why: &Refusal) -> Refusal {
    let code = match why.code {
        Code::DiskFull => Code::DiskFull,
        _ => Code::DownloadFailed,
    };
    Refusal::new(code, format!("{enough}: {}", why.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_nothing_new_is_given_up_and_so_is_what_begins_anew_again_and_again() {
        let mut slow = Tally::default();
        for round in 0..100 {
            slow.count(round * SOMETHING, (round + 1) * SOMETHING, Code::DownloadFailed);
            assert!(slow.is_enough(1).is_none(), "{round}: it goes on");
        }
        for (after, enough) in [(0, false), (SOMETHING - 1, true)] {
            slow.count(0, after, Code::DownloadFailed);
            assert_eq!(slow.is_enough(2).is_some(), enough);
        }
        let mut anew = Tally::default();
        for round in 1..=3 {
            anew.count(0, 9 * SOMETHING, Code::DownloadFailed);
            assert!(anew.is_enough(3).is_none());
            anew.count(9 * SOMETHING, 0, Code::DownloadFailed);
            assert_eq!(anew.is_enough(3).is_some(), round == 3, "{round}");
        }
        let mut full = Tally::default();
        for _ in 0..100 {
            full.count(7, 7, Code::LimitExceeded);
        }
        assert!(full.is_enough(1).is_none(), "that is the node's own");
    }
}
