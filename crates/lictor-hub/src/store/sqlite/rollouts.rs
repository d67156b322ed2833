//! Rollouts, and the executions that wait for them.

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::api::ExecutionState;
use lictor_proto::code::Refusal;
use lictor_proto::{JobId, NodeId, OrgId};

use super::SqliteStore;
use super::jobs::insert_job;
use super::rows::{ms, text, time, word};
use super::writer::{Tx, Write};
use crate::store::{Durability, Inserted, JobRow, RolloutRow, Rollouts, StoreError, Turn};

type Result<T> = std::result::Result<T, StoreError>;

struct InsertRollout {
    org: OrgId,
    job: JobRow,
    row: RolloutRow,
    why: Refusal,
}

impl Write for InsertRollout {
    type Out = Inserted;
    async fn apply(&self, tx: &mut Tx) -> Result<Inserted> {
        if insert_job(tx, &self.org, &self.job).await? == Inserted::Same {
            return Ok(Inserted::Same);
        }
        sqlx::query(
            "UPDATE executions SET state = 'held', code = ?3, message = ?4 WHERE org = ?1 AND job_id = ?2",
        )
        .bind(self.org.as_str())
        .bind(self.job.job_id.as_str())
        .bind(self.why.code.as_str())
        .bind(&self.why.message)
        .execute(&mut tx.conn)
        .await?;
        let plan = serde_json::to_string(&self.row.plan).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        sqlx::query(
            "INSERT INTO rollouts (org, job_id, plan, state, batch, forgiven, resumes_at, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(self.org.as_str())
        .bind(self.job.job_id.as_str())
        .bind(plan)
        .bind(self.row.state.as_str())
        .bind(self.row.batch)
        .bind(self.row.forgiven)
        .bind(self.row.resumes_at.map(ms))
        .bind(&self.row.message)
        .execute(&mut tx.conn)
        .await?;
        tx.note(Some(&self.org), told(&self.job.job_id, &self.row));
        Ok(Inserted::New)
    }
}

fn told(job: &JobId, row: &RolloutRow) -> Event {
    Event::new(EventType::RolloutTurned)
        .with_id("job_id", job)
        .with("state", row.state.as_str())
        .with("batch", u64::from(row.batch) + 1)
        .with("batches", row.plan.batches.len() as u64)
        .with("message", row.message.as_str())
}

struct TakeTurn {
    org: OrgId,
    job: JobId,
    turn: Turn,
}

impl Write for TakeTurn {
    type Out = Vec<NodeId>;

    fn durability(&self) -> Durability {
        match &self.turn {
            // The nodes' journals say what has begun.
            Turn::Begin(_) => Durability::Relaxed,
            Turn::Stands { .. } => Durability::Synced,
        }
    }

    async fn apply(&self, tx: &mut Tx) -> Result<Vec<NodeId>> {
        match &self.turn {
            Turn::Begin(nodes) => {
                let mut begun = Vec::new();
                for node in nodes {
                    if self.set(tx, node, ("held", "queued"), None).await? {
                        begun.push(node.clone());
                    }
                }
                Ok(begun)
            }
            Turn::Stands { row, hold, why } => {
                for node in hold {
                    self.set(tx, node, ("queued", "held"), Some(why)).await?;
                }
                self.stands(tx, row).await?;
                tx.note(Some(&self.org), told(&self.job, row));
                self.say(tx, why).await
            }
        }
    }
}

impl TakeTurn {
    async fn set(
        &self,
        tx: &mut Tx,
        node: &NodeId,
        (from, to): (&str, &str),
        why: Option<&Refusal>,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE executions SET state = ?5, code = ?6, message = ?7
             WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND state = ?4 AND receipt IS NULL",
        )
        .bind(self.org.as_str())
        .bind(self.job.as_str())
        .bind(node.as_str())
        .bind(from)
        .bind(to)
        .bind(why.map(|w| w.code.as_str()))
        .bind(why.map_or("", |w| w.message.as_str()))
        .execute(&mut tx.conn)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn stands(&self, tx: &mut Tx, row: &RolloutRow) -> Result<()> {
        sqlx::query(
            "UPDATE rollouts SET state = ?3, batch = ?4, forgiven = ?5, resumes_at = ?6, message = ?7
             WHERE org = ?1 AND job_id = ?2",
        )
        .bind(self.org.as_str())
        .bind(self.job.as_str())
        .bind(row.state.as_str())
        .bind(row.batch)
        .bind(row.forgiven)
        .bind(row.resumes_at.map(ms))
        .bind(&row.message)
        .execute(&mut tx.conn)
        .await?;
        Ok(())
    }

    /// All that is held says why it waits; where a cancel waits for the node, that is the better reason.
    async fn say(&self, tx: &mut Tx, why: &Refusal) -> Result<Vec<NodeId>> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "UPDATE executions SET code = ?3, message = ?4
             WHERE org = ?1 AND job_id = ?2 AND state = 'held' AND code IS NOT 'canceled' RETURNING node_id",
        )
        .bind(self.org.as_str())
        .bind(self.job.as_str())
        .bind(why.code.as_str())
        .bind(&why.message)
        .fetch_all(&mut tx.conn)
        .await?;
        rows.iter().map(|(node,)| text(node)).collect()
    }
}

type Columns = (String, String, i64, i64, Option<i64>, String);

fn read(row: Columns) -> Result<RolloutRow> {
    let (plan, state, batch, forgiven, resumes_at, message) = row;
    let number = |n: i64| u32::try_from(n).map_err(|e| StoreError::Corrupt(e.to_string()));
    Ok(RolloutRow {
        plan: serde_json::from_str(&plan).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        state: word(&state)?,
        batch: number(batch)?,
        forgiven: number(forgiven)?,
        resumes_at: resumes_at.map(time),
        message,
    })
}

#[async_trait]
impl Rollouts for SqliteStore {
    async fn insert_rollout(
        &self,
        org: &OrgId,
        job: JobRow,
        row: RolloutRow,
        why: Refusal,
    ) -> Result<Inserted> {
        let org = org.clone();
        self.writer.run(InsertRollout { org, job, row, why }).await
    }

    async fn rollout(&self, org: &OrgId, job: &JobId) -> Result<Option<RolloutRow>> {
        let row: Option<Columns> = sqlx::query_as(
            "SELECT plan, state, batch, forgiven, resumes_at, message FROM rollouts
             WHERE org = ?1 AND job_id = ?2",
        )
        .bind(org.as_str())
        .bind(job.as_str())
        .fetch_optional(self.settled().await?)
        .await?;
        row.map(read).transpose()
    }

    async fn open_rollouts(&self) -> Result<Vec<(OrgId, JobId)>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT org, job_id FROM rollouts WHERE state IN ('running', 'pausing')")
                .fetch_all(self.settled().await?)
                .await?;
        rows.iter()
            .map(|(org, job)| Ok((text(org)?, text(job)?)))
            .collect()
    }

    async fn standing(&self, org: &OrgId, job: &JobId) -> Result<Vec<(NodeId, ExecutionState)>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT node_id, state FROM executions WHERE org = ?1 AND job_id = ?2")
                .bind(org.as_str())
                .bind(job.as_str())
                .fetch_all(self.settled().await?)
                .await?;
        rows.iter()
            .map(|(node, state)| Ok((text(node)?, word(state)?)))
            .collect()
    }

    async fn turn(&self, org: &OrgId, job: &JobId, turn: Turn) -> Result<Vec<NodeId>> {
        let (org, job) = (org.clone(), job.clone());
        self.writer.run(TakeTurn { org, job, turn }).await
    }
}
