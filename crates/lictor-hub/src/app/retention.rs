//! Forgetting what is older than it is kept.

use std::time::Duration;

use lictor_proto::Timestamp;

use super::{App, Error};
use crate::store::Keep;

/// How long things are kept; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Standard input that no valid job names.
    pub stdin: Duration,
    /// Logs of ended executions.
    pub logs: Option<Duration>,
    /// Ended jobs, with their receipts.
    pub jobs: Option<Duration>,
}

/// Standard input stays so long after it could last be asked for.
const STDIN_GRACE: Duration = Duration::from_secs(600);
/// An expired token is shown so long.
const TOKENS: Duration = Duration::from_secs(30 * 86_400);
/// A refused result is kept so long.
const QUARANTINE: Duration = Duration::from_secs(90 * 86_400);

impl App {
    /// Forgets everything that is over at `now`; gives the number of things.
    ///
    /// # Errors
    /// [`Error::Store`]. A file that cannot be deleted is logged.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, Error> {
        let ago = |d: Duration| {
            let ms = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_sub(ms))
        };
        let keep = Keep {
            logs_before: self.retention.logs.map(ago),
            jobs_before: self.retention.jobs.map(ago),
            tokens_before: ago(TOKENS),
            quarantine_before: ago(QUARANTINE),
        };
        let mut rows = self.sweep_inputs(ago(STDIN_GRACE)).await?;
        loop {
            let forgotten = self.store.forget(keep).await?;
            for path in &forgotten.objects {
                tell_of_failure(path, &self.objects.delete_log(path).await);
            }
            if forgotten.rows == 0 {
                return Ok(rows);
            }
            rows += forgotten.rows;
            metrics::counter!("lictor_hub_forgotten_total").increment(forgotten.rows);
        }
    }

    /// What cannot be deleted keeps its row, and is tried again the next time. A store that is away takes its time to say so,
    /// each time: uploads that want to end go on in between, after one that failed at the latest.
    async fn sweep_inputs(&self, before: Timestamp) -> Result<u64, Error> {
        let (mut rows, mut after) = (0, None);
        loop {
            let _alone = self.stdin.sweeping.write().await;
            let idle = self.store.idle_blobs(before, after.take()).await?;
            if idle.is_empty() {
                return Ok(rows);
            }
            let mut gone = Vec::with_capacity(idle.len());
            for (org, sha256) in idle {
                after = Some((org.clone(), sha256));
                let deleted = self.objects.delete_stdin(&org, &sha256).await;
                tell_of_failure(&sha256.to_string(), &deleted);
                if deleted.is_err() {
                    break;
                }
                gone.push((org, sha256));
            }
            let forgotten = self.store.forget_blobs(gone, before).await?;
            rows += forgotten;
            metrics::counter!("lictor_hub_forgotten_total").increment(forgotten);
        }
    }
}

fn tell_of_failure(what: &str, deleted: &Result<(), Error>) {
    if let Err(e) = deleted {
        tracing::warn!(what, error = %e.chain(), "an object was not deleted");
    }
}
