//! How executions end: by receipt, by a lapsed lease, by running out of time in the queue.

use lictor_audit::{Event, EventType};
use lictor_proto::api::ExecutionState;
use lictor_proto::{Code, Digest, OrgId, Timestamp};

use super::documents::insert_document;
use super::jobs::{insert_executions, insert_job};
use super::logs::insert_segment;
use super::notices;
use super::rows::{digest, ms, text};
use super::writer::{Tx, Write};
use crate::store::{DocumentRow, ExecutionKey, Inserted, JobDocument, Recorded, ResultRow, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

/// The first receipt of an execution stands for good; the same again is fine, another is a conflict.
pub(super) struct RecordResult {
    pub(super) org: OrgId,
    pub(super) result: ResultRow,
}

impl Write for RecordResult {
    type Out = Recorded;

    /// Its followers have the receipt already, and its node keeps it until it hears of the commit.
    fn is_awaited(&self) -> bool {
        false
    }

    async fn apply(&self, tx: &mut Tx) -> Result<Recorded> {
        let r = &self.result;
        let key = ExecutionKey {
            org: self.org.clone(),
            job_id: r.job.job_id.clone(),
            node_id: r.node_id.clone(),
        };
        // Nearly always the job is there and has no receipt yet.
        if self.mark(tx, &key).await? {
            self.store(tx, &key, false).await?;
            return Ok(Recorded::New);
        }
        // A hub that lost the job takes it from the result, which carries it.
        let lost = insert_job(tx, &self.org, &r.job).await? == Inserted::New;
        if !lost {
            // Another node fired the same time of a schedule, and told of it before.
            insert_executions(tx, &self.org, &r.job).await?;
        }
        let before: Option<(Option<Vec<u8>>,)> =
            sqlx::query_as("SELECT receipt FROM executions WHERE org = ?1 AND job_id = ?2 AND node_id = ?3")
                .bind(key.org.as_str())
                .bind(key.job_id.as_str())
                .bind(key.node_id.as_str())
                .fetch_optional(&mut tx.conn)
                .await?;
        let stored = before.and_then(|(r,)| r).map(|r| digest(&r)).transpose()?;
        match stored {
            Some(d) if d == r.receipt_digest => Ok(Recorded::Same),
            Some(d) => {
                tx.note(Some(&self.org), self.conflict(&key, &d));
                Ok(Recorded::Conflict)
            }
            None => {
                self.mark(tx, &key).await?;
                self.store(tx, &key, lost).await?;
                Ok(Recorded::New)
            }
        }
    }
}

impl RecordResult {
    /// Ends an execution that has no receipt; says whether there is one.
    async fn mark(&self, tx: &mut Tx, key: &ExecutionKey) -> Result<bool> {
        let r = &self.result;
        let done = sqlx::query(
            "UPDATE executions SET state = ?4, code = ?5, message = ?6, started_at = COALESCE(?7, started_at),
               finished_at = ?8, lease_expires_at = NULL, receipt = ?9
             WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND receipt IS NULL",
        )
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .bind(r.state.as_str())
        .bind(r.refusal.as_ref().map(|x| x.code.as_str()))
        .bind(r.refusal.as_ref().map_or("", |x| x.message.as_str()))
        .bind(r.started_at.map(ms))
        .bind(ms(r.finished_at))
        .bind(r.receipt_digest.0.as_slice())
        .execute(&mut tx.conn)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// What belongs to the end besides the state: the last output, the receipt, the audit record.
    async fn store(&self, tx: &mut Tx, key: &ExecutionKey, lost: bool) -> Result<()> {
        let r = &self.result;
        for segment in &r.segments {
            insert_segment(tx, key, segment).await?;
        }
        let doc = DocumentRow {
            kind: JobDocument::Receipt,
            digest: r.receipt_digest,
            node_id: Some(key.node_id.clone()),
            wire: r.receipt.clone(),
        };
        insert_document(tx, &self.org, &key.job_id, &doc).await?;
        let event = Event::new(EventType::ResultStored)
            .with_id("job_id", &key.job_id)
            .with_id("node_id", &key.node_id)
            .with_id("receipt", &r.receipt_digest)
            .with("state", r.state.as_str())
            .with("job_was_lost", lost);
        tx.note(Some(&self.org), event);
        let code = r.refusal.as_ref().map(|why| why.code);
        notices::of_execution(tx, key, r.state, code).await
    }

    fn conflict(&self, key: &ExecutionKey, stored: &Digest) -> Event {
        Event::new(EventType::ResultConflicted)
            .with_id("job_id", &key.job_id)
            .with_id("node_id", &key.node_id)
            .with_id("stored", stored)
            .with_id("refused", &self.result.receipt_digest)
    }
}

/// Leases that are over: `lost`, the hub's word, until a receipt says more.
pub(super) struct Lapse(pub(super) Timestamp);

impl Write for Lapse {
    type Out = Vec<ExecutionKey>;
    async fn apply(&self, tx: &mut Tx) -> Result<Vec<ExecutionKey>> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "UPDATE executions SET state = 'lost', lease_expires_at = NULL
             WHERE lease_expires_at <= ?1 AND state IN ('leased', 'running')
             RETURNING org, job_id, node_id",
        )
        .bind(ms(self.0))
        .fetch_all(&mut tx.conn)
        .await?;
        let keys = note_all(tx, EventType::JobLost, rows)?;
        for key in &keys {
            notices::of_execution(tx, key, ExecutionState::Lost, None).await?;
        }
        Ok(keys)
    }
}

/// Jobs whose validity ended before a node took them.
pub(super) struct Expire(pub(super) Timestamp);

impl Write for Expire {
    type Out = Vec<ExecutionKey>;
    async fn apply(&self, tx: &mut Tx) -> Result<Vec<ExecutionKey>> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "UPDATE executions SET state = 'expired', code = ?2, message = ?3, finished_at = ?1
             WHERE job_expires_at <= ?1 AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release')
             RETURNING org, job_id, node_id",
        )
        .bind(ms(self.0))
        .bind(Code::Expired.as_str())
        .bind("no node took it while it was valid")
        .fetch_all(&mut tx.conn)
        .await?;
        let keys = note_all(tx, EventType::JobTimedOutInQueue, rows)?;
        for key in &keys {
            notices::of_execution(tx, key, ExecutionState::Expired, Some(Code::Expired)).await?;
        }
        Ok(keys)
    }
}

fn note_all(tx: &mut Tx, kind: EventType, rows: Vec<(String, String, String)>) -> Result<Vec<ExecutionKey>> {
    let mut keys = Vec::with_capacity(rows.len());
    for (org, job, node) in rows {
        let key = ExecutionKey {
            org: text(&org)?,
            job_id: text(&job)?,
            node_id: text(&node)?,
        };
        let event = Event::new(kind)
            .with_id("job_id", &key.job_id)
            .with_id("node_id", &key.node_id);
        tx.note(Some(&key.org), event);
        keys.push(key);
    }
    Ok(keys)
}
