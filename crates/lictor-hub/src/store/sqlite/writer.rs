//! The one writer: takes steps from a bounded queue and commits as many as are waiting in one transaction.
//!
//! ```text
//!   steps --queue--> [ BEGIN  step step step  audit records  COMMIT ] --> each caller gets its answer
//! ```
//!
//! A step that no person or node waits for stays in the queue for up to [`LINGER`], so that a short job's insert,
//! states and result are one transaction, and several jobs' results one sync. A step that somebody waits for takes
//! everything before it along at once; so does a read ([`Writer::settle`]).
//!
//! A step that fails rolls the whole batch back, and each step is then tried alone, so that a bad one harms
//! nobody else's. The sync of a commit in WAL mode covers the whole file: a [`Durability::Synced`] step makes
//! every step before it durable too (docs/decisions/0008-hub-durability.md).
//!
//! # Invariants
//! - Nobody gets an answer before the commit that holds their step.
//! - The audit records of a step are in its transaction.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lictor_audit::{Chain, Event};
use lictor_proto::{Digest, OrgId, Timestamp};
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::store::{Durability, StoreError};

/// Steps that may wait; beyond it callers wait for a place.
const QUEUE: usize = 4096;
/// Steps in one transaction.
const BATCH: usize = 256;
/// How long a step that nobody waits for may wait for company.
const LINGER: Duration = Duration::from_millis(10);

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One thing to write. It may be applied twice, when the first transaction was rolled back.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets.
    type Out: Send + 'static;
    /// What the caller waits for.
    fn durability(&self) -> Durability {
        Durability::Synced
    }
    /// Whether somebody waits for its commit.
    fn is_awaited(&self) -> bool {
        self.durability() == Durability::Synced
    }
    /// Does it.
    fn apply(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Out, StoreError>> + Send;
}

macro_rules! insert_notes {
    ($rows:literal) => {
        concat!("INSERT INTO audit (log, seq, line) VALUES ", $rows)
    };
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
        let mut lines = Vec::with_capacity(self.notes.len());
        for (log, event) in std::mem::take(&mut self.notes) {
            if !self.heads.contains_key(&log) {
                let chain = read_head(&mut self.conn, &log).await?;
                self.heads.insert(log.clone(), chain);
            }
            let Some(chain) = self.heads.get_mut(&log) else {
                continue;
            };
            let record = chain.append(self.now, event);
            lines.push((log, record.seq() as i64, record.line()));
        }
        let mut left = lines.as_slice();
        while !left.is_empty() {
            // Each statement is a trip to the connection's thread and back; few texts keep the cache of them small.
            let (rows, statement) = match left.len() {
                16.. => (
                    16,
                    insert_notes!(
                        "(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?)"
                    ),
                ),
                4.. => (4, insert_notes!("(?,?,?),(?,?,?),(?,?,?),(?,?,?)")),
                _ => (1, insert_notes!("(?,?,?)")),
            };
            let (now, rest) = left.split_at(rows);
            let mut query = sqlx::query(statement);
            for (log, seq, line) in now {
                query = query.bind(log).bind(seq).bind(line);
            }
            query.execute(&mut self.conn).await?;
            left = rest;
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
    fn is_awaited(&self) -> bool;
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

    fn is_awaited(&self) -> bool {
        self.write.is_awaited()
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

/// Nothing to write, but somebody waits for what was taken before.
struct Settle;

impl Write for Settle {
    type Out = ();

    fn durability(&self) -> Durability {
        Durability::Relaxed
    }

    fn is_awaited(&self) -> bool {
        true
    }

    async fn apply(&self, _: &mut Tx) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The way into the writer.
pub(super) struct Writer {
    queue: std::sync::Mutex<Option<mpsc::Sender<Box<dyn Queued>>>>,
    /// Steps taken and not settled.
    open: Arc<AtomicUsize>,
    done: tokio_util::sync::CancellationToken,
}

impl Writer {
    /// Starts the writer on its connection.
    pub(super) fn start(conn: SqliteConnection, tasks: &TaskTracker) -> Self {
        let (queue, steps) = mpsc::channel(QUEUE);
        let done = tokio_util::sync::CancellationToken::new();
        let ended = done.clone();
        let open = Arc::new(AtomicUsize::new(0));
        let settled = open.clone();
        tasks.spawn(async move {
            run(conn, steps, &settled).await;
            ended.cancel();
        });
        Self {
            queue: std::sync::Mutex::new(Some(queue)),
            open,
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
        self.open.fetch_add(1, Ordering::SeqCst);
        queue.send(ticket).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Returns when every step taken so far is committed: what is read then is not older than what was told.
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        if self.open.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        match self.run(Settle).await {
            // Closing commits everything as well.
            Err(StoreError::Closed) => Ok(()),
            settled => settled,
        }
    }

    /// Takes nothing more and waits until everything taken is committed.
    pub(super) async fn close(&self) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.take();
        }
        self.done.cancelled().await;
    }
}

type Steps = mpsc::Receiver<Box<dyn Queued>>;

async fn run(conn: SqliteConnection, mut steps: Steps, open: &AtomicUsize) {
    let mut tx = Tx {
        conn,
        now: Timestamp::now(),
        notes: Vec::new(),
        heads: HashMap::new(),
        synced: true,
    };
    while let Some(first) = steps.recv().await {
        let batch = gather(first, &mut steps).await;
        let taken = batch.len();
        metrics::gauge!("lictor_hub_store_queue").set(steps.len() as f64);
        commit(&mut tx, batch).await;
        open.fetch_sub(taken, Ordering::SeqCst);
    }
    use sqlx::Connection as _;
    if let Err(e) = tx.conn.close().await {
        tracing::warn!(error = %e, "closing the database");
    }
}

/// What goes into one transaction: as much as waits, and what comes until somebody waits or [`LINGER`] is over.
async fn gather(first: Box<dyn Queued>, steps: &mut Steps) -> Vec<Box<dyn Queued>> {
    let until = Instant::now() + LINGER;
    let mut awaited = first.is_awaited();
    let mut batch = vec![first];
    while batch.len() < BATCH {
        let next = match steps.try_recv() {
            Ok(next) => Some(next),
            Err(_) if awaited => None,
            Err(_) => tokio::time::timeout_at(until, steps.recv()).await.ok().flatten(),
        };
        let Some(next) = next else { break };
        awaited |= next.is_awaited();
        batch.push(next);
    }
    batch
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
