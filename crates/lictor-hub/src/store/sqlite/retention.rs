//! What is forgotten when its time is over, and what is counted while it is open.
//!
//! # Invariants
//! - Nothing open is touched: a job goes with its executions, and only when all of them have ended.
//! - Of a job, rows go first, in one synced transaction with an audit record per org; files after. A crash between leaves a
//!   file that nothing names, never a row whose file is gone.
//! - Of an input that no job needs any more, and that is given to nobody, the file goes first: a crash leaves its row, by which
//!   it is found again.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::api::ExecutionState;
use lictor_proto::{Digest, NodeId, OrgId, Timestamp};

use super::SqliteStore;
use super::notices;
use super::rows::{digest, ms, text, word};
use super::writer::{Tx, Write};
use crate::store::{Depth, ExecutionKey, Forgotten, Keep, Quarantined, Retained, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

/// Most of each kind in one transaction: others wait behind it.
const BATCH: u32 = 200;
/// Refused results that are kept per node; beyond it they are only in the audit log.
const QUARANTINE: i64 = 100;

struct Forget(Keep);

impl Write for Forget {
    type Out = Forgotten;

    async fn apply(&self, tx: &mut Tx) -> Result<Forgotten> {
        let mut swept = Swept::default();
        swept.logs(tx, self.0.logs_before).await?;
        swept.jobs(tx, self.0.jobs_before).await?;
        swept.rest(tx, &self.0).await?;
        swept.tell(tx)?;
        Ok(swept.forgotten)
    }
}

#[derive(Default)]
struct Swept {
    forgotten: Forgotten,
    counts: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl Swept {
    fn count(&mut self, org: &str, what: &'static str) {
        let counts = self.counts.entry(org.to_owned()).or_default();
        *counts.entry(what).or_default() += 1;
        self.forgotten.rows += 1;
    }

    /// One audit record for each org.
    fn tell(&mut self, tx: &mut Tx) -> Result<()> {
        for (org, counts) in std::mem::take(&mut self.counts) {
            let mut event = Event::new(EventType::RetentionApplied);
            for (what, n) in counts {
                event = event.with(what, n);
            }
            tx.note(Some(&text(&org)?), event);
        }
        Ok(())
    }

    /// Logs of executions that have ended.
    async fn logs(&mut self, tx: &mut Tx, before: Option<Timestamp>) -> Result<()> {
        let Some(before) = before else { return Ok(()) };
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(
            "DELETE FROM segments WHERE (org, job_id, node_id, from_pos) IN
               (SELECT s.org, s.job_id, s.node_id, s.from_pos FROM segments s
                WHERE s.created_at <= ?1 AND NOT EXISTS
                  (SELECT 1 FROM executions e WHERE e.org = s.org AND e.job_id = s.job_id
                   AND e.node_id = s.node_id AND e.state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'running'))
                LIMIT ?2)
             RETURNING org, object",
        )
        .bind(ms(before))
        .bind(BATCH)
        .fetch_all(&mut tx.conn)
        .await?;
        for (org, object) in rows {
            self.count(&org, "log_segments");
            self.forgotten.objects.extend(object);
        }
        Ok(())
    }

    /// Jobs all of whose executions have ended, with everything about them.
    async fn jobs(&mut self, tx: &mut Tx, before: Option<Timestamp>) -> Result<()> {
        let Some(before) = before else { return Ok(()) };
        let jobs: Vec<(String, String)> = sqlx::query_as(
            "SELECT org, job_id FROM jobs j WHERE created_at <= ?1 AND expires_at <= ?1 AND NOT EXISTS
               (SELECT 1 FROM executions e WHERE e.org = j.org AND e.job_id = j.job_id
                AND e.state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'running')) LIMIT ?2",
        )
        .bind(ms(before))
        .bind(BATCH)
        .fetch_all(&mut tx.conn)
        .await?;
        for (org, job) in jobs {
            let objects: Vec<(Option<String>,)> =
                sqlx::query_as("DELETE FROM segments WHERE org = ?1 AND job_id = ?2 RETURNING object")
                    .bind(&org)
                    .bind(&job)
                    .fetch_all(&mut tx.conn)
                    .await?;
            self.forgotten
                .objects
                .extend(objects.into_iter().filter_map(|(object,)| object));
            for delete in [
                "DELETE FROM rollouts WHERE org = ?1 AND job_id = ?2",
                "DELETE FROM documents WHERE org = ?1 AND job_id = ?2",
                "DELETE FROM executions WHERE org = ?1 AND job_id = ?2",
                "DELETE FROM jobs WHERE org = ?1 AND job_id = ?2",
            ] {
                sqlx::query(delete)
                    .bind(&org)
                    .bind(&job)
                    .execute(&mut tx.conn)
                    .await?;
            }
            self.count(&org, "jobs");
        }
        Ok(())
    }

    async fn rest(&mut self, tx: &mut Tx, keep: &Keep) -> Result<()> {
        let tokens: Vec<(String,)> =
            sqlx::query_as("DELETE FROM tokens WHERE expires_at <= ?1 RETURNING org")
                .bind(ms(keep.tokens_before))
                .fetch_all(&mut tx.conn)
                .await?;
        // What was told about jobs that are over by now: no job is valid for longer than that.
        sqlx::query("DELETE FROM notify_said WHERE at <= ?1")
            .bind(ms(keep.tokens_before))
            .execute(&mut tx.conn)
            .await?;
        tokens.iter().for_each(|(org,)| self.count(org, "expired_tokens"));
        let refused: Vec<(String,)> =
            sqlx::query_as("DELETE FROM quarantine WHERE created_at <= ?1 RETURNING org")
                .bind(ms(keep.quarantine_before))
                .fetch_all(&mut tx.conn)
                .await?;
        refused
            .iter()
            .for_each(|(org,)| self.count(org, "refused_results"));
        Ok(())
    }
}

struct ForgetBlobs(Vec<(OrgId, Digest)>, Timestamp);

impl Write for ForgetBlobs {
    type Out = u64;

    async fn apply(&self, tx: &mut Tx) -> Result<u64> {
        let mut swept = Swept::default();
        for (org, sha256) in &self.0 {
            let done = sqlx::query("DELETE FROM blobs WHERE org = ?1 AND sha256 = ?2 AND keep_until <= ?3")
                .bind(org.as_str())
                .bind(sha256.0.as_slice())
                .bind(ms(self.1))
                .execute(&mut tx.conn)
                .await?;
            if done.rows_affected() == 1 {
                swept.count(org.as_str(), "stdin");
            }
        }
        swept.tell(tx)?;
        Ok(swept.forgotten.rows)
    }
}

struct Quarantine(Quarantined);

impl Write for Quarantine {
    type Out = bool;

    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let q = &self.0;
        self.lose(tx).await?;
        let done = sqlx::query(
            "INSERT INTO quarantine (org, job_id, node_id, digest, code, receipt, envelope, created_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
             WHERE (SELECT COUNT(*) FROM quarantine WHERE org = ?1 AND node_id = ?3) < ?9
             ON CONFLICT DO NOTHING",
        )
        .bind(q.key.org.as_str())
        .bind(q.key.job_id.as_str())
        .bind(q.key.node_id.as_str())
        .bind(q.digest.0.as_slice())
        .bind(q.code.as_str())
        .bind(&q.receipt)
        .bind(&q.envelope)
        .bind(ms(tx.now))
        .bind(QUARANTINE)
        .execute(&mut tx.conn)
        .await?;
        if done.rows_affected() == 1 {
            let event = Event::new(EventType::ResultQuarantined)
                .with_id("job_id", &q.key.job_id)
                .with_id("node_id", &q.key.node_id)
                .with_id("receipt", &q.digest)
                .with("code", q.code);
            tx.note(Some(&q.key.org), event);
            return Ok(true);
        }
        let there: Option<(i64,)> = sqlx::query_as(
            "SELECT 1 FROM quarantine WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND digest = ?4",
        )
        .bind(q.key.org.as_str())
        .bind(q.key.job_id.as_str())
        .bind(q.key.node_id.as_str())
        .bind(q.digest.0.as_slice())
        .fetch_optional(&mut tx.conn)
        .await?;
        Ok(there.is_some())
    }
}

impl Quarantine {
    /// Nothing is under way any more, and nobody knows how it ended; a result that holds may still come.
    async fn lose(&self, tx: &mut Tx) -> Result<()> {
        let key = &self.0.key;
        let done = sqlx::query(
            "UPDATE executions SET state = 'lost', lease_expires_at = NULL
             WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND state IN ('leased', 'running') AND receipt IS NULL",
        )
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .execute(&mut tx.conn)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        let event = Event::new(EventType::JobLost)
            .with_id("job_id", &key.job_id)
            .with_id("node_id", &key.node_id);
        tx.note(Some(&key.org), event);
        notices::of_execution(tx, key, ExecutionState::Lost, None).await
    }
}

#[async_trait]
impl Retained for SqliteStore {
    async fn forget(&self, keep: Keep) -> Result<Forgotten> {
        self.writer.run(Forget(keep)).await
    }

    async fn idle_blobs(
        &self,
        before: Timestamp,
        after: Option<(OrgId, Digest)>,
    ) -> Result<Vec<(OrgId, Digest)>> {
        let after = after.as_ref();
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT org, sha256 FROM blobs
             WHERE keep_until <= ?1 AND (?2 IS NULL OR (org, sha256) > (?2, ?3)) ORDER BY org, sha256 LIMIT ?4",
        )
        .bind(ms(before))
        .bind(after.map(|(org, _)| org.as_str()))
        .bind(after.map(|(_, sha256)| sha256.0.to_vec()))
        .bind(BATCH)
        .fetch_all(self.settled().await?)
        .await?;
        let read = |(org, sha256): (String, Vec<u8>)| Ok((text(&org)?, digest(&sha256)?));
        rows.into_iter().map(read).collect()
    }

    async fn forget_blobs(&self, gone: Vec<(OrgId, Digest)>, before: Timestamp) -> Result<u64> {
        self.writer.run(ForgetBlobs(gone, before)).await
    }

    async fn quarantine(&self, result: Quarantined) -> Result<bool> {
        self.writer.run(Quarantine(result)).await
    }

    async fn open(&self) -> Result<Vec<Depth>> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT org, node_id, state, COUNT(*) FROM executions
             WHERE state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'running') GROUP BY org, node_id, state",
        )
        .fetch_all(&self.reads)
        .await?;
        let depth = |(org, node, state, n): (String, String, String, i64)| {
            Ok(Depth {
                org: text::<OrgId>(&org)?,
                node_id: text::<NodeId>(&node)?,
                state: word(&state)?,
                executions: n.unsigned_abs(),
            })
        };
        rows.into_iter().map(depth).collect()
    }

    async fn jobs_stored(&self) -> Result<Vec<(OrgId, u64)>> {
        let rows: Vec<(String, i64)> = sqlx::query_as("SELECT org, jobs FROM job_counts")
            .fetch_all(&self.reads)
            .await?;
        rows.into_iter()
            .map(|(org, jobs)| Ok((text(&org)?, jobs.unsigned_abs())))
            .collect()
    }

    async fn under_way(&self) -> Result<Vec<ExecutionKey>> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT e.org, e.job_id, e.node_id FROM executions e
             CROSS JOIN jobs j ON j.org = e.org AND j.job_id = e.job_id
             WHERE e.lease_expires_at IS NOT NULL AND e.state IN ('leased', 'running') AND j.origin = ''",
        )
        .fetch_all(&self.reads)
        .await?;
        let key = |(org, job, node): (String, String, String)| {
            Ok(ExecutionKey {
                org: text(&org)?,
                job_id: text(&job)?,
                node_id: text(&node)?,
            })
        };
        rows.into_iter().map(key).collect()
    }

    async fn is_under_way(&self, key: &ExecutionKey) -> Result<bool> {
        let found: Option<(i64,)> = sqlx::query_as(
            "SELECT 1 FROM executions e CROSS JOIN jobs j ON j.org = e.org AND j.job_id = e.job_id
             WHERE e.org = ?1 AND e.job_id = ?2 AND e.node_id = ?3
               AND e.lease_expires_at IS NOT NULL AND e.state IN ('leased', 'running') AND j.origin = ''",
        )
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .fetch_optional(&self.reads)
        .await?;
        Ok(found.is_some())
    }
}
