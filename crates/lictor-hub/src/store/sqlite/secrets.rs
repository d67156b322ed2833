//! Secrets: their documents, which only nodes can open, and the highest version of each name for good.

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::agent::Wire;
use lictor_proto::{Digest, Name, OrgId};

use super::SqliteStore;
use super::rows::{digest, ms, text, time};
use super::writer::{Tx, Write};
use crate::store::{SecretRow, Secrets, StoreError, Stored};

type Result<T> = std::result::Result<T, StoreError>;

/// Versions of a secret that are kept: jobs that wait may be bound to one that is not the newest.
const VERSIONS: i64 = 8;
/// Names of secrets of one org, removed ones included.
const NAMES: i64 = 1000;

struct Put {
    org: OrgId,
    row: SecretRow,
}

impl Write for Put {
    type Out = Stored;

    async fn apply(&self, tx: &mut Tx) -> Result<Stored> {
        let (org, row) = (self.org.as_str(), &self.row);
        let newest: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT version, digest FROM secrets WHERE org = ?1 AND name = ?2 ORDER BY version DESC LIMIT 1",
        )
        .bind(org)
        .bind(row.name.as_str())
        .fetch_optional(&mut tx.conn)
        .await?;
        match newest {
            Some((version, is)) if version.unsigned_abs() == row.version && digest(&is)? == row.digest => {
                return Ok(Stored::Same);
            }
            Some((version, _)) if version.unsigned_abs() >= row.version => {
                return Ok(Stored::Behind(version.unsigned_abs()));
            }
            Some(_) => {}
            None => {
                let names: i64 =
                    sqlx::query_scalar("SELECT COUNT(DISTINCT name) FROM secrets WHERE org = ?1")
                        .bind(org)
                        .fetch_one(&mut tx.conn)
                        .await?;
                if names >= NAMES {
                    return Ok(Stored::Full);
                }
            }
        }
        sqlx::query(
            "INSERT INTO secrets (org, name, version, digest, operator, nodes, issued_at, wire)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(org)
        .bind(row.name.as_str())
        // At most 2^53, which the document's own rule says.
        .bind(row.version as i64)
        .bind(row.digest.0.as_slice())
        .bind(row.operator.as_str())
        .bind(i64::from(row.nodes))
        .bind(ms(row.issued_at))
        .bind(&row.wire)
        .execute(&mut tx.conn)
        .await?;
        sqlx::query(
            "DELETE FROM secrets WHERE org = ?1 AND name = ?2 AND version NOT IN
             (SELECT version FROM secrets WHERE org = ?1 AND name = ?2 ORDER BY version DESC LIMIT ?3)",
        )
        .bind(org)
        .bind(row.name.as_str())
        .bind(VERSIONS)
        .execute(&mut tx.conn)
        .await?;
        let event = Event::new(EventType::SecretSet)
            .with("name", row.name.as_str())
            .with("version", row.version)
            .with("operator", row.operator.as_str())
            .with("nodes", u64::from(row.nodes))
            .with_id("secret", &row.digest);
        tx.note(Some(&self.org), event);
        Ok(Stored::New)
    }
}

struct Remove {
    org: OrgId,
    name: Name,
}

impl Write for Remove {
    type Out = bool;

    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let (org, name) = (self.org.as_str(), self.name.as_str());
        let emptied = sqlx::query(
            "UPDATE secrets SET wire = '' WHERE org = ?1 AND name = ?2 AND wire <> '' AND version =
             (SELECT MAX(version) FROM secrets WHERE org = ?1 AND name = ?2)",
        )
        .bind(org)
        .bind(name)
        .execute(&mut tx.conn)
        .await?;
        if emptied.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("DELETE FROM secrets WHERE org = ?1 AND name = ?2 AND wire <> ''")
            .bind(org)
            .bind(name)
            .execute(&mut tx.conn)
            .await?;
        tx.note(
            Some(&self.org),
            Event::new(EventType::SecretRemoved).with("name", name),
        );
        Ok(true)
    }
}

type Columns = (String, i64, Vec<u8>, String, i64, i64, String);

fn read(row: Columns) -> Result<SecretRow> {
    let (name, version, is, operator, nodes, issued, wire) = row;
    Ok(SecretRow {
        name: text(&name)?,
        version: version.unsigned_abs(),
        digest: digest(&is)?,
        operator: text(&operator)?,
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        issued_at: time(issued),
        wire,
    })
}

#[async_trait]
impl Secrets for SqliteStore {
    async fn put_secret(&self, org: &OrgId, row: SecretRow) -> Result<Stored> {
        let org = org.clone();
        self.writer.run(Put { org, row }).await
    }

    async fn secret_of(&self, org: &OrgId, digest: &Digest) -> Result<Option<Wire>> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT wire FROM secrets WHERE org = ?1 AND digest = ?2 AND wire <> ''")
                .bind(org.as_str())
                .bind(digest.0.as_slice())
                .fetch_optional(&self.reads)
                .await?;
        Ok(row.map(|(wire,)| wire))
    }

    async fn newest_secret(&self, org: &OrgId, name: &Name) -> Result<Option<SecretRow>> {
        let row: Option<Columns> = sqlx::query_as(
            "SELECT name, version, digest, operator, nodes, issued_at, wire FROM secrets
             WHERE org = ?1 AND name = ?2 ORDER BY version DESC LIMIT 1",
        )
        .bind(org.as_str())
        .bind(name.as_str())
        .fetch_optional(&self.reads)
        .await?;
        row.map(read).transpose()
    }

    async fn secrets(&self, org: &OrgId, after: Option<String>, limit: u32) -> Result<Vec<SecretRow>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT s.name, s.version, s.digest, s.operator, s.nodes, s.issued_at, '' FROM secrets s
             WHERE s.org = ?1 AND s.name > ?2 AND s.wire <> '' AND s.version =
             (SELECT MAX(version) FROM secrets n WHERE n.org = s.org AND n.name = s.name)
             ORDER BY s.name LIMIT ?3",
        )
        .bind(org.as_str())
        .bind(after.unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read).collect()
    }

    async fn remove_secret(&self, org: &OrgId, name: &Name) -> Result<bool> {
        let (org, name) = (org.clone(), name.clone());
        self.writer.run(Remove { org, name }).await
    }
}
