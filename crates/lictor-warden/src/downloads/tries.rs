//! One download to its end: try, wait, try again from where it was.

use std::sync::Arc;
use std::time::Duration;

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use tokio::time::sleep;

use super::attempt::Broken;
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

impl Wanted {
    /// Has it come, however often it breaks off.
    pub(super) async fn come(&self, core: &Arc<Core>) -> End {
        let mut in_vain = 0;
        loop {
            let Some(turn) = self.while_wanted(core, core.downloads.turns.acquire()).await else {
                return End::Unwanted;
            };
            let before = self.has_come(core);
            let tried = self.attempt(core).await;
            drop(turn);
            let why = match tried {
                Ok(()) => return End::Here,
                Err(Broken::Unwanted) => return End::Unwanted,
                Err(Broken::Final(why)) => return End::Failed(why),
                Err(Broken::Again(why)) => why,
            };
            let is_new = self.has_come(core) >= before.saturating_add(SOMETHING);
            in_vain = match why.code {
                _ if is_new => 0,
                // The node has no place for it now: no fault of who has it.
                Code::LimitExceeded => in_vain,
                _ => in_vain + 1,
            };
            tracing::warn!(job = %self.job.digest(), url = %self.url, error = %why, "a download broke off");
            let tries = core.config.downloader.as_ref().map_or(1, |d| d.tries);
            if in_vain >= tries {
                return End::Failed(given_up(why, in_vain));
            }
            if let Some(under_way) = core.downloads.known().under_way.get_mut(&self.content.sha256) {
                under_way.failed += 1;
                under_way.why = Some(why);
            }
            let pause = AGAIN.get(in_vain.saturating_sub(1)).or(AGAIN.last());
            let pause = sleep(pause.copied().unwrap_or_default());
            if self.while_wanted(core, pause).await.is_none() {
                return End::Unwanted;
            }
        }
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
            && Arc::ptr_eq(&law, &self.law)
            && law.acting(core.now()).is_ok()
            && law.trust.now(core.now()) < self.job.expires_at
    }
}

/// What the job is told that it was for.
fn given_up(why: Refusal, tries: usize) -> Refusal {
    let code = match why.code {
        Code::DiskFull => Code::DiskFull,
        _ => Code::DownloadFailed,
    };
    Refusal::new(
        code,
        format!(
            "given up after {tries} tries that brought nothing new: {}",
            why.message
        ),
    )
}
