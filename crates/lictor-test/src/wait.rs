//! Waiting for a condition, with a deadline. The only place where test code lets time pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer.
///
/// # Errors
/// When `patience` is over first; the message says what was waited for.
pub fn poll<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} in vain for: {what}");
        }
        std::thread::sleep(STEP);
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// When `patience` is over first; the message says what was waited for.
pub fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    poll(what, patience, || condition().then_some(()))
}
