//! Grants and nodes.

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::agent::{Heartbeat, Wire};
use lictor_proto::{Digest, Name, NodeId, OrgId, Timestamp};

use super::SqliteStore;
use super::rows::{as_word, digest, ms, text, time, word};
use super::writer::{Tx, Write};
use crate::store::{Durability, Enrolled, GrantRow, Grants, Inserted, NewNode, NodeRow, Nodes, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

struct PutGrant {
    org: OrgId,
    grant: GrantRow,
}

impl Write for PutGrant {
    type Out = Inserted;
    async fn apply(&self, tx: &mut Tx) -> Result<Inserted> {
        let done = sqlx::query(
            "INSERT INTO grants (org, digest, max_uses, wire, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
        )
        .bind(self.org.as_str())
        .bind(self.grant.digest.0.as_slice())
        .bind(self.grant.max_uses)
        .bind(&self.grant.wire)
        .bind(ms(tx.now))
        .execute(&mut tx.conn)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(Inserted::Same);
        }
        let event = Event::new(EventType::GrantStored).with_id("digest", &self.grant.digest);
        tx.note(Some(&self.org), event);
        Ok(Inserted::New)
    }
}

struct Enroll {
    org: OrgId,
    node: NewNode,
}

impl Write for Enroll {
    type Out = Enrolled;

    async fn apply(&self, tx: &mut Tx) -> Result<Enrolled> {
        let (org, node) = (&self.org, &self.node);
        let known: Option<(String,)> =
            sqlx::query_as("SELECT record FROM nodes WHERE org = ?1 AND node_id = ?2")
                .bind(org.as_str())
                .bind(node.node_id.as_str())
                .fetch_optional(&mut tx.conn)
                .await?;
        if known.is_some_and(|(record,)| record == node.record) {
            return Ok(Enrolled::Same);
        }
        // Counted inside the transaction of the one writer: two machines cannot both take the last use.
        let (used, allowed): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM nodes WHERE org = ?1 AND grant_digest = ?2 AND node_id <> ?3),
                    (SELECT max_uses FROM grants WHERE org = ?1 AND digest = ?2)",
        )
        .bind(org.as_str())
        .bind(node.grant.0.as_slice())
        .bind(node.node_id.as_str())
        .fetch_one(&mut tx.conn)
        .await?;
        if used >= allowed {
            return Ok(Enrolled::GrantUsed);
        }
        insert_node(tx, org, node).await?;
        let event = Event::new(EventType::NodeEnrolled)
            .with_id("node_id", &node.node_id)
            .with_id("name", &node.name)
            .with_id("grant", &node.grant);
        tx.note(Some(org), event);
        Ok(Enrolled::New)
    }
}

async fn insert_node(tx: &mut Tx, org: &OrgId, node: &NewNode) -> Result<()> {
    sqlx::query(
        "INSERT INTO nodes (org, node_id, name, kind, grant_digest, link_spki, record, enrolled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (org, node_id) DO UPDATE SET
           name = excluded.name, kind = excluded.kind, grant_digest = excluded.grant_digest,
           link_spki = excluded.link_spki, record = excluded.record",
    )
    .bind(org.as_str())
    .bind(node.node_id.as_str())
    .bind(node.name.as_str())
    .bind(as_word(&node.kind)?)
    .bind(node.grant.0.as_slice())
    .bind(node.link_spki.0.as_slice())
    .bind(&node.record)
    .bind(ms(tx.now))
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// With each heartbeat of each node.
pub(super) const RENEW: &str = "UPDATE executions SET lease_expires_at = ?3
     WHERE org = ?1 AND node_id = ?2 AND state IN ('leased', 'running')";

struct Seen {
    org: OrgId,
    node: NodeId,
    beat: Option<String>,
    lease: Timestamp,
}

impl Write for Seen {
    type Out = ();
    fn durability(&self) -> Durability {
        Durability::Relaxed
    }
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query(
            "UPDATE nodes SET last_seen_at = ?3, heartbeat = COALESCE(?4, heartbeat) WHERE org = ?1 AND node_id = ?2",
        )
        .bind(self.org.as_str())
        .bind(self.node.as_str())
        .bind(ms(tx.now))
        .bind(&self.beat)
        .execute(&mut tx.conn)
        .await?;
        sqlx::query(RENEW)
            .bind(self.org.as_str())
            .bind(self.node.as_str())
            .bind(ms(self.lease))
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }
}

type Columns = (
    String,
    String,
    String,
    String,
    String,
    i64,
    Option<i64>,
    Option<String>,
);

fn read(row: Columns) -> Result<NodeRow> {
    let (node_id, name, kind, grant, record, enrolled, seen, beat) = row;
    Ok(NodeRow {
        node_id: text(&node_id)?,
        name: text(&name)?,
        kind: word(&kind)?,
        grant,
        record,
        enrolled_at: time(enrolled),
        last_seen_at: seen.map(time),
        // A heartbeat of another version is not worth an error; the next one is.
        heartbeat: beat.and_then(|b| serde_json::from_str(&b).ok()),
    })
}

#[async_trait]
impl Grants for SqliteStore {
    async fn put_grant(&self, org: &OrgId, grant: GrantRow) -> Result<Inserted> {
        let org = org.clone();
        self.writer.run(PutGrant { org, grant }).await
    }

    async fn grant(&self, org: &OrgId, digest: &Digest) -> Result<Option<Wire>> {
        let row: Option<(String,)> = sqlx::query_as("SELECT wire FROM grants WHERE org = ?1 AND digest = ?2")
            .bind(org.as_str())
            .bind(digest.0.as_slice())
            .fetch_optional(&self.reads)
            .await?;
        Ok(row.map(|(wire,)| wire))
    }

    async fn grants(&self, org: &OrgId, after: Option<Digest>, limit: u32) -> Result<Vec<(Digest, Wire)>> {
        let after = after.map(|d| d.0.to_vec()).unwrap_or_default();
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as(
            "SELECT digest, wire FROM grants WHERE org = ?1 AND digest > ?2 ORDER BY digest LIMIT ?3",
        )
        .bind(org.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter()
            .map(|(d, wire)| Ok((digest(&d)?, wire)))
            .collect()
    }
}

#[async_trait]
impl Nodes for SqliteStore {
    async fn enroll(&self, org: &OrgId, node: NewNode) -> Result<Enrolled> {
        let org = org.clone();
        self.writer.run(Enroll { org, node }).await
    }

    async fn node(&self, org: &OrgId, node: &NodeId) -> Result<Option<NodeRow>> {
        let row: Option<Columns> = sqlx::query_as(
            "SELECT n.node_id, n.name, n.kind, g.wire, n.record, n.enrolled_at, n.last_seen_at, n.heartbeat
             FROM nodes n JOIN grants g ON g.org = n.org AND g.digest = n.grant_digest
             WHERE n.org = ?1 AND n.node_id = ?2",
        )
        .bind(org.as_str())
        .bind(node.as_str())
        .fetch_optional(&self.reads)
        .await?;
        row.map(read).transpose()
    }

    async fn nodes(&self, org: &OrgId, after: Option<NodeId>, limit: u32) -> Result<Vec<NodeRow>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT n.node_id, n.name, n.kind, g.wire, n.record, n.enrolled_at, n.last_seen_at, n.heartbeat
             FROM nodes n JOIN grants g ON g.org = n.org AND g.digest = n.grant_digest
             WHERE n.org = ?1 AND n.node_id > ?2 ORDER BY n.node_id LIMIT ?3",
        )
        .bind(org.as_str())
        .bind(after.map(|n| n.as_str().to_owned()).unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read).collect()
    }

    async fn nodes_named(&self, org: &OrgId, name: &Name) -> Result<Vec<NodeRow>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT n.node_id, n.name, n.kind, g.wire, n.record, n.enrolled_at, n.last_seen_at, n.heartbeat
             FROM nodes n JOIN grants g ON g.org = n.org AND g.digest = n.grant_digest
             WHERE n.org = ?1 AND n.name = ?2 ORDER BY n.node_id LIMIT 100",
        )
        .bind(org.as_str())
        .bind(name.as_str())
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read).collect()
    }

    async fn node_by_link(&self, spki: &Digest) -> Result<Option<(OrgId, NodeId)>> {
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT org, node_id FROM nodes WHERE link_spki = ?1")
                .bind(spki.0.as_slice())
                .fetch_optional(&self.reads)
                .await?;
        row.map(|(org, node)| Ok((text(&org)?, text(&node)?))).transpose()
    }

    async fn seen(
        &self,
        org: &OrgId,
        node: &NodeId,
        beat: Option<Heartbeat>,
        lease: Timestamp,
    ) -> Result<()> {
        let beat = beat.map(|b| serde_json::to_string(&b).unwrap_or_default());
        let (org, node) = (org.clone(), node.clone());
        self.writer
            .run(Seen {
                org,
                node,
                beat,
                lease,
            })
            .await
    }
}
