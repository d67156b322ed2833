//! The journal: one append-only file, one writer, one sync for all steps that wait.
//!
//! It is the truth for start and result. A step (entries that change the state, audit events, at most one receipt)
//! is one record in the file: all of it is found after a crash, or none. The writer's thread owns what must have
//! one order on this node: the audit chain and the chain of receipts, which it signs as it writes.
//!
//! ```text
//! commit(step) --> queue --> [writer thread: chain, sign, encode the batch; write; sync_data; apply to State] --> answer
//! ```
//!
//! # Invariants
//! - [`State`] changes only by entries that are in the file; for a synced step only after the sync.
//! - A failed write leaves file, chains and state as they were before the batch. After a failed sync nothing is added
//!   to the file any more: everything live goes to a new one first.
//! - What the writer takes, a replay takes: a step that contradicts the state or the steps before it in its batch, or
//!   that is too long to be read back, is refused.
//! - A rotation stops nobody for longer than it takes to write what is live: the old file's audit records are archived
//!   beside the writer ([`archive`]).
//! - A torn end is cut at start. Damage *before* what was known durable is an error, never a shorter journal: a
//!   forgotten job could start twice.

mod ahead;
pub mod archive;
pub mod entry;
pub mod export;
pub mod file;
pub mod record;
pub mod replay;
mod rotation;
pub mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lictor_audit::{Chain, Event, Record};
use lictor_proto::agent::Wire;
use lictor_proto::code::Refusal;
use lictor_proto::doc::Receipt;
use lictor_proto::{Code, Digest};
use tokio::sync::{mpsc, oneshot, watch};

use entry::{Entry, Log};
use file::JournalFile;
use state::State;

/// Steps that may wait for the writer; beyond that, callers wait for room.
const QUEUE: usize = 1024;

/// Why nothing can be written when nobody is there to write.
const ENDED: &str = "its writer has ended";

/// What is written as one record.
#[derive(Debug, Default)]
pub struct Step {
    /// Changes of the state, in order.
    pub entries: Vec<Entry>,
    /// What the audit log says about it.
    pub audit: Vec<Event>,
    /// The end of an execution; the writer gives it its place, signs it and adds [`Entry::Finished`].
    pub receipt: Option<Draft>,
}

/// A receipt without its place in the node's chain.
#[derive(Debug)]
pub struct Draft {
    /// `node_seq`, `prev` and `audit_head` are filled in by the writer.
    pub receipt: Receipt,
    /// What is kept of the log.
    pub log: Log,
    /// Written after the receipt, with its digest.
    pub event: Event,
}

/// A step that is in the journal.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Digest and bytes of the receipt, if the step had one.
    pub receipt: Option<(Digest, Wire)>,
}

/// Signs receipts; the writer's only view of the identity key.
pub trait Signer: Send {
    /// The signed envelope and the document's digest.
    fn sign(&self, receipt: &Receipt) -> (Wire, Digest);
}

/// Where audit records go when the journal is rotated.
pub trait Archive: Send {
    /// Appends these records durably; those that it has already are passed over. Gives its end.
    ///
    /// # Errors
    /// When it cannot; the journal is then not rotated.
    fn append(&mut self, records: &[Record]) -> std::io::Result<Chain>;
}

/// Why a step is not in the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// No room on the disk.
    #[error("no room for the journal: {0}")]
    DiskFull(String),
    /// Any other failure of the file.
    #[error("the journal cannot be written: {0}")]
    Failed(String),
    /// Nothing can be written any more until the agent is started again.
    #[error("the journal cannot be relied on until the agent is started again: {0}")]
    Broken(String),
    /// The step contradicts the state, for example takes a job a second time.
    #[error("the journal refuses the step: {0}")]
    Refused(&'static str),
}

impl From<&JournalError> for Refusal {
    fn from(e: &JournalError) -> Self {
        let code = match e {
            JournalError::DiskFull(_) => Code::DiskFull,
            JournalError::Failed(_) | JournalError::Broken(_) | JournalError::Refused(_) => {
                Code::JournalFailed
            }
        };
        Self::new(code, e.to_string())
    }
}

/// What the journal is opened with.
pub struct Open {
    /// The file.
    pub file: Box<dyn JournalFile>,
    /// The archive of audit records.
    pub archive: Box<dyn Archive>,
    /// The signer of receipts.
    pub signer: Box<dyn Signer>,
    /// The node id: the name of the audit log.
    pub log: String,
    /// Rotate when the file has grown by this much beyond twice its live content.
    pub rotate_after: u64,
}

/// A handle to the journal. Cheap to clone; the writer ends when the last one goes.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<writer::Command>,
    state: Arc<Mutex<State>>,
    audit_head: Arc<Mutex<Digest>>,
    /// Why nothing can be written any more, once that is so.
    broken: watch::Receiver<Option<String>>,
}

/// The writer's thread, to be waited for at the end: it ends when nothing is left to archive, too.
#[derive(Debug)]
pub struct WriterThread(JoinHandle<()>);

impl WriterThread {
    /// Waits until the writer has written everything and ended. All handles must have gone.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the journal's writer panicked");
        }
    }
}

impl Journal {
    /// Reads what is there, cuts a torn end, and starts the writer. Also says how many torn bytes were cut.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged before its durable end.
    pub fn open(mut open: Open) -> Result<(Self, WriterThread, u64), replay::OpenError> {
        let mut read = replay::replay(open.file.as_mut(), &open.log)?;
        let state = Arc::new(Mutex::new(std::mem::take(&mut read.state)));
        let (queue, commands) = mpsc::channel(QUEUE);
        let audit_head = Arc::new(Mutex::new(read.chain.head()));
        let (breaks, broken) = watch::channel(None);
        let shared = writer::Shared {
            state: state.clone(),
            audit_head: audit_head.clone(),
            broken: breaks,
        };
        let writer = writer::Writer::new(open, shared, &read);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(commands))
            .map_err(replay::OpenError::Io)?;
        let journal = Self {
            queue,
            state,
            audit_head,
            broken,
        };
        Ok((journal, WriterThread(thread), read.torn))
    }

    /// Writes a step and returns once it is durable.
    ///
    /// # Errors
    /// When it is not in the journal; nothing of it is then.
    pub async fn commit(&self, step: Step) -> Result<Committed, JournalError> {
        let (answer, wait) = oneshot::channel();
        let ended = || JournalError::Broken(ENDED.to_owned());
        self.queue
            .send(writer::Command::synced(step, answer))
            .await
            .map_err(|_| ended())?;
        wait.await.map_err(|_| ended())?
    }

    /// Returns, with why, when nothing can be written any more until the agent is started again.
    pub async fn broken(&self) -> JournalError {
        let mut broken = self.broken.clone();
        let why = broken.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        JournalError::Broken(why.unwrap_or_else(|| ENDED.to_owned()))
    }

    /// Whether something can be written.
    ///
    /// # Errors
    /// [`JournalError::Broken`].
    pub fn check(&self) -> Result<(), JournalError> {
        if let Some(why) = &*self.broken.borrow() {
            return Err(JournalError::Broken(why.clone()));
        }
        match self.broken.has_changed() {
            Ok(_) => Ok(()),
            Err(_) => Err(JournalError::Broken(ENDED.to_owned())),
        }
    }

    /// Writes a step without waiting and without a sync of its own: it becomes durable with the next one. For
    /// facts that a crash may forget, because recovery finds them out again.
    pub fn note(&self, step: Step) {
        if self.queue.try_send(writer::Command::lazy(step)).is_err() {
            tracing::warn!("the journal is behind; a note was dropped");
        }
    }

    /// Head of the audit log, as far as it is written.
    #[must_use]
    pub fn audit_head(&self) -> Digest {
        *self.audit_head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as the journal has it. Not to be held over an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
