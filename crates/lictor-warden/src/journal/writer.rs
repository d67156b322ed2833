//! The writer: takes all steps that wait, writes them at once, syncs once, answers all.
//!
//! ```text
//! sound --a sync failed--> doubtful --everything that is live is in a new file--> sound
//!   '------------------------'----- a new file may not be in its place for good --> broken, until a restart
//! ```

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

use lictor_audit::record::LINE;
use lictor_audit::{Chain, Event, EventType};
use lictor_proto::agent::Wire;
use lictor_proto::{Digest, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use super::ahead::Ahead;
use super::archive::Archiver;
use super::entry::Entry;
use super::file::JournalFile;
use super::record::{self, FILE_HEADER, STEP};
use super::replay::Replayed;
use super::state::State;
use super::{Committed, Draft, JournalError, Open, Signer, Step};

/// Steps in one write.
const BATCH: usize = 256;

type Answer = oneshot::Sender<Result<Committed, JournalError>>;

/// What became of a step: its entries as written, and its receipt.
type Written = (Vec<Entry>, Option<(Digest, Wire)>);

/// What is asked of the writer.
pub(super) struct Command {
    step: Step,
    /// `None`: nobody waits, and no sync is needed.
    answer: Option<Answer>,
}

impl Command {
    pub(super) fn synced(step: Step, answer: Answer) -> Self {
        Self {
            step,
            answer: Some(answer),
        }
    }

    pub(super) fn lazy(step: Step) -> Self {
        Self { step, answer: None }
    }
}

/// The chains, as far as they have been handed out.
#[derive(Clone)]
pub(super) struct Chains {
    pub(super) audit: Chain,
    receipts: u64,
    last_receipt: Option<Digest>,
}

/// A step in its written form.
struct Prepared {
    entries: Vec<Entry>,
    receipt: Option<(Digest, Wire)>,
    answer: Option<Answer>,
}

/// What can be expected of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// What was written and synced is there.
    Sound,
    /// A sync failed, or a failed write could not be undone. The system may have dropped what it could not write and
    /// call the next sync a success, so nothing more is added to this file.
    Doubtful,
    /// Nothing can be written safely until a restart.
    Broken(String),
}

/// A step as it is to be written.
struct Composed {
    entries: Vec<Entry>,
    receipt: Option<(Digest, Wire)>,
    payload: String,
    longest_audit_line: usize,
}

/// What the handles see of the writer.
pub(super) struct Shared {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) audit_head: Arc<Mutex<Digest>>,
    pub(super) broken: watch::Sender<Option<String>>,
}

pub(super) struct Writer {
    pub(super) file: Box<dyn JournalFile>,
    pub(super) archiver: Archiver,
    signer: Box<dyn Signer>,
    pub(super) rotate_after: u64,
    pub(super) shared: Shared,
    pub(super) chains: Chains,
    pub(super) length: u64,
    pub(super) durable: u64,
    pub(super) rotated_length: u64,
    pub(super) condition: Condition,
    /// Set while the disk was full: said with the next step that can be written.
    was_full: bool,
}

impl Writer {
    /// The writer of a journal that was read. A closed journal that is still there is archived from now on.
    pub(super) fn new(open: Open, shared: Shared, read: &Replayed) -> Self {
        let (receipts, last_receipt) = lock(&shared.state).receipt_head();
        let mut archiver = Archiver::new(open.archive);
        if let Err(e) = archiver.begin(open.file.as_ref(), read.base.clone()) {
            tracing::error!(error = %e, "the closed journal cannot be archived yet");
        }
        Self {
            file: open.file,
            archiver,
            signer: open.signer,
            rotate_after: open.rotate_after,
            shared,
            chains: Chains {
                audit: read.chain.clone(),
                receipts,
                last_receipt,
            },
            length: read.length,
            durable: read.length,
            rotated_length: 0,
            condition: Condition::Sound,
            was_full: false,
        }
    }

    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while commands.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.write_batch(std::mem::take(&mut batch));
            self.rotate_if_grown();
        }
        if let Err(e) = self.archiver.finish(self.file.as_ref()) {
            tracing::error!(error = %e, "the closed journal is left for the next start to archive");
        }
    }

    fn write_batch(&mut self, commands: Vec<Command>) {
        if let Err(e) = self.become_sound() {
            for command in commands {
                reply(command.answer, Err(e.clone()));
            }
            return;
        }
        let (before, was_full) = (self.chains.clone(), self.was_full);
        let mut bytes = Vec::new();
        if self.length == 0 {
            bytes.extend_from_slice(FILE_HEADER);
        }
        let mut prepared = Vec::with_capacity(commands.len());
        let mut ahead = Ahead::default();
        for command in commands {
            match self.prepare(command.step, &mut ahead, &mut bytes) {
                Ok((entries, receipt)) => prepared.push(Prepared {
                    entries,
                    receipt,
                    answer: command.answer,
                }),
                Err(why) => reply(command.answer, Err(JournalError::Refused(why))),
            }
        }
        if prepared.is_empty() {
            return;
        }
        let sync = prepared.iter().any(|p| p.answer.is_some());
        match self.write(&bytes, sync) {
            Ok(()) => self.apply(prepared),
            Err(e) => {
                self.chains = before;
                self.was_full = was_full || matches!(e, JournalError::DiskFull(_));
                tracing::error!(error = %e, "a journal write failed");
                for p in prepared {
                    reply(p.answer, Err(e.clone()));
                }
            }
        }
    }

    /// Chains, signs and encodes one step, if a replay of the file would take it.
    fn prepare(&mut self, step: Step, ahead: &mut Ahead, out: &mut Vec<u8>) -> Result<Written, &'static str> {
        let change = ahead.admit(&lock(&self.shared.state), &step)?;
        let before = self.chains.clone();
        let composed = self.compose(step);
        let too_long = composed.payload.len() > STEP || composed.longest_audit_line > LINE;
        if too_long {
            self.chains = before;
            return Err("it is longer than a step may be");
        }
        self.was_full = false;
        ahead.take_in(change);
        record::encode(self.durable, composed.payload.as_bytes(), out);
        Ok((composed.entries, composed.receipt))
    }

    fn compose(&mut self, step: Step) -> Composed {
        let mut entries = step.entries;
        let now = Timestamp::now();
        let mut payload = String::new();
        let mut longest_audit_line = 0;
        let mut audit = |chain: &mut Chain, event: Event| {
            let line = chain.append(now, event).line();
            longest_audit_line = longest_audit_line.max(line.len());
            payload.push('A');
            payload.push_str(&line);
            payload.push('\n');
        };
        if self.was_full {
            audit(&mut self.chains.audit, Event::new(EventType::DiskFull));
        }
        for event in step.audit {
            audit(&mut self.chains.audit, event);
        }
        let mut receipt = None;
        if let Some(draft) = step.receipt {
            let (entry, event) = self.seal(draft, now);
            audit(&mut self.chains.audit, event);
            if let Entry::Finished {
                digest,
                receipt: wire,
                ..
            } = &entry
            {
                receipt = Some((*digest, wire.clone()));
            }
            entries.push(entry);
        }
        for entry in &entries {
            payload.push('E');
            // Plain data with string keys: cannot fail to serialise.
            payload.push_str(&serde_json::to_string(entry).unwrap_or_default());
            payload.push('\n');
        }
        Composed {
            entries,
            receipt,
            payload,
            longest_audit_line,
        }
    }

    /// Gives a receipt its place in the chain and signs it.
    fn seal(&mut self, draft: Draft, now: Timestamp) -> (Entry, Event) {
        let mut receipt = draft.receipt;
        let node_seq = self.chains.receipts + 1;
        receipt.node_seq = node_seq;
        receipt.prev = self.chains.last_receipt;
        receipt.audit_head = self.chains.audit.head();
        let (wire, digest) = self.signer.sign(&receipt);
        self.chains.receipts = node_seq;
        self.chains.last_receipt = Some(digest);
        let event = draft.event.with_id("receipt", &digest).with("node_seq", node_seq);
        let entry = Entry::Finished {
            job: receipt.job_digest,
            receipt: wire,
            digest,
            node_seq,
            at: now,
            log: draft.log,
        };
        (entry, event)
    }

    fn write(&mut self, bytes: &[u8], sync: bool) -> Result<(), JournalError> {
        let _span = tracing::debug_span!("journal_write", bytes = bytes.len(), sync).entered();
        if let Err(e) = self.append(bytes) {
            if let Err(undo) = self.file.truncate(self.length) {
                tracing::error!(error = %undo, "a failed journal write could not be undone");
                self.condition = Condition::Doubtful;
            }
            return Err(failure(&e));
        }
        if sync && let Err(e) = self.file.sync() {
            self.condition = Condition::Doubtful;
            // So that a restart most likely does not find what was answered as failed; it may, and that is safe.
            let _ = self.file.truncate(self.length);
            return Err(failure(&e));
        }
        self.length += bytes.len() as u64;
        if sync {
            self.durable = self.length;
        }
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.append(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn apply(&mut self, prepared: Vec<Prepared>) {
        *self
            .shared
            .audit_head
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.chains.audit.head();
        for p in prepared {
            {
                let mut state = lock(&self.shared.state);
                for entry in p.entries {
                    if let Err(why) = state.apply(entry) {
                        tracing::error!(why, "an entry was written that the state refuses");
                    }
                }
            }
            reply(p.answer, Ok(Committed { receipt: p.receipt }));
        }
    }
}

pub(super) fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reply(answer: Option<Answer>, result: Result<Committed, JournalError>) {
    if let Some(answer) = answer {
        // Whoever asked may have gone; the step stands all the same.
        let _ = answer.send(result);
    }
}

pub(super) fn failure(e: &io::Error) -> JournalError {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => JournalError::DiskFull(e.to_string()),
        _ => JournalError::Failed(e.to_string()),
    }
}
