//! Orgs and their law.

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::agent::LawDocs;
use lictor_proto::{Name, OrgId};

use super::SqliteStore;
use super::rows::{ms, text};
use super::tokens::insert_token;
use super::writer::{Tx, Write};
use crate::store::{Inserted, LawRow, Orgs, StoreError, TokenRow};

type Result<T> = std::result::Result<T, StoreError>;

struct CreateOrg {
    org: OrgId,
    name: Name,
    root: LawRow,
    token: TokenRow,
}

impl Write for CreateOrg {
    type Out = Inserted;

    async fn apply(&self, tx: &mut Tx) -> Result<Inserted> {
        let done = sqlx::query(
            "INSERT INTO orgs (org, name, created_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )
        .bind(self.org.as_str())
        .bind(self.name.as_str())
        .bind(ms(tx.now))
        .execute(&mut tx.conn)
        .await?;
        let inserted = done.rows_affected() == 1;
        if inserted {
            insert_law(tx, &self.org, &self.root).await?;
            let event = Event::new(EventType::OrgCreated).with("name", self.name.as_str());
            tx.note(Some(&self.org), event);
        }
        // Whoever runs the hub may make an org's first token again; its holder sees this in the audit.
        insert_token(tx, &self.token).await?;
        Ok(if inserted { Inserted::New } else { Inserted::Same })
    }
}

struct PutLaw {
    org: OrgId,
    rows: Vec<LawRow>,
}

impl Write for PutLaw {
    type Out = ();

    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        for row in &self.rows {
            insert_law(tx, &self.org, row).await?;
            let event = Event::new(EventType::LawPublished)
                .with("kind", row.kind)
                .with("version", row.version)
                .with_id("digest", &row.digest);
            tx.note(Some(&self.org), event);
        }
        Ok(())
    }
}

async fn insert_law(tx: &mut Tx, org: &OrgId, row: &LawRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO trust_documents (org, kind, digest, version, wire, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO NOTHING",
    )
    .bind(org.as_str())
    .bind(row.kind)
    .bind(row.digest.0.as_slice())
    .bind(row.version as i64)
    .bind(&row.wire)
    .bind(ms(tx.now))
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

#[async_trait]
impl Orgs for SqliteStore {
    async fn create_org(&self, org: &OrgId, name: &Name, root: LawRow, token: TokenRow) -> Result<Inserted> {
        let (org, name) = (org.clone(), name.clone());
        self.writer
            .run(CreateOrg {
                org,
                name,
                root,
                token,
            })
            .await
    }

    async fn orgs(&self) -> Result<Vec<OrgId>> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT org FROM orgs ORDER BY org")
            .fetch_all(&self.reads)
            .await?;
        rows.iter().map(|(org,)| text(org)).collect()
    }

    async fn law(&self, org: &OrgId) -> Result<LawDocs> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT kind, wire FROM trust_documents WHERE org = ?1 ORDER BY kind, version, created_at, digest",
        )
        .bind(org.as_str())
        .fetch_all(&self.reads)
        .await?;
        let mut docs = LawDocs::default();
        for (kind, wire) in rows {
            match kind.as_str() {
                "root" => docs.roots.push(wire),
                // In order of version and time, so the last one is the newest.
                "bundle" => docs.bundle = Some(wire),
                "freshness" => docs.freshness = Some(wire),
                "revocation" => docs.revocations.push(wire),
                other => return Err(StoreError::Corrupt(format!("law of kind {other:?}"))),
            }
        }
        Ok(docs)
    }

    async fn put_law(&self, org: &OrgId, rows: Vec<LawRow>) -> Result<()> {
        let org = org.clone();
        self.writer.run(PutLaw { org, rows }).await
    }
}
