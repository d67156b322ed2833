//! The audit log: notes that change no row, and reading it back.

use async_trait::async_trait;
use lictor_audit::Event;
use lictor_proto::OrgId;

use super::SqliteStore;
use super::writer::{Tx, Write};
use crate::store::{StoreError, Trail};

type Result<T> = std::result::Result<T, StoreError>;

struct Note {
    org: Option<OrgId>,
    event: Event,
}

impl Write for Note {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        tx.note(self.org.as_ref(), self.event.clone());
        Ok(())
    }
}

#[async_trait]
impl Trail for SqliteStore {
    async fn note(&self, org: Option<&OrgId>, event: Event) -> Result<()> {
        let org = org.cloned();
        self.writer.run(Note { org, event }).await
    }

    async fn trail(&self, org: &OrgId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT seq, line FROM audit WHERE log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")
                .bind(org.as_str())
                .bind(i64::try_from(after).unwrap_or(i64::MAX))
                .bind(limit)
                .fetch_all(self.settled().await?)
                .await?;
        Ok(rows
            .into_iter()
            .map(|(seq, line)| (seq.unsigned_abs(), line))
            .collect())
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.reads).await?;
        Ok(())
    }

    async fn close(&self) {
        self.writer.close().await;
        self.reads.close().await;
    }
}
