//! Results that the hub did not take in time: each a directory with the signed job, the signed receipt and the output.
//!
//! ```text
//! DIR/archive/JOB_ID/   job.json  receipt.json   as they were signed, `lictor receipt verify` reads them
//!                       output.log               what was kept of the output, as frames
//!                       result.json              which job it was, when, and which parts of the log are kept
//! ```
//!
//! They are told to the hub when it is back, as every other result is, and go when it has them. Until then a person can
//! read them on the node (`lictor agent archive`).
//!
//! # Invariants
//! - A directory with that name is whole: it is written beside its place, synced, and renamed, before the journal forgets.
//! - All together has a bound. The oldest goes first; one that is over the bound by itself is kept without its output.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lictor_proto::agent::{Finished, OutputPart, Wire};
use lictor_proto::{Digest, JobId, Timestamp, limits};
use serde::{Deserialize, Serialize};

use crate::journal::entry::Log;
use crate::spool::{ReadError, stored};

/// Results that are kept at the most, however small.
const MOST: usize = 4096;
/// Bytes of `result.json`; a log in one piece of it is in `output.log`.
const RESULT: u64 = 64 * 1024;

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archived {
    /// The job.
    pub job: Digest,
    /// The receipt's digest.
    pub receipt: Digest,
    /// When its process had started.
    pub started_at: Option<Timestamp>,
    /// When the receipt was signed.
    pub finished_at: Timestamp,
    /// When it was moved here.
    pub archived_at: Timestamp,
    /// What is kept of its log, all of it in `output.log`.
    pub log: Log,
}

/// What is known of a result without reading it.
#[derive(Debug, Clone, Copy)]
struct Held {
    receipt: Digest,
    /// When it came here, and when it had ended: what is older goes first.
    age: (Timestamp, Timestamp),
    bytes: u64,
}

impl Held {
    fn of(result: &Archived, bytes: u64) -> Self {
        Self {
            receipt: result.receipt,
            age: (result.archived_at, result.finished_at),
            bytes,
        }
    }
}

/// A result that had to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The job.
    pub job: Digest,
    /// Its receipt.
    pub receipt: Digest,
}

/// A result on its way in.
#[derive(Debug)]
pub struct Incoming {
    /// Which.
    pub result: Archived,
    /// The signed job.
    pub envelope: Wire,
    /// The signed receipt.
    pub receipt: Wire,
    /// The spool's file of its log, where that is not inline.
    pub log: PathBuf,
}

/// The archive of one node.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    most: u64,
    held: Mutex<HashMap<Digest, Held>>,
}

fn place(dir: &Path, job: &Digest) -> PathBuf {
    dir.join(JobId::from_digest(job).as_str())
}

/// The directory of a node's archive.
#[must_use]
pub fn below(node_dir: &Path) -> PathBuf {
    node_dir.join("archive")
}

/// What one directory of an archive says.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(dir: &Path) -> io::Result<Archived> {
    let mut bytes = Vec::new();
    File::open(dir.join("result.json"))?
        .take(RESULT)
        .read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

/// Every result in a node's archive, oldest first, with its directory; those that cannot be read are told and passed over.
///
/// # Errors
/// When the directory cannot be listed; one that is not there is empty.
pub fn list(node_dir: &Path) -> io::Result<Vec<(PathBuf, Archived)>> {
    let entries = match fs::read_dir(below(node_dir)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_result = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n.parse::<JobId>().is_ok());
        if !is_result {
            continue;
        }
        match read(&entry.path()) {
            Ok(result) => all.push((entry.path(), result)),
            Err(e) => {
                tracing::warn!(path = %entry.path().display(), error = %e, "an archived result cannot be read")
            }
        }
    }
    all.sort_by_key(|(_, a)| (a.archived_at, a.finished_at));
    Ok(all)
}

/// Bytes of the files in a result's directory.
///
/// # Errors
/// When they cannot be read.
pub fn size(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|e| Ok(e?.metadata()?.len())).sum()
}

/// The signed job, or receipt, of a result's directory. A firing's is longer than any envelope.
///
/// # Errors
/// When it cannot be read, or is longer than any is.
pub fn wire(dir: &Path, file: &str) -> io::Result<Wire> {
    let mut text = String::new();
    File::open(dir.join(file))?
        .take(limits::FIRED_WIRE as u64 + 1)
        .read_to_string(&mut text)?;
    if text.len() > limits::FIRED_WIRE {
        return Err(io::Error::other(format!("{file} is too long")));
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

impl Archive {
    /// The archive of the node in `node_dir`, of at most `most` bytes. What a crash left half-written goes.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(node_dir: &Path, most: u64) -> io::Result<Self> {
        let dir = below(node_dir);
        let mut held = HashMap::new();
        for (path, result) in list(node_dir)? {
            held.insert(result.job, Held::of(&result, size(&path)?));
        }
        if dir.exists() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(".new-") {
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        Ok(Self {
            dir,
            most,
            held: Mutex::new(held),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of the receipt of an archived job.
    #[must_use]
    pub fn receipt_of(&self, job: &Digest) -> Option<Digest> {
        self.lock().get(job).map(|h| h.receipt)
    }

    /// All jobs in it, oldest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<Digest> {
        let mut all: Vec<_> = self.lock().iter().map(|(job, h)| (h.age, *job)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, job)| job).collect()
    }

    /// Takes a result in, durably, and gives those that had to make room for it.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is there then.
    pub fn put(&self, incoming: &Incoming) -> io::Result<Vec<Dropped>> {
        let job = incoming.result.job;
        make(&self.dir)?;
        let scratch = self.dir.join(format!(".new-{}", JobId::from_digest(&job)));
        let _ = fs::remove_dir_all(&scratch);
        let written = self.write(&scratch, incoming);
        let bytes = written.inspect_err(|_| drop(fs::remove_dir_all(&scratch)))?;
        let place = place(&self.dir, &job);
        // Of a crash between here and the journal.
        match fs::remove_dir_all(&place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(&scratch, &place)?;
        File::open(&self.dir)?.sync_all()?;
        self.lock().insert(job, Held::of(&incoming.result, bytes));
        self.make_room(&job)
    }

    fn write(&self, dir: &Path, incoming: &Incoming) -> io::Result<u64> {
        make(dir)?;
        let mut result = incoming.result.clone();
        let inline = std::mem::take(&mut result.log.inline);
        let output: u64 = result.log.kept.iter().map(|k| k.to - k.from).sum();
        let rest = (incoming.envelope.len() + incoming.receipt.len()) as u64 + RESULT;
        let mut file = create(&dir.join("output.log"))?;
        if rest + output > self.most {
            result.log.kept.clear();
        } else if !inline.is_empty() {
            file.write_all(&inline)?;
        } else if output > 0 {
            // What was lost on the disk must not keep the receipt out of the archive.
            match File::open(&incoming.log) {
                Ok(mut log) => drop(io::copy(&mut log, &mut file)?),
                Err(e) if e.kind() == io::ErrorKind::NotFound => result.log.kept.clear(),
                Err(e) => return Err(e),
            }
        }
        file.sync_all()?;
        for (name, text) in [
            ("job.json", &incoming.envelope),
            ("receipt.json", &incoming.receipt),
        ] {
            let mut file = create(&dir.join(name))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        let mut file = create(&dir.join("result.json"))?;
        file.write_all(&serde_json::to_vec_pretty(&result)?)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        size(dir)
    }

    /// Removes the oldest until everything is within its bound; `newest` stays.
    fn make_room(&self, newest: &Digest) -> io::Result<Vec<Dropped>> {
        let mut dropped = Vec::new();
        loop {
            let oldest = {
                let held = self.lock();
                let bytes: u64 = held.values().map(|h| h.bytes).sum();
                if bytes <= self.most && held.len() <= MOST {
                    return Ok(dropped);
                }
                let others = held.iter().filter(|(job, _)| *job != newest);
                others.min_by_key(|(_, h)| h.age).map(|(job, h)| Dropped {
                    job: *job,
                    receipt: h.receipt,
                })
            };
            let Some(oldest) = oldest else {
                return Ok(dropped);
            };
            self.remove(&oldest.job)?;
            dropped.push(oldest);
        }
    }

    /// Removes a result, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, job: &Digest) -> io::Result<()> {
        if self.lock().remove(job).is_none() {
            return Ok(());
        }
        match fs::remove_dir_all(place(&self.dir, job)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => File::open(&self.dir)?.sync_all(),
        }
    }

    /// An archived result as the hub is told, and when its process started.
    pub(crate) fn finished(&self, job: &Digest) -> Option<(Finished, Option<Timestamp>)> {
        self.receipt_of(job)?;
        let dir = place(&self.dir, job);
        let read = || -> io::Result<_> {
            let result = read(&dir)?;
            let finished = Finished {
                job: *job,
                envelope: wire(&dir, "job.json")?,
                receipt: wire(&dir, "receipt.json")?,
                log_end: result.log.end,
                kept: result.log.ranges(),
            };
            Ok((finished, result.started_at))
        };
        read()
            .inspect_err(|e| tracing::warn!(%job, error = %e, "an archived result cannot be read"))
            .ok()
    }

    /// A part of an archived log; `None` when the job is not archived.
    pub(crate) fn output(
        &self,
        job: &Digest,
        from: u64,
        max: usize,
    ) -> Option<Result<(OutputPart, Bytes), ReadError>> {
        self.receipt_of(job)?;
        let dir = place(&self.dir, job);
        let part = read(&dir)
            .map_err(ReadError::from)
            .and_then(|result| stored::read(&result.log, &dir.join("output.log"), from, max));
        Some(part)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
