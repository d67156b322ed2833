//! Starting the file anew: when it has grown, and when it cannot be believed any more.
//!
//! ```text
//! grown     sync; write what is live as the next file; old gets a second name; next takes its place; old is archived beside
//! doubtful  archive the old one; write what is live as the next file; next takes its place
//! ```
//!
//! In the first case the old file can be believed, and the writer waits for nothing but the new one. In the second it is
//! read while the system still has what was written to it.

use std::io;

use lictor_audit::Record;

use super::JournalError;
use super::archive::Room;
use super::file::ReplaceError;
use super::record::{self, FILE_HEADER, PAYLOAD};
use super::replay::audit_records;
use super::writer::{Condition, Writer, failure, lock};

/// A rotated journal's records are closed at this size.
const ROTATED_RECORD: usize = 256 * 1024;

impl Writer {
    /// Rotates when the file has grown by enough.
    pub(super) fn rotate_if_grown(&mut self) {
        if self.condition != Condition::Sound || self.length <= self.rotated_length * 2 + self.rotate_after {
            return;
        }
        let failed = match self.archiver.room(self.file.as_ref()) {
            Room::NotYet => return,
            Room::Free => self.succeed().err(),
            Room::Failed(e) => Some(ReplaceError::Kept(e)),
        };
        if let Some(e) = failed {
            tracing::error!(
                error = &e as &dyn std::error::Error,
                "the journal could not be rotated"
            );
            // Not again before it has grown by as much once more.
            self.rotated_length = self.length;
        }
    }

    /// Makes sure that the next write goes to a file that can be believed.
    ///
    /// # Errors
    /// When there is none: nothing may be written.
    pub(super) fn become_sound(&mut self) -> Result<(), JournalError> {
        if self.condition == Condition::Doubtful {
            match self.leave() {
                Ok(()) => tracing::warn!("the journal goes on in a new file, after a failed sync"),
                Err(ReplaceError::Kept(e)) => return Err(failure(&e)),
                Err(ReplaceError::Unsure(_)) => {}
            }
        }
        match &self.condition {
            Condition::Broken(why) => Err(JournalError::Broken(why.clone())),
            Condition::Sound | Condition::Doubtful => Ok(()),
        }
    }

    /// Closes a file that can be believed, and goes on in a new one with what is live.
    fn succeed(&mut self) -> Result<(), ReplaceError> {
        let _span = tracing::debug_span!("journal_rotate", length = self.length).entered();
        // The new file says that the old one has these records: also those that nobody waited for.
        if self.durable < self.length {
            if let Err(e) = self.file.sync() {
                self.condition = Condition::Doubtful;
                return Err(ReplaceError::Kept(e));
            }
            self.durable = self.length;
        }
        let next = self.next_file().map_err(ReplaceError::Kept)?;
        let replaced = self.file.succeed(&next);
        self.note_replaced(&replaced, &next);
        replaced?;
        let end = self.chains.audit.clone();
        if let Err(e) = self.archiver.begin(self.file.as_ref(), end) {
            tracing::error!(error = %e, "the closed journal cannot be archived yet");
        }
        Ok(())
    }

    /// Leaves a file that cannot be believed: all that it says goes elsewhere first.
    fn leave(&mut self) -> Result<(), ReplaceError> {
        let next = self.archive_and_write_next().map_err(ReplaceError::Kept)?;
        let replaced = self.file.replace(&next);
        self.note_replaced(&replaced, &next);
        replaced
    }

    fn note_replaced(&mut self, replaced: &Result<(), ReplaceError>, next: &[u8]) {
        match replaced {
            Ok(()) => {
                self.length = next.len() as u64;
                self.durable = self.length;
                self.rotated_length = self.length;
                self.condition = Condition::Sound;
            }
            Err(ReplaceError::Kept(_)) => {}
            Err(ReplaceError::Unsure(e)) => {
                let why = format!("a new file may not be in its place for good: {e}");
                self.condition = Condition::Broken(why.clone());
                self.shared.broken.send_replace(Some(why));
            }
        }
    }

    fn archive_and_write_next(&mut self) -> io::Result<Vec<u8>> {
        self.archiver.finish(self.file.as_ref())?;
        let records = self.audit_records()?;
        self.archiver.append(&records)?;
        self.next_file()
    }

    /// The file that is to follow: what is live.
    fn next_file(&self) -> io::Result<Vec<u8>> {
        let entries = lock(&self.shared.state).snapshot(&self.chains.audit);
        let mut next = FILE_HEADER.to_vec();
        // Many records, not one: the limit of a payload holds whatever the state's size.
        let mut payload = String::new();
        for entry in &entries {
            let json = serde_json::to_string(entry).map_err(io::Error::other)?;
            if !payload.is_empty() && payload.len() + json.len() > ROTATED_RECORD {
                record::encode(0, payload.as_bytes(), &mut next);
                payload.clear();
            }
            if json.len() + 2 > PAYLOAD {
                return Err(io::Error::other("an entry is longer than a record may be"));
            }
            payload.push('E');
            payload.push_str(&json);
            payload.push('\n');
        }
        record::encode(0, payload.as_bytes(), &mut next);
        Ok(next)
    }

    /// The audit records of the file, which must reach to the end of the chain: after a failed sync, what is read
    /// back may lack what was written.
    fn audit_records(&mut self) -> io::Result<Vec<Record>> {
        let mut bytes = self.file.read()?;
        // Beyond that stands at most what was answered as failed and could not be cut off.
        bytes.truncate(usize::try_from(self.length).unwrap_or(usize::MAX));
        let scan = record::scan(&bytes).map_err(io::Error::other)?;
        let mut records = Vec::new();
        for payload in scan.payloads {
            records.extend(audit_records(payload).map_err(io::Error::other)?);
        }
        if scan.length != self.length
            || records
                .last()
                .is_some_and(|r| r.hash() != self.chains.audit.head())
        {
            return Err(io::Error::other("the journal does not read as it was written"));
        }
        Ok(records)
    }
}
