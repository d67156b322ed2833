//! The one writer: takes steps from a bounded queue and commits as many as are waiting in one transaction.
//!
//! ```text
//!   steps --queue--> [ BEGIN  step step step  audit records  COMMIT ] --> each caller gets its answer
//! ```
//!
//! A step that fails rolls the whole batch back, and each step is then tried alone, so that a bad one harms
//! nobody else's. The sync of a commit in WAL mode covers the whole file: a [`Durability::Synced`] step makes
//! every step before it durable too (docs/decisions/0010-hub-durability.md).
//!
//! # Invariants
//! - Nobody gets an answer before the commit that holds their step.
//! - The audit records of a step are in its transaction.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use lictor_audit::{Chain, Event};
use lictor_proto::{Digest, OrgId, Timestamp};
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::store::{Durability, StoreError};

/// Steps that may wait; beyond it callers wait for a place.
const QUEUE: usize = 4096;
/// Steps in one transaction.
const BATCH: usize = 256;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One thing to write. It may be applied twice, when the first transaction was rolled back.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets.
    type Out: Send + 'static;
    /// What the caller waits for.
    fn durability(&self) -> Durability {
        Durability::Synced
    }
    /// Does it.
    fn apply(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Out, StoreError>> + Send;
}

/// The transaction that steps work in.
pub(super) struct Tx {
    /// The connection, inside a transaction.
    pub(super) conn: SqliteConnection,
    /// One clock reading per transaction.
    pub(super) now: Timestamp,
    notes: Vec<(String, Event)>,
    heads: HashMap<String, Chain>,
    synced: bool,
}

/// The log of what belongs to no org.
pub(super) const HUB_LOG: &str = "hub";

impl Tx {
    /// Records `event` in the org's log, or the hub's own, with this transaction.
    pub(super) fn note(&mut self, org: Option<&OrgId>, event: Event) {
        let log = org.map_or(HUB_LOG, OrgId::as_str);
        self.notes.push((log.to_owned(), event));
    }

    async fn write_notes(&mut self) -> Result<(), StoreError> {
        for (log, event) in std::mem::take(&mut self.notes) {
            if !self.heads.contains_key(&log) {
                let chain = read_head(&mut self.conn, &log).await?;
                self.heads.insert(log.clone(), chain);
            }
            let Some(chain) = self.heads.get_mut(&log) else {
                continue;
            };
            let record = chain.append(self.now, event);
            sqlx::query("INSERT INTO audit (log, seq, line) VALUES (?1, ?2, ?3)")
                .bind(&log)
                .bind(record.seq() as i64)
                .bind(record.line())
                .execute(&mut self.conn)
                .await?;
        }
        Ok(())
    }

    async fn begin(&mut self, durability: Durability) -> Result<(), StoreError> {
        let synced = durability == Durability::Synced;
        if synced != self.synced {
            let pragma = if synced {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            };
            sqlx::query(pragma).execute(&mut self.conn).await?;
            self.synced = synced;
        }
        self.now = Timestamp::now();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        Ok(())
    }

    async fn roll_back(&mut self) {
        self.notes.clear();
        // The chains ran ahead of what is stored; they are read again.
        self.heads.clear();
        if let Err(e) = sqlx::query("ROLLBACK").execute(&mut self.conn).await {
            tracing::error!(error = %e, "rollback failed");
        }
    }
}

async fn read_head(conn: &mut SqliteConnection, log: &str) -> Result<Chain, StoreError> {
    let last: Option<(i64, String)> =
        sqlx::query_as("SELECT seq, line FROM audit WHERE log = ?1 ORDER BY seq DESC LIMIT 1")
            .bind(log)
            .fetch_optional(conn)
            .await?;
    let Some((seq, line)) = last else {
        return Ok(Chain::new(log));
    };
    let record = lictor_audit::Record::parse(&line)
        .map_err(|e| StoreError::Corrupt(format!("audit record {seq} of {log}: {e}")))?;
    let head: Digest = record.hash();
    Ok(Chain::resume(record.seq(), head))
}

/// A step in the queue.
trait Queued: Send {
    fn durability(&self) -> Durability;
    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Tells the caller: what `apply` gave, now that it is committed, or why not.
    fn settle(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Ticket<W: Write> {
    write: W,
    out: Option<W::Out>,
    caller: oneshot::Sender<Result<W::Out, StoreError>>,
}

impl<W: Write> Queued for Ticket<W> {
    fn durability(&self) -> Durability {
        self.write.durability()
    }

    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.out = Some(self.write.apply(tx).await?);
            Ok(())
        })
    }

    fn settle(mut self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = outcome.and_then(|()| self.out.take().ok_or(StoreError::Closed));
        // A caller that went away does not want to know; the step stands.
        let _ = self.caller.send(answer);
    }
}

/// The way into the writer.
pub(super) struct Writer {
    queue: std::sync::Mutex<Option<mpsc::Sender<Box<dyn Queued>>>>,
    done: tokio_util::sync::CancellationToken,
}

impl Writer {
    /// Starts the writer on its connection.
    pub(super) fn start(conn: SqliteConnection, tasks: &TaskTracker) -> Self {
        let (queue, steps) = mpsc::channel(QUEUE);
        let done = tokio_util::sync::CancellationToken::new();
        let ended = done.clone();
        tasks.spawn(async move {
            run(conn, steps).await;
            ended.cancel();
        });
        Self {
            queue: std::sync::Mutex::new(Some(queue)),
            done,
        }
    }

    /// Commits `write`.
    pub(super) async fn run<W: Write>(&self, write: W) -> Result<W::Out, StoreError> {
        let (caller, answer) = oneshot::channel();
        let ticket = Box::new(Ticket {
            write,
            out: None,
            caller,
        });
        let queue = self.queue.lock().map_err(|_| StoreError::Closed)?.clone();
        let queue = queue.ok_or(StoreError::Closed)?;
        queue.send(ticket).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes nothing more and waits until everything taken is committed.
    pub(super) async fn close(&self) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.take();
        }
        self.done.cancelled().await;
    }
}

async fn run(conn: SqliteConnection, mut steps: mpsc::Receiver<Box<dyn Queued>>) {
    let mut tx = Tx {
        conn,
        now: Timestamp::now(),
        notes: Vec::new(),
        heads: HashMap::new(),
        synced: true,
    };
    while let Some(first) = steps.recv().await {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = steps.try_recv()
        {
            batch.push(next);
        }
        metrics::gauge!("lictor_hub_store_queue").set(steps.len() as f64);
        commit(&mut tx, batch).await;
    }
    use sqlx::Connection as _;
    if let Err(e) = tx.conn.close().await {
        tracing::warn!(error = %e, "closing the database");
    }
}

async fn commit(tx: &mut Tx, mut batch: Vec<Box<dyn Queued>>) {
    metrics::histogram!("lictor_hub_store_batch").record(batch.len() as f64);
    let began = std::time::Instant::now();
    let outcome = attempt(tx, &mut batch).await;
    metrics::histogram!("lictor_hub_commit_seconds").record(began.elapsed());
    match outcome {
        Ok(()) => batch.into_iter().for_each(|s| s.settle(Ok(()))),
        Err(e) if batch.len() == 1 => batch.into_iter().for_each(|s| s.settle(Err(forward(&e)))),
        Err(e) => {
            tracing::warn!(error = %e, steps = batch.len(), "a batch failed; its steps are tried one by one");
            for step in batch {
                let mut alone = vec![step];
                let outcome = attempt(tx, &mut alone).await;
                for step in alone {
                    step.settle(outcome.as_ref().map(|&()| ()).map_err(forward));
                }
            }
        }
    }
}

async fn attempt(tx: &mut Tx, batch: &mut [Box<dyn Queued>]) -> Result<(), StoreError> {
    let durability = batch.iter().map(|s| s.durability()).max();
    tx.begin(durability.unwrap_or(Durability::Synced)).await?;
    let outcome = apply_all(tx, batch).await;
    if outcome.is_err() {
        tx.roll_back().await;
    }
    outcome
}

async fn apply_all(tx: &mut Tx, batch: &mut [Box<dyn Queued>]) -> Result<(), StoreError> {
    for step in batch.iter_mut() {
        step.apply(tx).await?;
    }
    tx.write_notes().await?;
    sqlx::query("COMMIT").execute(&mut tx.conn).await?;
    Ok(())
}

/// An error for each caller of a batch; the source is logged once, here.
fn forward(e: &StoreError) -> StoreError {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        text.push_str(": ");
        text.push_str(&s.to_string());
        source = s.source();
    }
    StoreError::Aborted(text)
}
