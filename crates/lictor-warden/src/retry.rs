//! Trying again what others depend on, for as long as the warden lives.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// When to try again: after a while, and then ever more rarely.
pub(crate) struct Retry {
    wait: Duration,
    closing: CancellationToken,
}

impl Retry {
    /// Until the warden ends.
    pub(crate) fn until(closing: &CancellationToken) -> Self {
        Self {
            wait: FIRST,
            closing: closing.clone(),
        }
    }

    /// Waits; `false` when it is not to be tried any more.
    pub(crate) async fn again(&mut self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.wait) => {}
            () = self.closing.cancelled() => return false,
        }
        self.wait = (self.wait * 2).min(LONGEST);
        true
    }
}
