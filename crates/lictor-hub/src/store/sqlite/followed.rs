//! One execution: what each of a job's followers reads, so it must not cost more the more nodes the job has.

use std::collections::BTreeMap;

use lictor_proto::agent::Wire;
use lictor_proto::{JobId, NodeId, OrgId};
use sqlx::SqlitePool;

use super::rows::{text, time, word};
use crate::store::{ExecutionKey, ExecutionRow, Followed, StoreError, refusal};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) type ExecutionColumns = (
    String,
    Option<String>,
    String,
    Option<String>,
    String,
    Option<i64>,
    Option<i64>,
    i64,
);

pub(super) fn read_execution(row: ExecutionColumns) -> Result<ExecutionRow> {
    let (node_id, name, state, code, message, started, finished, log_bytes) = row;
    Ok(ExecutionRow {
        // A job may name a node that never enrolled here; its id then stands for its name.
        node_name: text(name.as_deref().unwrap_or(&node_id))?,
        node_id: text(&node_id)?,
        state: word(&state)?,
        refusal: refusal(code.as_deref(), message)?,
        started_at: started.map(time),
        finished_at: finished.map(time),
        log_bytes: log_bytes.unsigned_abs(),
    })
}

pub(super) const EXECUTION: &str =
    "SELECT e.node_id, n.name, e.state, e.code, e.message, e.started_at, e.finished_at,
       (SELECT COALESCE(SUM(s.to_pos - s.from_pos), 0) FROM segments s
        WHERE s.org = e.org AND s.job_id = e.job_id AND s.node_id = e.node_id)
     FROM executions e LEFT JOIN nodes n ON n.org = e.org AND n.node_id = e.node_id
     WHERE e.org = ?1 AND e.job_id = ?2 AND e.node_id = ?3";

/// The execution with its newest ask and its receipt.
pub(super) async fn read(reads: &SqlitePool, key: &ExecutionKey) -> Result<Option<Followed>> {
    let row: Option<ExecutionColumns> = sqlx::query_as(EXECUTION)
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .fetch_optional(reads)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Followed {
        execution: read_execution(row)?,
        ask: newest(reads, key, "ask").await?,
        receipt: newest(reads, key, "receipt").await?,
    }))
}

pub(super) const IS_HELD: &str =
    "SELECT 1 FROM executions WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND state = 'held'";

/// Whether it waits for its rollout.
pub(super) async fn is_held(reads: &SqlitePool, key: &ExecutionKey) -> Result<bool> {
    let held: Option<(i64,)> = sqlx::query_as(IS_HELD)
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .fetch_optional(reads)
        .await?;
    Ok(held.is_some())
}

pub(super) const AHEAD: &str = "SELECT e.node_id,
       (SELECT COUNT(*) FROM (SELECT 1 FROM executions o
        WHERE o.org = e.org AND o.node_id = e.node_id AND o.state = 'queued' AND o.rowid < e.rowid LIMIT 1000))
     FROM executions e WHERE e.org = ?1 AND e.job_id = ?2 AND e.state = 'queued'";

/// What is queued before this job's executions, node by node, as far as a thousand: what a submission is answered with must
/// not cost more the longer the queue is. Rows are numbered in the order in which they came.
pub(super) async fn ahead(reads: &SqlitePool, org: &OrgId, job: &JobId) -> Result<BTreeMap<NodeId, u64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(AHEAD)
        .bind(org.as_str())
        .bind(job.as_str())
        .fetch_all(reads)
        .await?;
    rows.into_iter()
        .map(|(node, ahead)| Ok((text(&node)?, ahead.unsigned_abs())))
        .collect()
}

pub(super) const NEWEST: &str =
    "SELECT wire FROM documents WHERE org = ?1 AND job_id = ?2 AND kind = ?4 AND node_id = ?3
     ORDER BY created_at DESC, digest DESC LIMIT 1";

async fn newest(reads: &SqlitePool, key: &ExecutionKey, kind: &str) -> Result<Option<Wire>> {
    let row: Option<(Wire,)> = sqlx::query_as(NEWEST)
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .bind(kind)
        .fetch_optional(reads)
        .await?;
    Ok(row.map(|(wire,)| wire))
}
