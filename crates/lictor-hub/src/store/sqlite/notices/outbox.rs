//! What goes out next, and what became of it.
//!
//! # Invariants
//! - How often a target has failed, and when it is tried again, is the target's: what is new neither overtakes what waits nor
//!   has a dead one tried again.
//! - Of what is looked for, targets that have not failed come first, and no org takes all of it.

use lictor_audit::{Event, EventType};
use lictor_proto::{OrgId, Timestamp};

use super::{Result, SqliteStore, TargetColumns, Tx, Write, ms, read_target};
use crate::store::{Busy, DueNotice};

/// Deliveries looked for at once, and of one org.
const DUE: i64 = 64;
const DUE_OF_ORG: i64 = 16;

/// It was told.
pub(super) struct Delivered {
    pub(super) target_id: String,
    pub(super) id: String,
}

impl Write for Delivered {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query("DELETE FROM notify_outbox WHERE id = ?1")
            .bind(&self.id)
            .execute(&mut tx.conn)
            .await?;
        sqlx::query(
            "UPDATE notify_targets SET delivered_at = ?2, last_error = NULL, tries = 0, next_at = 0 WHERE target_id = ?1",
        )
            .bind(&self.target_id)
            .bind(ms(tx.now))
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }
}

/// It was not.
pub(super) struct Failed {
    pub(super) due: DueNotice,
    pub(super) why: String,
    pub(super) next: Timestamp,
    pub(super) oldest: Timestamp,
}

impl Write for Failed {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        let target = &self.due.target;
        sqlx::query(
            "UPDATE notify_targets SET tries = tries + 1, next_at = ?3, last_error = ?2 WHERE target_id = ?1",
        )
        .bind(&target.target_id)
        .bind(&self.why)
        .bind(ms(self.next))
        .execute(&mut tx.conn)
        .await?;
        let given_up: Vec<(String,)> = sqlx::query_as(
            "DELETE FROM notify_outbox WHERE target_id = ?1 AND created_at <= ?2 RETURNING id",
        )
        .bind(&target.target_id)
        .bind(ms(self.oldest))
        .fetch_all(&mut tx.conn)
        .await?;
        for (id,) in given_up {
            let event = Event::new(EventType::NotificationGivenUp)
                .with("target_id", target.target_id.as_str())
                .with("id", id)
                .with("message", self.why.as_str());
            tx.note(Some(&target.org), event);
        }
        Ok(())
    }
}

/// The oldest that waits for each target whose time has come. What was made at once goes in the order in which it was written.
const DUE_NOTICES: &str = "
    WITH due AS (
        SELECT t.target_id, t.tries, t.next_at,
          (SELECT o.rowid FROM notify_outbox o WHERE o.target_id = t.target_id ORDER BY o.created_at, o.rowid LIMIT 1) AS oldest,
          ROW_NUMBER() OVER (PARTITION BY t.org ORDER BY t.tries > 0, t.next_at, t.target_id) AS of_org
        FROM notify_targets t
        WHERE t.next_at <= ?1
          AND EXISTS (SELECT 1 FROM notify_outbox o WHERE o.target_id = t.target_id)
          AND t.target_id NOT IN (SELECT value FROM json_each(?2))
          AND t.org NOT IN (SELECT value FROM json_each(?3))
    )
    SELECT o.id, o.event, o.body, d.tries, d.target_id FROM due d JOIN notify_outbox o ON o.rowid = d.oldest
    WHERE d.of_org <= ?4 ORDER BY d.tries > 0, d.next_at, d.target_id LIMIT ?5";

#[derive(sqlx::FromRow)]
struct DueColumns {
    id: String,
    event: String,
    body: String,
    tries: u32,
    target_id: String,
}

pub(super) async fn due(store: &SqliteStore, now: Timestamp, busy: Busy) -> Result<Vec<DueNotice>> {
    let orgs: Vec<&str> = busy.orgs.iter().map(OrgId::as_str).collect();
    let rows: Vec<DueColumns> = sqlx::query_as(DUE_NOTICES)
        .bind(ms(now))
        .bind(serde_json::Value::from(busy.targets).to_string())
        .bind(serde_json::Value::from(orgs).to_string())
        .bind(DUE_OF_ORG)
        .bind(DUE)
        .fetch_all(&store.reads)
        .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        let target: Option<TargetColumns> = sqlx::query_as(
            "SELECT target_id, org, way, address, secret, kinds, created_at, delivered_at, last_error, 0
             FROM notify_targets WHERE target_id = ?1",
        )
        .bind(&row.target_id)
        .fetch_optional(&store.reads)
        .await?;
        let Some(target) = target else { continue };
        due.push(DueNotice {
            id: row.id,
            event: row.event,
            body: row.body,
            tries: row.tries,
            target: read_target(target)?,
        });
    }
    Ok(due)
}
