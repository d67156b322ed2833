//! Where audit records go when the journal is rotated, and the thread that takes them there.
//!
//! A rotation closes a journal and goes on in a new one at once. What the closed one holds of the audit log is read, checked
//! and appended to the archive here, beside the writer; then the closed journal goes.
//!
//! ```text
//! idle --begin--> archiving --all of it is in the archive, the closed journal is gone--> idle
//!                  |     ^
//!                  failed '--tried again when the next rotation is due
//! ```
//!
//! # Invariants
//! - Archive, closed journal and journal together hold the chain without a gap, at every moment.
//! - Of a closed journal only records are taken that the journal after it does not hold: after a crash it may be that
//!   journal itself, under a second name, with an end that is not durable.
//! - There is one closed journal at most: no rotation while it is not archived.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use lictor_audit::log_file::OpenError;
use lictor_audit::{Chain, LogFile, Record};

use super::Archive;
use super::file::{ClosedFile, JournalFile, sync_directory};
use super::record;
use super::replay::audit_records;

/// The archive, and what is on its way there.
pub(super) struct Archiver {
    archive: Arc<Mutex<Box<dyn Archive>>>,
    /// Where the audit log stood when the closed journal was closed, while that may not be archived.
    left: Option<Chain>,
    running: Option<JoinHandle<io::Result<()>>>,
}

/// Whether a rotation may close another journal.
#[derive(Debug)]
pub(super) enum Room {
    /// It may.
    Free,
    /// The last one is still being archived.
    NotYet,
    /// The last one could not be archived; it is being tried again.
    Failed(io::Error),
}

impl Archiver {
    pub(super) fn new(archive: Box<dyn Archive>) -> Self {
        Self {
            archive: Arc::new(Mutex::new(archive)),
            left: None,
            running: None,
        }
    }

    /// Archives the closed journal, if there is one, beside the caller. The log stood at `end` when it was closed.
    ///
    /// # Errors
    /// When that could not begin; it is tried again by [`Self::room`].
    pub(super) fn begin(&mut self, file: &dyn JournalFile, end: Chain) -> io::Result<()> {
        self.left = Some(end.clone());
        let Some(mut closed) = file.closed()? else {
            self.left = None;
            return Ok(());
        };
        let archive = self.archive.clone();
        let work = move || {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            empty(closed.as_mut(), archive.as_mut(), &end)
        };
        let thread = std::thread::Builder::new().name("archive".to_owned());
        self.running = Some(thread.spawn(work)?);
        Ok(())
    }

    /// Whether another journal may be closed now. Never waits.
    pub(super) fn room(&mut self, file: &dyn JournalFile) -> Room {
        if self.running.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Room::NotYet;
        }
        let failed = self.join().err();
        let again = match self.left.clone() {
            Some(end) => self.begin(file, end),
            None => Ok(()),
        };
        match failed.or(again.err()) {
            Some(e) => Room::Failed(e),
            None if self.left.is_some() => Room::NotYet,
            None => Room::Free,
        }
    }

    /// Waits until nothing is left of the closed journal.
    ///
    /// # Errors
    /// When it could not be archived; it stays.
    pub(super) fn finish(&mut self, file: &dyn JournalFile) -> io::Result<()> {
        if self.join().is_ok() && self.left.is_none() {
            return Ok(());
        }
        if let Some(end) = self.left.clone() {
            self.begin(file, end)?;
        }
        self.join()
    }

    /// Appends records of a journal that was not closed, after [`Self::finish`].
    ///
    /// # Errors
    /// The archive's.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        archive.append(records).map(|_| ())
    }

    /// Waits for what is under way.
    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.running.take() else {
            return Ok(());
        };
        let panicked = |_| io::Error::other("the thread that archives panicked");
        thread.join().map_err(panicked)??;
        self.left = None;
        Ok(())
    }
}

/// Moves the audit records of a closed journal, up to `end`, to the archive, and takes the journal away.
fn empty(closed: &mut dyn ClosedFile, archive: &mut dyn Archive, end: &Chain) -> io::Result<()> {
    let _span = tracing::debug_span!("journal_archive", seq = end.seq()).entered();
    let bytes = closed.read()?;
    let mut records = Vec::new();
    for payload in record::scan(&bytes).map_err(io::Error::other)?.payloads {
        records.extend(audit_records(payload).map_err(io::Error::other)?);
    }
    records.retain(|r| r.seq() <= end.seq());
    let archived = archive.append(&records)?;
    // It may be further: when this was done before, and a crash has brought the closed journal back.
    if archived.seq() < end.seq() || (archived.seq() == end.seq() && archived != *end) {
        return Err(io::Error::other(
            "the closed journal does not read as it was written",
        ));
    }
    closed.remove()
}

/// `audit.log` beside the journal. Opening it checks it as a whole: one that is there already is opened on a thread of
/// its own, from the start on, so that the first rotation need not wait for that.
#[derive(Debug)]
pub struct AuditArchive {
    path: PathBuf,
    log: String,
    open: Option<LogFile>,
    opening: Option<JoinHandle<Result<LogFile, OpenError>>>,
}

impl AuditArchive {
    /// The archive of the log called `log` at `path`.
    #[must_use]
    pub fn new(path: PathBuf, log: String) -> Self {
        let opening = path.exists().then(|| {
            let (path, log) = (path.clone(), log.clone());
            let open = move || LogFile::open(&path, &log);
            std::thread::Builder::new()
                .name("audit log".to_owned())
                .spawn(open)
        });
        Self {
            path,
            log,
            open: None,
            // Without a thread it is opened when it is needed.
            opening: opening.and_then(Result::ok),
        }
    }

    fn open(&mut self) -> io::Result<LogFile> {
        let ahead = self.opening.take().and_then(|thread| thread.join().ok());
        match ahead {
            Some(Ok(opened)) => Ok(opened),
            // Tried again: what was in the way may have gone.
            Some(Err(_)) | None => {
                let opened = LogFile::open(&self.path, &self.log).map_err(io::Error::other)?;
                sync_directory(&self.path)?;
                Ok(opened)
            }
        }
    }
}

impl Archive for AuditArchive {
    fn append(&mut self, records: &[Record]) -> io::Result<Chain> {
        let mut file = match self.open.take() {
            Some(file) => file,
            None => self.open()?,
        };
        let appended = file.append(records);
        let end = file.chain();
        self.open = Some(file);
        appended.map(|()| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_log_that_is_there_is_checked_from_the_start_on_and_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.log");
        let mut chain = lictor_audit::Chain::new("n");
        let mut next = || {
            let event = lictor_audit::Event::new(lictor_audit::EventType::AgentStarted);
            chain.append(lictor_proto::Timestamp::default(), event)
        };
        let new = AuditArchive::new(path.clone(), "n".to_owned());
        assert!(new.opening.is_none() && !path.exists());
        { new }.append(&[next()]).expect("appends");
        let mut again = AuditArchive::new(path.clone(), "n".to_owned());
        assert!(again.opening.is_some());
        again.append(&[next()]).expect("appends");
        again.append(&[next()]).expect("appends");
        assert_eq!(LogFile::open(&path, "n").expect("holds").chain().seq(), 3);
        let mut other = AuditArchive::new(path, "other".to_owned());
        assert!(other.append(&[]).is_err(), "another node's log");
    }
}
