//! Making room: what has not been used for long goes, and then what was used longest ago.

use std::time::Duration;

use lictor_proto::{Digest, Timestamp};

use crate::error::RootfsError;
use crate::store::{Kept, Store};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all together.
    pub bytes: u64,
    /// How long one may lie unused.
    pub unused: Duration,
}

impl Store {
    /// Removes what is over the bounds and in nobody's use; says what went.
    ///
    /// # Errors
    /// The system's.
    pub fn prune(&self, bounds: &Bounds, now: Timestamp) -> Result<Vec<Digest>, RootfsError> {
        self.tidy()?;
        let mut kept = self.list()?;
        kept.sort_by_key(|k| k.used_at);
        let mut gone = Vec::new();
        let mut left: u64 = kept.iter().map(|k| k.meta.bytes).sum();
        for Kept { meta, used_at } in kept {
            if now.since(used_at) <= bounds.unused && left <= bounds.bytes {
                continue;
            }
            match self.remove(&meta.digest) {
                Ok(()) => {
                    left = left.saturating_sub(meta.bytes);
                    gone.push(meta.digest);
                }
                // In use, or removed by somebody else meanwhile.
                Err(RootfsError::InUse(_) | RootfsError::Missing(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(gone)
    }
}
