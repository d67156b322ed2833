//! Keeps refusals of strangers from filling the audit log: a few at once, then one a second, the rest as a number.

use std::collections::HashMap;
use std::time::Instant;

use lictor_audit::{Event, EventType};

/// Events of one type that are let through at once.
const BURST: f64 = 32.0;
/// And then, a second.
const RATE: f64 = 1.0;

/// Lets through or counts.
#[derive(Debug, Default)]
pub(crate) struct Suppress(HashMap<EventType, Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    dropped: u64,
}

impl Suppress {
    /// The events to write now: none, or this one with the number of those left out before it.
    pub(crate) fn admit(&mut self, event: Event, now: Instant) -> Vec<Event> {
        let bucket = self.0.entry(event.kind).or_insert(Bucket {
            tokens: BURST,
            at: now,
            dropped: 0,
        });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * RATE).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            bucket.dropped += 1;
            return Vec::new();
        }
        bucket.tokens -= 1.0;
        let dropped = std::mem::take(&mut bucket.dropped);
        let count = (dropped > 0).then(|| {
            Event::new(EventType::EventsSuppressed)
                .with("type", event.kind.as_str())
                .with("count", dropped)
        });
        count.into_iter().chain([event]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_becomes_a_number() {
        let mut suppress = Suppress::default();
        let start = Instant::now();
        let refused = || Event::new(EventType::OfferRefused);
        let written: usize = (0..1000).map(|_| suppress.admit(refused(), start).len()).sum();
        assert_eq!(written, 32);
        assert_eq!(
            suppress.admit(Event::new(EventType::CancelRefused), start).len(),
            1
        );
        let later = suppress.admit(refused(), start + Duration::from_secs(2));
        assert_eq!(later.len(), 2);
        assert_eq!(later[0].kind, EventType::EventsSuppressed);
        assert_eq!(later[0].fields.get("count"), Some(&968u64.into()));
    }
}
