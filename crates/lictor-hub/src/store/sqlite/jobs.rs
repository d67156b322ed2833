//! Jobs, their executions and documents, up to the result.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::agent::Wire;
use lictor_proto::api::ExecutionState;
use lictor_proto::doc::Origin;
use lictor_proto::{JobId, NodeId, OrgId, Timestamp};
use sqlx::SqlitePool;

use super::SqliteStore;
use super::advance::Advance;
use super::documents::{documents, signed};
use super::followed::{self, ExecutionColumns, read_execution};
use super::papers::PutPaper;
use super::results::{Expire, Lapse, RecordResult};
use super::rows::{digest, ms, text, time, word};
use super::writer::{Tx, Write};
use crate::store::named::{approvals_for, is_canceled_on, releases_for};
use crate::store::{
    DocumentRow, Durability, ExecutionKey, ExecutionRow, Executions, Followed, Inserted, JobCursor,
    JobDocument, JobFilter, JobPage, JobPapers, JobRow, Jobs, Leases, Listed, PAGE_BYTES, Paper, Pending,
    Recorded, ResultRow, Step, StoreError, Stored,
};

type Result<T> = std::result::Result<T, StoreError>;

struct InsertJob {
    org: OrgId,
    job: JobRow,
    durability: Durability,
}

impl Write for InsertJob {
    type Out = Inserted;
    fn durability(&self) -> Durability {
        self.durability
    }
    async fn apply(&self, tx: &mut Tx) -> Result<Inserted> {
        insert_job(tx, &self.org, &self.job).await
    }
}

/// A firing that a node has begun. Nothing is lost with it: its end brings it again.
struct PutFiring {
    org: OrgId,
    firing: JobRow,
}

impl Write for PutFiring {
    type Out = ();
    fn durability(&self) -> Durability {
        Durability::Relaxed
    }
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        if insert_job(tx, &self.org, &self.firing).await? == Inserted::Same {
            // Another node has begun the same time of its schedule before.
            insert_executions(tx, &self.org, &self.firing).await?;
        }
        Ok(())
    }
}

/// The job with its executions queued, unless it is there.
pub(super) async fn insert_job(tx: &mut Tx, org: &OrgId, job: &JobRow) -> Result<Inserted> {
    let done = sqlx::query(
        "INSERT INTO jobs (org, job_id, digest, operator, profile, expires_at, created_at, envelope, origin)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
    )
    .bind(org.as_str())
    .bind(job.job_id.as_str())
    .bind(job.digest.0.as_slice())
    .bind(job.operator.as_str())
    .bind(job.profile.as_str())
    .bind(ms(job.expires_at))
    .bind(ms(job.created_at))
    .bind(&job.envelope)
    .bind(origin(job.origin))
    .execute(&mut tx.conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(Inserted::Same);
    }
    if let Some(sha256) = &job.stdin {
        sqlx::query("UPDATE blobs SET keep_until = MAX(keep_until, ?3) WHERE org = ?1 AND sha256 = ?2")
            .bind(org.as_str())
            .bind(sha256.0.as_slice())
            .bind(ms(job.expires_at))
            .execute(&mut tx.conn)
            .await?;
    }
    insert_executions(tx, org, job).await?;
    let event = Event::new(EventType::JobSubmitted)
        .with_id("job_id", &job.job_id)
        .with_id("operator", &job.operator)
        .with("nodes", job.nodes.len() as u64);
    tx.note(Some(org), event);
    Ok(Inserted::New)
}

/// An execution on each of its nodes that has none yet.
pub(super) async fn insert_executions(tx: &mut Tx, org: &OrgId, job: &JobRow) -> Result<()> {
    for node in &job.nodes {
        sqlx::query(
            "INSERT INTO executions (org, job_id, node_id, state, message, job_expires_at)
             VALUES (?1, ?2, ?3, 'queued', '', ?4) ON CONFLICT DO NOTHING",
        )
        .bind(org.as_str())
        .bind(job.job_id.as_str())
        .bind(node.as_str())
        .bind(ms(job.expires_at))
        .execute(&mut tx.conn)
        .await?;
    }
    Ok(())
}

const SCHEDULE: &str = "schedule";

/// The word in the column `origin`.
fn origin(origin: Origin) -> String {
    match origin {
        Origin::Job => String::new(),
        Origin::Schedule => SCHEDULE.to_owned(),
        Origin::Firing(fired) => JobId::from_digest(&fired.schedule).to_string(),
    }
}

struct RenewAll(Timestamp);

impl Write for RenewAll {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query("UPDATE executions SET lease_expires_at = ?1 WHERE state IN ('leased', 'running')")
            .bind(ms(self.0))
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }
}

type JobColumns = (String, Vec<u8>, String, String, i64, i64, String, String);

type PendingColumns = (String, Vec<u8>, i64, String, String, bool, bool);

fn read_pending(row: PendingColumns) -> Result<Pending> {
    let (job_id, d, expires, origin, state, has_cancels, is_signed) = row;
    Ok(Pending {
        job_id: text(&job_id)?,
        digest: digest(&d)?,
        expires_at: time(expires),
        origin: match origin.as_str() {
            "" => Some(Origin::Job),
            SCHEDULE => Some(Origin::Schedule),
            _ => None,
        },
        state: word(&state)?,
        has_cancels,
        is_signed,
    })
}

/// So many jobs of a page are read at once.
const AT_ONCE: u32 = 16;
/// What an execution weighs on a page, roughly.
const EXECUTION: usize = 256;

fn read_job(row: JobColumns) -> Result<JobRow> {
    let (job_id, d, operator, profile, expires, created, envelope, origin) = row;
    Ok(JobRow {
        job_id: text(&job_id)?,
        digest: digest(&d)?,
        operator: text(&operator)?,
        profile: text(&profile)?,
        expires_at: time(expires),
        created_at: time(created),
        envelope,
        nodes: Vec::new(),
        stdin: None,
        origin: match origin.as_str() {
            SCHEDULE => Origin::Schedule,
            _ => Origin::Job,
        },
    })
}

impl SqliteStore {
    async fn executions(&self, org: &OrgId, job: &JobId) -> Result<Vec<ExecutionRow>> {
        let rows: Vec<ExecutionColumns> = sqlx::query_as(
            "SELECT e.node_id, n.name, e.state, e.code, e.message, e.started_at, e.finished_at,
               (SELECT COALESCE(SUM(s.to_pos - s.from_pos), 0) FROM segments s
                WHERE s.org = e.org AND s.job_id = e.job_id AND s.node_id = e.node_id)
             FROM executions e LEFT JOIN nodes n ON n.org = e.org AND n.node_id = e.node_id
             WHERE e.org = ?1 AND e.job_id = ?2 ORDER BY e.node_id",
        )
        .bind(org.as_str())
        .bind(job.as_str())
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read_execution).collect()
    }

    async fn with_executions(&self, org: &OrgId, row: JobColumns) -> Result<(JobRow, Vec<ExecutionRow>)> {
        let mut job = read_job(row)?;
        let executions = self.executions(org, &job.job_id).await?;
        job.nodes = executions.iter().map(|e| e.node_id.clone()).collect();
        Ok((job, executions))
    }
}

/// Jobs that fit a filter, of these; `$of` narrows them.
macro_rules! list_jobs {
    ($jobs:literal, $of:literal) => {
        concat!(
            "SELECT job_id, digest, operator, profile, expires_at, created_at, envelope, origin FROM ",
            $jobs,
            " WHERE org = ?1 ",
            $of,
            // The first of the two is what an index finds the place by.
            " AND created_at <= COALESCE(?2, 9223372036854775807)
               AND (?2 IS NULL OR created_at < ?2 OR (created_at = ?2 AND job_id < ?3))
               AND (?4 IS NULL OR operator = ?4)
               AND (?5 IS NULL OR EXISTS (SELECT 1 FROM executions e
                      WHERE e.org = j.org AND e.job_id = j.job_id AND e.node_id = ?5))
               AND (?6 IS NULL OR EXISTS (SELECT 1 FROM executions e
                      WHERE e.org = j.org AND e.job_id = j.job_id AND e.state = ?6))
             ORDER BY created_at DESC, job_id DESC LIMIT ?7"
        )
    };
}

/// Else SQLite walks every job of the org in the order of the page; the index is of those that have an origin.
pub(super) const LIST_OF: &str = list_jobs!(
    "jobs j INDEXED BY jobs_origin",
    "AND origin = ?8 AND origin <> ''"
);

/// The executions first: else SQLite walks every job that the org ever had, to have them in order.
pub(super) const PENDING: &str = "SELECT j.job_id, j.digest, j.expires_at, j.origin, e.state,
       EXISTS (SELECT 1 FROM documents d WHERE d.org = e.org AND d.job_id = e.job_id AND d.kind = 'cancel'),
       EXISTS (SELECT 1 FROM documents d WHERE d.org = e.org AND d.job_id = e.job_id
               AND d.kind IN ('approval', 'release'))
     FROM executions e CROSS JOIN jobs j ON j.org = e.org AND j.job_id = e.job_id
     WHERE e.org = ?1 AND e.node_id = ?2
       AND e.state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'running', 'lost')
     ORDER BY j.created_at, j.job_id LIMIT 10000";

const ONE: &str =
    "SELECT job_id, digest, operator, profile, expires_at, created_at, envelope, origin FROM jobs
     WHERE org = ?1 AND job_id = ?2";

async fn some_jobs(
    reads: &SqlitePool,
    org: &OrgId,
    filter: &JobFilter,
    after: Option<&JobCursor>,
    limit: u32,
) -> Result<Vec<JobColumns>> {
    let (query, origin) = match &filter.listed {
        None => (list_jobs!("jobs j", ""), None),
        Some(Listed::Schedules) => (LIST_OF, Some(SCHEDULE)),
        Some(Listed::FiringsOf(id)) => (LIST_OF, Some(id.as_str())),
    };
    let rows = sqlx::query_as(query)
        .bind(org.as_str())
        .bind(after.map(|c| ms(c.created_at)))
        .bind(after.map(|c| c.job_id.as_str()))
        .bind(filter.operator.as_ref().map(|o| o.as_str()))
        .bind(filter.node.as_ref().map(NodeId::as_str))
        .bind(filter.state.map(ExecutionState::as_str))
        .bind(limit)
        .bind(origin)
        .fetch_all(reads);
    Ok(rows.await?)
}

#[async_trait]
impl Jobs for SqliteStore {
    async fn insert_job(&self, org: &OrgId, job: JobRow, durability: Durability) -> Result<Inserted> {
        let org = org.clone();
        self.writer.run(InsertJob { org, job, durability }).await
    }

    async fn job(&self, org: &OrgId, job: &JobId) -> Result<Option<(JobRow, Vec<ExecutionRow>)>> {
        let row: Option<JobColumns> = sqlx::query_as(ONE)
            .bind(org.as_str())
            .bind(job.as_str())
            .fetch_optional(self.settled().await?)
            .await?;
        match row {
            Some(row) => self.with_executions(org, row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn jobs(&self, org: &OrgId, filter: JobFilter) -> Result<JobPage> {
        let reads = self.settled().await?;
        let (mut page, mut bytes) = (JobPage::default(), 0);
        let (mut after, mut left) = (filter.after.clone(), filter.limit);
        while left > 0 {
            let at_once = left.min(AT_ONCE);
            let rows = some_jobs(reads, org, &filter, after.as_ref(), at_once).await?;
            let are_all = rows.len() < at_once as usize;
            for row in rows {
                let one = self.with_executions(org, row).await?;
                bytes += one.0.envelope.len() + one.1.len() * EXECUTION;
                after = Some(JobCursor::behind(&one.0));
                page.jobs.push(one);
                if bytes > PAGE_BYTES {
                    page.next = after;
                    return Ok(page);
                }
            }
            if are_all {
                return Ok(page);
            }
            left -= at_once;
        }
        page.next = after;
        Ok(page)
    }

    async fn documents(&self, org: &OrgId, job: &JobId) -> Result<Vec<DocumentRow>> {
        let mut conn = self.settled().await?.acquire().await?;
        documents(&mut conn, org, job).await
    }

    async fn put_paper(&self, org: &OrgId, job: &JobId, paper: Paper) -> Result<Stored> {
        let (org, job_id) = (org.clone(), job.clone());
        self.writer.run(PutPaper { org, job_id, paper }).await
    }
}

#[async_trait]
impl Executions for SqliteStore {
    async fn followed(&self, key: &ExecutionKey) -> Result<Option<Followed>> {
        followed::read(&self.reads, key).await
    }

    async fn is_held(&self, key: &ExecutionKey) -> Result<bool> {
        followed::is_held(self.settled().await?, key).await
    }

    async fn ahead(&self, org: &OrgId, job: &JobId) -> Result<BTreeMap<NodeId, u64>> {
        followed::ahead(self.settled().await?, org, job).await
    }

    async fn advance(&self, key: &ExecutionKey, step: Step) -> Result<bool> {
        let key = key.clone();
        self.writer.run(Advance { key, step }).await
    }

    async fn put_firing(&self, org: &OrgId, firing: JobRow) -> Result<()> {
        let org = org.clone();
        self.writer.run(PutFiring { org, firing }).await
    }

    async fn record_result(&self, org: &OrgId, result: ResultRow) -> Result<Recorded> {
        let org = org.clone();
        self.writer.run(RecordResult { org, result }).await
    }

    async fn pending(&self, org: &OrgId, node: &NodeId) -> Result<Vec<Pending>> {
        let rows: Vec<PendingColumns> = sqlx::query_as(PENDING)
            .bind(org.as_str())
            .bind(node.as_str())
            .fetch_all(self.settled().await?)
            .await?;
        rows.into_iter().map(read_pending).collect()
    }

    async fn papers(&self, key: &ExecutionKey) -> Result<Option<JobPapers>> {
        let mut conn = self.settled().await?.acquire().await?;
        let row: Option<JobColumns> = sqlx::query_as(ONE)
            .bind(key.org.as_str())
            .bind(key.job_id.as_str())
            .fetch_optional(&mut *conn)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut job = read_job(row)?;
        job.nodes = vec![key.node_id.clone()];
        let signed = signed(&mut conn, &key.org, &key.job_id).await?;
        let of = |kind| -> Vec<Wire> {
            let matching = signed.iter().filter(move |(k, _)| *k == kind);
            matching.map(|(_, wire)| wire.clone()).collect()
        };
        let mut cancels = of(JobDocument::Cancel);
        cancels.retain(|wire| is_canceled_on(wire, &key.node_id));
        Ok(Some(JobPapers {
            approvals: approvals_for(&of(JobDocument::Approval)),
            releases: releases_for(&of(JobDocument::Release), &key.node_id),
            cancels,
            job,
        }))
    }
}

#[async_trait]
impl Leases for SqliteStore {
    async fn lapse(&self, now: Timestamp) -> Result<Vec<ExecutionKey>> {
        self.writer.run(Lapse(now)).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<ExecutionKey>> {
        self.writer.run(Expire(now)).await
    }

    async fn renew_all(&self, until: Timestamp) -> Result<()> {
        self.writer.run(RenewAll(until)).await
    }
}
