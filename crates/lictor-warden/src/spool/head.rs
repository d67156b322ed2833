//! The first part of a log: frames in a file, from its first byte, never dropped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::positioned::{create, write_all_at};
use super::{ReadError, read_frames};

/// After so many bytes the disk is asked to begin with them: the sync at the end then waits for the last ones only.
const EARLY: u64 = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Head {
    path: PathBuf,
    file: Option<File>,
    /// Log position of its end, and length of the file.
    end: u64,
    /// Payload bytes that it still takes.
    left: u64,
    /// Stream bytes before its end.
    at: [u64; 2],
    early: Early,
}

/// Syncs that begin before the end.
#[derive(Debug, Default)]
struct Early {
    /// Log position of the last one.
    at: u64,
    is_under_way: Arc<AtomicBool>,
}

impl Early {
    /// So much is written: begins one beside the writing, if it is worth it and none is under way. What it says counts
    /// for nothing: it has a file of its own, and the sync at the end is told of every failure, too.
    fn written(&mut self, end: u64, path: &Path) {
        if end - self.at < EARLY || self.is_under_way.load(Ordering::Acquire) {
            return;
        }
        let (Ok(runtime), Ok(file)) = (Handle::try_current(), File::open(path)) else {
            return;
        };
        self.at = end;
        self.is_under_way.store(true, Ordering::Release);
        let under_way = self.is_under_way.clone();
        runtime.spawn_blocking(move || {
            let _ = file.sync_data();
            under_way.store(false, Ordering::Release);
        });
    }
}

impl Head {
    pub(super) fn new(path: PathBuf, budget: u64) -> Self {
        Self {
            path,
            file: None,
            end: 0,
            left: budget,
            at: [0; 2],
            early: Early::default(),
        }
    }

    /// What a crash has left: frames up to `end`, to be read.
    pub(super) fn resumed(path: PathBuf, file: File, end: u64, at: [u64; 2]) -> Self {
        Self {
            path,
            file: Some(file),
            end,
            left: 0,
            at,
            early: Early::default(),
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn offsets(&self) -> [u64; 2] {
        self.at
    }

    /// Payload bytes that it still takes.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes one frame with `payload` bytes of stream `stream`; of neither for one that is no output.
    pub(super) fn push(&mut self, frame: &[u8], stream: Option<usize>, payload: u64) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.path)?),
        };
        if let Err(e) = write_all_at(file, frame, self.end) {
            // No more frames after a hole: the head ends here.
            self.left = 0;
            return Err(e);
        }
        self.end += frame.len() as u64;
        self.early.written(self.end, &self.path);
        self.left -= payload.min(self.left);
        if let Some(stream) = stream {
            self.at[stream] += payload;
        }
        Ok(())
    }

    /// Nothing more is taken.
    pub(super) fn close(&mut self) {
        self.left = 0;
    }

    pub(super) fn read(&self, from: u64, max: usize) -> Result<Bytes, ReadError> {
        match &self.file {
            Some(file) => read_frames(file, from, self.end - from, max).map_err(|e| match e {
                ReadError::Position(_) => ReadError::Position(from),
                other @ ReadError::Io(_) => other,
            }),
            None => Ok(Bytes::new()),
        }
    }

    /// The file, to put the kept tail behind the head.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

#[cfg(test)]
impl Head {
    /// From now on nothing can be written, as on a full disk.
    pub(super) fn refuse_writes(&mut self) {
        self.file = Some(File::open(&self.path).expect("it is there"));
    }
}
