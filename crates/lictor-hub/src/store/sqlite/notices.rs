//! The outbox of notifications: written in the transaction of what they tell, so that no kill loses one.
//!
//! # Invariants
//! - What waits for one target is bounded; what is dropped or given up is in the audit log of its org.
//! - An id never changes, so whoever gets a notification twice can tell.

mod outbox;

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::api::{ExecutionState, NoticeKind};
use lictor_proto::{Code, OrgId, Timestamp};

use super::SqliteStore;
use super::rows::{as_word, ms, text, time, word};
use super::writer::{Tx, Write};
use crate::store::{
    Busy, DueNotice, ExecutionKey, Notice, Notices, NotifyTarget, QuietNode, StoreError, Tested,
};
use outbox::{Delivered, Failed};

type Result<T> = std::result::Result<T, StoreError>;

/// Targets of one org.
const TARGETS: i64 = 50;
/// What waits for one target; more is dropped, and the audit log says so.
const WAITING: i64 = 1000;

fn kinds(on: &[NoticeKind]) -> Result<String> {
    let words: Result<Vec<String>> = on.iter().map(as_word).collect();
    Ok(words?.join(" "))
}

/// Who of an org wants to know of a kind.
const WANT: &str = "SELECT target_id FROM notify_targets WHERE org = ?1 AND instr(' ' || kinds || ' ', ' ' || ?2 || ' ') > 0";

/// Puts a notice into the outbox of every target that wants it, with this transaction; says whether any does.
pub(super) async fn enqueue(tx: &mut Tx, org: &OrgId, notice: &Notice) -> Result<bool> {
    let kind = as_word(&notice.kind)?;
    let targets: Vec<(String,)> = sqlx::query_as(WANT)
        .bind(org.as_str())
        .bind(kind)
        .fetch_all(&mut tx.conn)
        .await?;
    if targets.is_empty() {
        return Ok(false);
    }
    let said =
        sqlx::query("INSERT INTO notify_said (org, key, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")
            .bind(org.as_str())
            .bind(&notice.key)
            .bind(ms(tx.now))
            .execute(&mut tx.conn)
            .await?;
    if said.rows_affected() == 0 {
        return Ok(true);
    }
    for (target,) in targets {
        insert(tx, org, &target, notice).await?;
    }
    Ok(true)
}

async fn insert(tx: &mut Tx, org: &OrgId, target: &str, notice: &Notice) -> Result<()> {
    let id = lictor_proto::Digest::of(format!("{org} {target} {} {}", notice.key, tx.now).as_bytes());
    let id = data_encoding::BASE32_NOPAD
        .encode(&id.0[..20])
        .to_ascii_lowercase();
    let says: serde_json::Map<String, serde_json::Value> = notice
        .says
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
        .collect();
    let body = serde_json::json!({ "type": notice.event, "timestamp": tx.now, "data": says });
    let done = sqlx::query(
        "INSERT INTO notify_outbox (id, target_id, org, event, body, created_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6
         WHERE (SELECT COUNT(*) FROM notify_outbox WHERE target_id = ?2) < ?7",
    )
    .bind(format!("msg_{id}"))
    .bind(target)
    .bind(org.as_str())
    .bind(notice.event)
    .bind(body.to_string())
    .bind(ms(tx.now))
    .bind(WAITING)
    .execute(&mut tx.conn)
    .await?;
    if done.rows_affected() == 0 {
        let event = Event::new(EventType::NotificationDropped)
            .with("target_id", target)
            .with("event", notice.event);
        tx.note(Some(org), event);
    }
    Ok(())
}

/// That an execution wants approval or a release, or came to a bad end: whatever the number of nodes, once per job, and
/// once more when somebody has approved or released since and it is still wanted, of the next batch, say.
pub(super) async fn of_execution(
    tx: &mut Tx,
    key: &ExecutionKey,
    state: ExecutionState,
    code: Option<Code>,
) -> Result<()> {
    use ExecutionState as S;
    let (kind, event) = match state {
        S::AwaitingApproval => (NoticeKind::Approval, "approval.wanted"),
        S::AwaitingRelease => (NoticeKind::Approval, "release.wanted"),
        S::Failed | S::TimedOut | S::Denied | S::Interrupted | S::Lost | S::Expired => {
            (NoticeKind::Failure, "job.failed")
        }
        _ => return Ok(()),
    };
    let wanted: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM notify_targets WHERE org = ?1 LIMIT 1")
        .bind(key.org.as_str())
        .fetch_optional(&mut tx.conn)
        .await?;
    if wanted.is_none() {
        return Ok(());
    }
    let row: Option<(String, Option<String>)> = sqlx::query_as(
        "SELECT j.operator, n.name FROM jobs j LEFT JOIN nodes n ON n.org = j.org AND n.node_id = ?3
         WHERE j.org = ?1 AND j.job_id = ?2",
    )
    .bind(key.org.as_str())
    .bind(key.job_id.as_str())
    .bind(key.node_id.as_str())
    .fetch_optional(&mut tx.conn)
    .await?;
    let Some((operator, node)) = row else {
        return Ok(());
    };
    let mut says = vec![
        ("org", key.org.to_string()),
        ("job_id", key.job_id.to_string()),
        ("operator", operator),
        ("node", node.unwrap_or_else(|| key.node_id.to_string())),
        ("state", state.as_str().to_owned()),
        ("verify", format!("lictor job {}", key.job_id)),
    ];
    says.extend(code.map(|c| ("code", c.as_str().to_owned())));
    let round = match kind {
        NoticeKind::Approval => signed_so_far(tx, key).await?,
        _ => String::new(),
    };
    let notice = Notice {
        kind,
        event,
        key: format!("{event} {}{round}", key.job_id),
        says,
    };
    enqueue(tx, &key.org, &notice).await?;
    Ok(())
}

/// Names the newest approval or release of a job; nothing while there is none.
async fn signed_so_far(tx: &mut Tx, key: &ExecutionKey) -> Result<String> {
    let newest: Option<(Vec<u8>,)> = sqlx::query_as(
        "SELECT digest FROM documents WHERE org = ?1 AND job_id = ?2 AND kind IN ('approval', 'release')
         ORDER BY created_at DESC, digest DESC LIMIT 1",
    )
    .bind(key.org.as_str())
    .bind(key.job_id.as_str())
    .fetch_optional(&mut tx.conn)
    .await?;
    let name = |(digest,): (Vec<u8>,)| format!(" after {}", data_encoding::HEXLOWER.encode(&digest));
    Ok(newest.map(name).unwrap_or_default())
}

/// What of an address everybody of the org may read in the audit log: the whole of a chat's webhook is a secret.
fn host(address: &str) -> String {
    let after_scheme = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = after_scheme
        .split(['/', '?', '#', '\\'])
        .next()
        .unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.to_owned()
}

struct PutTarget(NotifyTarget);

impl Write for PutTarget {
    type Out = bool;
    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let t = &self.0;
        let done = sqlx::query(
            "INSERT INTO notify_targets (target_id, org, way, address, secret, kinds, created_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE (SELECT COUNT(*) FROM notify_targets WHERE org = ?2) < ?8",
        )
        .bind(&t.target_id)
        .bind(t.org.as_str())
        .bind(as_word(&t.way)?)
        .bind(&t.address)
        .bind(&t.secret)
        .bind(kinds(&t.on)?)
        .bind(ms(t.created_at))
        .bind(TARGETS)
        .execute(&mut tx.conn)
        .await?;
        let is_new = done.rows_affected() == 1;
        if is_new {
            let event = Event::new(EventType::NotifyTargetSet)
                .with("target_id", t.target_id.as_str())
                .with("way", as_word(&t.way)?)
                .with("host", host(&t.address));
            tx.note(Some(&t.org), event);
        }
        Ok(is_new)
    }
}

struct DeleteTarget {
    org: OrgId,
    target_id: String,
}

impl Write for DeleteTarget {
    type Out = bool;
    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let done = sqlx::query("DELETE FROM notify_targets WHERE org = ?1 AND target_id = ?2")
            .bind(self.org.as_str())
            .bind(&self.target_id)
            .execute(&mut tx.conn)
            .await?;
        let deleted = done.rows_affected() == 1;
        if deleted {
            let event = Event::new(EventType::NotifyTargetRemoved).with("target_id", self.target_id.as_str());
            tx.note(Some(&self.org), event);
        }
        Ok(deleted)
    }
}

struct Tell {
    org: OrgId,
    notice: Notice,
}

impl Write for Tell {
    type Out = bool;
    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        enqueue(tx, &self.org, &self.notice).await
    }
}

struct Test {
    org: OrgId,
    target_id: String,
    notice: Notice,
    pause: std::time::Duration,
}

impl Write for Test {
    type Out = Tested;
    async fn apply(&self, tx: &mut Tx) -> Result<Tested> {
        let tested: Option<(Option<i64>,)> =
            sqlx::query_as("SELECT tested_at FROM notify_targets WHERE org = ?1 AND target_id = ?2")
                .bind(self.org.as_str())
                .bind(&self.target_id)
                .fetch_optional(&mut tx.conn)
                .await?;
        let Some((tested,)) = tested else {
            return Ok(Tested::Unknown);
        };
        // One of the future is of a clock that was set back.
        let lately = tested.map(time).filter(|at| *at <= tx.now);
        if let Some(at) = lately.filter(|at| at.plus(self.pause) > tx.now) {
            return Ok(Tested::TooSoon(at));
        }
        sqlx::query("UPDATE notify_targets SET tested_at = ?2, next_at = 0 WHERE target_id = ?1")
            .bind(&self.target_id)
            .bind(ms(tx.now))
            .execute(&mut tx.conn)
            .await?;
        let waits: Option<(i64,)> =
            sqlx::query_as("SELECT 1 FROM notify_outbox WHERE target_id = ?1 AND event = ?2 LIMIT 1")
                .bind(&self.target_id)
                .bind(self.notice.event)
                .fetch_optional(&mut tx.conn)
                .await?;
        if waits.is_none() {
            insert(tx, &self.org, &self.target_id, &self.notice).await?;
        }
        let event = Event::new(EventType::NotifyTested).with("target_id", self.target_id.as_str());
        tx.note(Some(&self.org), event);
        Ok(Tested::Sent)
    }
}

type TargetColumns = (
    String,
    String,
    String,
    String,
    Vec<u8>,
    String,
    i64,
    Option<i64>,
    Option<String>,
    i64,
);

fn read_target(row: TargetColumns) -> Result<NotifyTarget> {
    let (target_id, org, way, address, secret, on, created, delivered, last_error, waiting) = row;
    Ok(NotifyTarget {
        target_id,
        org: text(&org)?,
        way: word(&way)?,
        address,
        secret,
        on: on.split(' ').map(word).collect::<Result<_>>()?,
        created_at: time(created),
        delivered_at: delivered.map(time),
        last_error,
        waiting: waiting.unsigned_abs(),
    })
}

#[async_trait]
impl Notices for SqliteStore {
    async fn put_notify_target(&self, target: NotifyTarget) -> Result<bool> {
        self.writer.run(PutTarget(target)).await
    }

    async fn notify_targets(&self, org: &OrgId) -> Result<Vec<NotifyTarget>> {
        let rows: Vec<TargetColumns> = sqlx::query_as(
            "SELECT t.target_id, t.org, t.way, t.address, t.secret, t.kinds, t.created_at, t.delivered_at, t.last_error,
               (SELECT COUNT(*) FROM notify_outbox o WHERE o.target_id = t.target_id)
             FROM notify_targets t WHERE t.org = ?1 ORDER BY t.created_at, t.target_id",
        )
        .bind(org.as_str())
        .fetch_all(self.settled().await?)
        .await?;
        rows.into_iter().map(read_target).collect()
    }

    async fn delete_notify_target(&self, org: &OrgId, target_id: &str) -> Result<bool> {
        let (org, target_id) = (org.clone(), target_id.to_owned());
        self.writer.run(DeleteTarget { org, target_id }).await
    }

    async fn notify(&self, org: &OrgId, notice: Notice) -> Result<bool> {
        // Where nobody wants to know there is nothing to write.
        let wanted: Option<(String,)> = sqlx::query_as(WANT)
            .bind(org.as_str())
            .bind(as_word(&notice.kind)?)
            .fetch_optional(&self.reads)
            .await?;
        if wanted.is_none() {
            return Ok(false);
        }
        let org = org.clone();
        self.writer.run(Tell { org, notice }).await
    }

    async fn test_notify_target(
        &self,
        org: &OrgId,
        target_id: &str,
        notice: Notice,
        pause: std::time::Duration,
    ) -> Result<Tested> {
        let (org, target_id) = (org.clone(), target_id.to_owned());
        let test = Test {
            org,
            target_id,
            notice,
            pause,
        };
        self.writer.run(test).await
    }

    async fn due_notices(&self, now: Timestamp, busy: Busy) -> Result<Vec<DueNotice>> {
        outbox::due(self, now, busy).await
    }

    async fn is_waiting(&self, id: &str) -> Result<bool> {
        let found: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM notify_outbox WHERE id = ?1")
            .bind(id)
            .fetch_optional(&self.reads)
            .await?;
        Ok(found.is_some())
    }

    async fn notice_delivered(&self, target_id: &str, id: &str) -> Result<()> {
        let (target_id, id) = (target_id.to_owned(), id.to_owned());
        self.writer.run(Delivered { target_id, id }).await
    }

    async fn notice_failed(
        &self,
        due: &DueNotice,
        why: String,
        next: Timestamp,
        oldest: Timestamp,
    ) -> Result<()> {
        let due = due.clone();
        let failed = Failed {
            due,
            why,
            next,
            oldest,
        };
        self.writer.run(failed).await
    }

    async fn quiet_nodes(&self, from: Timestamp, to: Timestamp) -> Result<Vec<QuietNode>> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT n.org, n.node_id, n.name, n.last_seen_at FROM nodes n
             WHERE n.last_seen_at > ?1 AND n.last_seen_at <= ?2
               AND EXISTS (SELECT 1 FROM notify_targets t WHERE t.org = n.org)",
        )
        .bind(ms(from))
        .bind(ms(to))
        .fetch_all(&self.reads)
        .await?;
        let quiet = |(org, node, name, seen): (String, String, String, i64)| {
            Ok(QuietNode {
                org: text(&org)?,
                node_id: text(&node)?,
                name: text(&name)?,
                last_seen_at: time(seen),
            })
        };
        rows.into_iter().map(quiet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_the_audit_log_has_where_it_is_and_nothing_that_opens_it() {
        for (address, shown) in [
            (
                "https://hooks.example.com/services/T0/B0/secret",
                "hooks.example.com",
            ),
            (
                "https://hooks.example.com:8443?key=secret@x",
                "hooks.example.com:8443",
            ),
            ("https://hooks.example.com#secret", "hooks.example.com"),
            ("https:\\\\hooks.example.com\\secret", ""),
            ("on-call@example.com", "example.com"),
        ] {
            let host = host(address);
            assert!(!host.contains("secret"), "{host}");
            assert!(shown.is_empty() || host == shown, "{host}");
        }
    }
}
