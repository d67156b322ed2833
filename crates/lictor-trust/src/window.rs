//! When a document may be acted on: not dated ahead, not before its time, not after it.

use std::time::Duration;

use lictor_proto::code::Refusal;
use lictor_proto::{Code, Timestamp, limits};

/// The times a document states about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) issued_at: Timestamp,
    pub(crate) not_before: Timestamp,
    pub(crate) expires_at: Timestamp,
}

impl Window {
    /// From when it was issued until it expires.
    pub(crate) fn new(issued_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            issued_at,
            not_before: issued_at,
            expires_at,
        }
    }

    /// Refuses what lies outside. `cap` bounds the validity more tightly than the 30 days of every document.
    ///
    /// A document may be dated up to 60 s ahead (clocks differ); it is then valid at once.
    pub(crate) fn check(&self, now: Timestamp, cap: Duration) -> Result<(), Refusal> {
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        let valid_for = self.expires_at.since(self.issued_at);
        if valid_for > cap.min(limits::VALIDITY) {
            let text = format!(
                "valid for {} s, at most {} s are allowed",
                valid_for.as_secs(),
                cap.as_secs()
            );
            return refuse(Code::ValidityTooLong, text);
        }
        if self.issued_at > now.plus(limits::CLOCK_AHEAD) {
            let text = format!("dated {}, and it is {now} here", self.issued_at);
            return refuse(Code::IssuedInFuture, text);
        }
        if self.expires_at <= now {
            return refuse(
                Code::Expired,
                format!("expired at {}, and it is {now}", self.expires_at),
            );
        }
        if self.not_before > now && self.not_before > self.issued_at {
            let text = format!("not before {}, and it is {now}", self.not_before);
            return refuse(Code::NotYetValid, text);
        }
        Ok(())
    }
}
