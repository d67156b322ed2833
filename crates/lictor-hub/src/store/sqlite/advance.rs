//! The steps of an execution, each only from the states that it may follow.

use lictor_audit::{Event, EventType};
use lictor_proto::Code;
use lictor_proto::api::ExecutionState;

use super::documents::insert_document;
use super::notices;
use super::rows::ms;
use super::writer::{Tx, Write};
use crate::store::{DocumentRow, Durability, ExecutionKey, JobDocument, Step, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

/// One step of one execution.
pub(super) struct Advance {
    pub(super) key: ExecutionKey,
    pub(super) step: Step,
}

impl Write for Advance {
    type Out = bool;

    fn durability(&self) -> Durability {
        // The node's journal is the truth for these; an ask must not be lost, since people act on it.
        match self.step {
            Step::Asked { .. } | Step::Refused(_) => Durability::Synced,
            _ => Durability::Relaxed,
        }
    }

    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let changed = self.update(tx).await?;
        if !changed {
            return Ok(false);
        }
        if let Step::Asked { digest, ask, .. } = &self.step {
            let doc = DocumentRow {
                kind: JobDocument::Ask,
                digest: *digest,
                node_id: Some(self.key.node_id.clone()),
                wire: ask.clone(),
            };
            // The newest of a node counts, and whoever has approvals handed in again and again fills nothing.
            forget_asks(tx, &self.key).await?;
            insert_document(tx, &self.key.org, &self.key.job_id, &doc).await?;
        }
        tx.note(Some(&self.key.org), self.event());
        match &self.step {
            Step::Asked { release, .. } => {
                let state = match release {
                    true => ExecutionState::AwaitingRelease,
                    false => ExecutionState::AwaitingApproval,
                };
                notices::of_execution(tx, &self.key, state, None).await?;
            }
            Step::Refused(why) => {
                notices::of_execution(tx, &self.key, ExecutionState::Denied, Some(why.code)).await?;
            }
            _ => {}
        }
        Ok(true)
    }
}

async fn forget_asks(tx: &mut Tx, key: &ExecutionKey) -> Result<()> {
    sqlx::query("DELETE FROM documents WHERE org = ?1 AND job_id = ?2 AND kind = 'ask' AND node_id = ?3")
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

impl Advance {
    async fn update(&self, tx: &mut Tx) -> Result<bool> {
        // Each step names the states that it may follow, so that a late message changes nothing.
        let query = match &self.step {
            Step::Leased { until } => sqlx::query(
                "UPDATE executions SET state = 'leased', lease_expires_at = ?4, code = NULL, message = ''
                 WHERE org = ?1 AND job_id = ?2 AND node_id = ?3
                   AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'lost', 'expired')
                   AND receipt IS NULL",
            )
            .bind(self.key.org.as_str())
            .bind(self.key.job_id.as_str())
            .bind(self.key.node_id.as_str())
            .bind(ms(*until)),
            Step::Running { started_at, until } => sqlx::query(
                "UPDATE executions SET state = 'running', lease_expires_at = ?4, started_at = ?5,
                   code = NULL, message = ''
                 WHERE org = ?1 AND job_id = ?2 AND node_id = ?3
                   AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'lost', 'expired')
                   AND receipt IS NULL",
            )
            .bind(self.key.org.as_str())
            .bind(self.key.job_id.as_str())
            .bind(self.key.node_id.as_str())
            .bind(ms(*until))
            .bind(ms(*started_at)),
            Step::Asked { release, .. } => {
                let (state, code) = match release {
                    true => (ExecutionState::AwaitingRelease, Code::ReleaseNeeded),
                    false => (ExecutionState::AwaitingApproval, Code::ApprovalNeeded),
                };
                sqlx::query(
                    "UPDATE executions SET state = ?5, lease_expires_at = NULL, code = ?4, message = ''
                     WHERE org = ?1 AND job_id = ?2 AND node_id = ?3
                       AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased')
                       AND receipt IS NULL",
                )
                .bind(self.key.org.as_str())
                .bind(self.key.job_id.as_str())
                .bind(self.key.node_id.as_str())
                .bind(code.as_str())
                .bind(state.as_str())
            }
            Step::HandedBack(why) => sqlx::query(
                "UPDATE executions SET state = 'queued', lease_expires_at = NULL, code = ?4, message = ?5
                 WHERE org = ?1 AND job_id = ?2 AND node_id = ?3
                   AND state IN ('queued', 'leased') AND receipt IS NULL",
            )
            .bind(self.key.org.as_str())
            .bind(self.key.job_id.as_str())
            .bind(self.key.node_id.as_str())
            .bind(why.code.as_str())
            .bind(&why.message),
            Step::Refused(why) => sqlx::query(
                "UPDATE executions SET state = 'denied', lease_expires_at = NULL, code = ?4, message = ?5,
                   finished_at = ?6
                 WHERE org = ?1 AND job_id = ?2 AND node_id = ?3
                   AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased')
                   AND receipt IS NULL",
            )
            .bind(self.key.org.as_str())
            .bind(self.key.job_id.as_str())
            .bind(self.key.node_id.as_str())
            .bind(why.code.as_str())
            .bind(&why.message)
            .bind(ms(tx.now)),
        };
        Ok(query.execute(&mut tx.conn).await?.rows_affected() == 1)
    }

    fn event(&self) -> Event {
        let event = match &self.step {
            Step::Leased { until } => Event::new(EventType::JobLeased).with_id("until", until),
            Step::Asked { digest, .. } => Event::new(EventType::JobAwaiting).with_id("ask", digest),
            Step::HandedBack(why) => Event::new(EventType::JobHandedBack).refused(why),
            Step::Refused(why) => Event::new(EventType::JobRejected).refused(why),
            Step::Running { started_at, .. } => {
                Event::new(EventType::JobRunning).with_id("started_at", started_at)
            }
        };
        event
            .with_id("job_id", &self.key.job_id)
            .with_id("node_id", &self.key.node_id)
    }
}
