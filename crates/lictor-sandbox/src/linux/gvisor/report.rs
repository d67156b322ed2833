//! What the first process of a gVisor sandbox tells: whether the program runs, and how it ended.
//!
//! It writes records into a file of the agent's, which the job's user cannot open; runsc itself would turn a signal into
//! an exit status that a program can also return.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::linux::ready;

/// Three numbers.
const RECORD: usize = 12;
const FAILED: i32 = 2;
const ENDED: i32 = 3;

/// The file, and who is told when it changes.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    changes: AsyncFd<OwnedFd>,
}

/// How a start went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Runs,
    /// A `Step`, and why it failed.
    Failed(i32, i32),
}

impl Report {
    /// Makes it, for `writer` alone.
    pub(super) fn make(path: &Path, writer: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        fchown(&file, Some(writer), Some(writer))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, path, WatchFlags::MODIFY)?;
        Ok(Self {
            file,
            changes: ready::watch(changes)?,
        })
    }

    /// Waits for the first record.
    pub(super) async fn start(&self) -> io::Result<Start> {
        loop {
            match self.record(0) {
                Some([FAILED, step, error]) => return Ok(Start::Failed(step, error)),
                Some(_) => return Ok(Start::Runs),
                None => self.changed().await?,
            }
        }
    }

    /// The program's wait status, and how many processes it has left behind; `None` when that was not told.
    pub(crate) fn end(&self) -> Option<(i32, u32)> {
        match self.record(1)? {
            [ENDED, status, left] => Some((status, u32::try_from(left).unwrap_or(0))),
            _ => None,
        }
    }

    /// Waits until the end was told.
    pub(crate) async fn ended(&self) {
        while self.end().is_none() {
            if self.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.changes.readable().await?;
        let mut room = [0; 4096];
        match rustix::io::read(&self.changes, &mut room) {
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            other => drop(other?),
        }
        Ok(())
    }

    fn record(&self, n: u64) -> Option<[i32; 3]> {
        let mut bytes = [0; RECORD];
        self.file.read_exact_at(&mut bytes, n * RECORD as u64).ok()?;
        let number = |i: usize| {
            bytes
                .get(i * 4..i * 4 + 4)?
                .try_into()
                .ok()
                .map(i32::from_ne_bytes)
        };
        Some([number(0)?, number(1)?, number(2)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn record(numbers: [i32; 3]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    #[tokio::test]
    async fn start_and_end_are_heard_of_when_they_are_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report");
        let own = rustix::process::geteuid().as_raw();
        let report = Report::make(&path, own).expect("made");
        assert_eq!(report.end(), None);
        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        let write = std::thread::spawn(move || {
            file.write_all(&record([1, 7, 0])).expect("written");
            file.write_all(&record([ENDED, 15, 2])).expect("written");
        });
        assert_eq!(report.start().await.expect("told"), Start::Runs);
        report.ended().await;
        write.join().expect("ended");
        assert_eq!(report.end(), Some((15, 2)));
    }
}
