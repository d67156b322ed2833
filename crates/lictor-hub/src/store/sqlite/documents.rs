//! Signed documents about jobs: asks, approvals, releases, cancels, receipts.

use lictor_proto::agent::Wire;
use lictor_proto::{JobId, NodeId, OrgId};
use sqlx::SqliteConnection;

use super::rows::{digest, ms, text};
use super::writer::Tx;
use crate::store::{DocumentRow, Inserted, JobDocument, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) async fn insert_document(
    tx: &mut Tx,
    org: &OrgId,
    job: &JobId,
    doc: &DocumentRow,
) -> Result<Inserted> {
    let done = sqlx::query(
        "INSERT INTO documents (org, job_id, kind, digest, node_id, wire, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )
    .bind(org.as_str())
    .bind(job.as_str())
    .bind(doc.kind.as_str())
    .bind(doc.digest.0.as_slice())
    .bind(doc.node_id.as_ref().map(NodeId::as_str))
    .bind(&doc.wire)
    .bind(ms(tx.now))
    .execute(&mut tx.conn)
    .await?;
    Ok(if done.rows_affected() == 1 {
        Inserted::New
    } else {
        Inserted::Same
    })
}

pub(super) const OF_JOB: &str = "SELECT kind, digest, node_id, wire FROM documents WHERE org = ?1 AND job_id = ?2 ORDER BY created_at, digest";

/// Every one of a job, oldest first.
pub(super) async fn documents(
    conn: &mut SqliteConnection,
    org: &OrgId,
    job: &JobId,
) -> Result<Vec<DocumentRow>> {
    let rows: Vec<(String, Vec<u8>, Option<String>, String)> = sqlx::query_as(OF_JOB)
        .bind(org.as_str())
        .bind(job.as_str())
        .fetch_all(conn)
        .await?;
    rows.into_iter()
        .map(|(kind, d, node, wire)| {
            Ok(DocumentRow {
                kind: read_kind(&kind)?,
                digest: digest(&d)?,
                node_id: node.as_deref().map(text).transpose()?,
                wire,
            })
        })
        .collect()
}

pub(super) const SIGNED_FOR: &str = "SELECT kind, wire FROM documents WHERE org = ?1 AND job_id = ?2
     AND kind IN ('approval', 'release', 'cancel') ORDER BY created_at, digest";

/// What people have signed that goes to a job's nodes, oldest first: no asks and receipts, of which each node has some.
pub(super) async fn signed(
    conn: &mut SqliteConnection,
    org: &OrgId,
    job: &JobId,
) -> Result<Vec<(JobDocument, Wire)>> {
    let rows: Vec<(String, String)> = sqlx::query_as(SIGNED_FOR)
        .bind(org.as_str())
        .bind(job.as_str())
        .fetch_all(conn)
        .await?;
    let read = |(kind, wire): (String, String)| Ok((read_kind(&kind)?, wire));
    rows.into_iter().map(read).collect()
}

fn read_kind(kind: &str) -> Result<JobDocument> {
    Ok(match kind {
        "ask" => JobDocument::Ask,
        "approval" => JobDocument::Approval,
        "release" => JobDocument::Release,
        "remark" => JobDocument::Remark,
        "cancel" => JobDocument::Cancel,
        "receipt" => JobDocument::Receipt,
        other => return Err(StoreError::Corrupt(format!("document of kind {other:?}"))),
    })
}
