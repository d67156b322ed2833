//! The writer: takes all steps that wait, writes them at once, syncs once, answers all.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

use lictor_audit::{Chain, Event, EventType};
use lictor_proto::agent::Wire;
use lictor_proto::{Digest, Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::entry::Entry;
use super::record::{self, FILE_HEADER};
use super::replay::{Line, lines};
use super::state::State;
use super::{Committed, Draft, JournalError, Open, Step};

/// Steps in one write.
const BATCH: usize = 256;
/// A rotated journal's records are closed at this size.
const ROTATED_RECORD: usize = 256 * 1024;

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
struct Chains {
    audit: Chain,
    receipts: u64,
    last_receipt: Option<Digest>,
}

/// A step in its written form.
struct Prepared {
    entries: Vec<Entry>,
    receipt: Option<(Digest, Wire)>,
    answer: Option<Answer>,
}

pub(super) struct Writer {
    open: Open,
    state: Arc<Mutex<State>>,
    audit_head: Arc<Mutex<Digest>>,
    chains: Chains,
    length: u64,
    durable: u64,
    rotated_length: u64,
    /// Set when a failed write could not be undone: nothing can be written safely until a restart.
    broken: Option<String>,
    /// Set while the disk was full: said with the next step that can be written.
    was_full: bool,
}

impl Writer {
    pub(super) fn new(
        open: Open,
        state: Arc<Mutex<State>>,
        audit_head: Arc<Mutex<Digest>>,
        audit: Chain,
        length: u64,
    ) -> Self {
        let (receipts, last_receipt) = lock(&state).receipt_head();
        Self {
            open,
            state,
            audit_head,
            chains: Chains {
                audit,
                receipts,
                last_receipt,
            },
            length,
            durable: length,
            rotated_length: 0,
            broken: None,
            was_full: false,
        }
    }

    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while commands.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.write_batch(std::mem::take(&mut batch));
            if self.length > self.rotated_length * 2 + self.open.rotate_after {
                self.rotate();
            }
        }
    }

    fn write_batch(&mut self, commands: Vec<Command>) {
        let before = self.chains.clone();
        let mut bytes = Vec::new();
        if self.length == 0 {
            bytes.extend_from_slice(FILE_HEADER);
        }
        let mut prepared = Vec::with_capacity(commands.len());
        let mut taken = HashSet::new();
        for command in commands {
            match self.prepare(command.step, &mut taken, &mut bytes) {
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
                self.was_full |= matches!(e, JournalError::DiskFull(_));
                tracing::error!(error = %e, "a journal write failed");
                for p in prepared {
                    reply(p.answer, Err(e.clone()));
                }
            }
        }
    }

    /// Chains, signs and encodes one step.
    fn prepare(
        &mut self,
        step: Step,
        taken: &mut HashSet<Digest>,
        out: &mut Vec<u8>,
    ) -> Result<Written, &'static str> {
        let mut entries = step.entries;
        {
            let state = lock(&self.state);
            for entry in &entries {
                state.admits(entry)?;
                if let Entry::Taken { job, .. } = entry
                    && !taken.insert(*job)
                {
                    return Err("the job has been taken before");
                }
            }
        }
        let now = Timestamp::now();
        let mut payload = String::new();
        let mut audit = |chain: &mut Chain, event: Event| {
            payload.push('A');
            payload.push_str(&chain.append(now, event).line());
            payload.push('\n');
        };
        if std::mem::take(&mut self.was_full) {
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
        record::encode(self.durable, payload.as_bytes(), out);
        Ok((entries, receipt))
    }

    /// Gives a receipt its place in the chain and signs it.
    fn seal(&mut self, draft: Draft, now: Timestamp) -> (Entry, Event) {
        let mut receipt = draft.receipt;
        let node_seq = self.chains.receipts + 1;
        receipt.node_seq = node_seq;
        receipt.prev = self.chains.last_receipt;
        receipt.audit_head = self.chains.audit.head();
        let (wire, digest) = self.open.signer.sign(&receipt);
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
        if let Some(why) = &self.broken {
            return Err(JournalError::Failed(why.clone()));
        }
        let _span = tracing::debug_span!("journal_write", bytes = bytes.len(), sync).entered();
        let written = self
            .append(bytes)
            .and_then(|()| if sync { self.open.file.sync() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
                if sync {
                    self.durable = self.length;
                }
                Ok(())
            }
            Err(e) => {
                if let Err(undo) = self.open.file.truncate(self.length) {
                    self.broken = Some(format!("a failed write could not be undone: {undo}"));
                }
                Err(failure(&e))
            }
        }
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.open.file.append(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn apply(&mut self, prepared: Vec<Prepared>) {
        *self.audit_head.lock().unwrap_or_else(PoisonError::into_inner) = self.chains.audit.head();
        for p in prepared {
            {
                let mut state = lock(&self.state);
                for entry in p.entries {
                    if let Err(why) = state.apply(entry) {
                        tracing::error!(why, "an entry was written that the state refuses");
                    }
                }
            }
            reply(p.answer, Ok(Committed { receipt: p.receipt }));
        }
    }

    /// Moves the audit records to the archive and starts the file anew with what is live. A failure leaves
    /// everything as it is; the next batch tries again.
    fn rotate(&mut self) {
        let _span = tracing::debug_span!("journal_rotate", length = self.length).entered();
        match self.try_rotate() {
            Ok(length) => {
                self.length = length;
                self.durable = length;
                self.rotated_length = length;
            }
            Err(e) => {
                tracing::error!(error = %e, "the journal could not be rotated");
                // Not again before it has grown by as much once more.
                self.rotated_length = self.length;
            }
        }
    }

    fn try_rotate(&mut self) -> io::Result<u64> {
        let bytes = self.open.file.read()?;
        let scan = record::scan(&bytes).map_err(io::Error::other)?;
        let mut records = Vec::new();
        for payload in scan.payloads {
            for line in lines(payload).map_err(io::Error::other)? {
                if let Line::Audit(record) = line {
                    records.push(record);
                }
            }
        }
        self.open.archive.append(&records)?;
        let entries = lock(&self.state).snapshot(&self.chains.audit);
        let mut next = FILE_HEADER.to_vec();
        // Many records, not one: the limit of a payload holds whatever the state's size.
        let mut payload = String::new();
        for entry in &entries {
            payload.push('E');
            payload.push_str(&serde_json::to_string(entry).map_err(io::Error::other)?);
            payload.push('\n');
            if payload.len() > ROTATED_RECORD {
                record::encode(0, payload.as_bytes(), &mut next);
                payload.clear();
            }
        }
        record::encode(0, payload.as_bytes(), &mut next);
        self.open.file.replace(&next)?;
        Ok(next.len() as u64)
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reply(answer: Option<Answer>, result: Result<Committed, JournalError>) {
    if let Some(answer) = answer {
        // Whoever asked may have gone; the step stands all the same.
        let _ = answer.send(result);
    }
}

fn failure(e: &io::Error) -> JournalError {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => JournalError::DiskFull(e.to_string()),
        _ => JournalError::Failed(e.to_string()),
    }
}
