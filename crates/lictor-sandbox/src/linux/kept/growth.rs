//! Whether what a job writes into its kept sandbox still fits, looked at while it runs.
//!
//! No file system that a node is sure to have holds a directory to a size: project quotas take a mount option and a file
//! system that knows them. So it is counted, again and again, and a job that has gone over is ended. What it wrote between two
//! looks is over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::about::{Meanwhile, measure};
use crate::linux::supervisor::{Timer, expiry};

/// Between two looks at the least, and how many times as long as a look takes: so counting takes a twentieth of a processor.
const PAUSE: Duration = Duration::from_millis(500);
const TIMES: u32 = 20;

/// What a job works in, and how much that may hold.
#[derive(Debug, Clone)]
pub(crate) struct Growth {
    dir: PathBuf,
    most: u64,
}

impl Growth {
    pub(crate) fn new(dir: PathBuf, most: u64) -> Self {
        Self { dir, most }
    }

    /// Waits until it holds more, or so that it cannot be counted any more: else whoever wants more would only have to see to
    /// that.
    pub(crate) async fn is_over(&self) {
        let mut pause = PAUSE;
        loop {
            expiry(&Timer::after(pause)).await;
            let (dir, begun) = (self.dir.clone(), Instant::now());
            let counted = tokio::task::spawn_blocking(move || measure(&dir, Meanwhile::InUse)).await;
            match counted {
                Ok(Ok(bytes)) if bytes <= self.most => {}
                Ok(Ok(bytes)) => {
                    tracing::warn!(bytes, most = self.most, at = %self.dir.display(), "a job has filled its kept sandbox");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, at = %self.dir.display(), "what a kept sandbox holds cannot be counted any more");
                    return;
                }
                // The agent goes down, and ends its jobs by itself.
                Err(_) => return std::future::pending().await,
            }
            pause = PAUSE.max(begun.elapsed() * TIMES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Growth;

    #[tokio::test]
    async fn what_is_over_or_cannot_be_counted_is_told() {
        let place = tempfile::tempdir().expect("a directory");
        let growth = Growth::new(place.path().to_owned(), 64 * 1024);
        let still = tokio::time::timeout(super::PAUSE * 3, growth.is_over()).await;
        assert!(still.is_err(), "nothing is there");
        std::fs::write(place.path().join("a"), vec![b'x'; 128 * 1024]).expect("written");
        growth.is_over().await;
        std::fs::remove_file(place.path().join("a")).expect("removed");
        let mut deep = place.path().to_owned();
        for _ in 0..201 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).expect("made");
        growth.is_over().await;
    }
}
