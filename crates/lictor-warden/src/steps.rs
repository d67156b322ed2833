//! How long each step of one execution took, said once at its end, for the benchmark and for people who wonder.

use std::time::{Duration, Instant};

use lictor_proto::Digest;

/// A step on the way from an offer to a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the words say it
pub(crate) enum Step {
    Verify,
    Facts,
    Authorise,
    JournalStart,
    Spawn,
    Wait,
    Receipt,
}

/// Durations of the steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepTimes {
    last: Instant,
    took: [Duration; 7],
}

impl StepTimes {
    /// Starts to count.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self {
            last: Instant::now(),
            took: [Duration::ZERO; 7],
        }
    }

    /// The time since the last call belongs to `step`.
    pub(crate) fn done(&mut self, step: Step) {
        let now = Instant::now();
        self.took[step as usize] += now - self.last;
        self.last = now;
    }

    /// Says it: one event with the target `lictor::steps`, all times in microseconds.
    pub(crate) fn report(&self, job: &Digest) {
        let us = |step: Step| u64::try_from(self.took[step as usize].as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(
            target: "lictor::steps",
            %job,
            verify_us = us(Step::Verify),
            facts_us = us(Step::Facts),
            authorise_us = us(Step::Authorise),
            journal_us = us(Step::JournalStart),
            spawn_us = us(Step::Spawn),
            wait_us = us(Step::Wait),
            receipt_us = us(Step::Receipt),
        );
    }
}
