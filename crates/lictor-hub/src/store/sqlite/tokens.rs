//! API tokens: only the hash of a secret is here.

use async_trait::async_trait;
use lictor_audit::{Event, EventType};
use lictor_proto::{OrgId, Timestamp};

use super::SqliteStore;
use super::rows::{as_word, digest, ms, text, time, word};
use super::writer::{Tx, Write};
use crate::store::{Durability, StoreError, TokenRow, Tokens};

type Result<T> = std::result::Result<T, StoreError>;

struct PutToken(TokenRow);

impl Write for PutToken {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        insert_token(tx, &self.0).await
    }
}

pub(super) async fn insert_token(tx: &mut Tx, token: &TokenRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO tokens (token_id, org, label, scope, secret_hash, created_at, expires_at, requests_per_second)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .bind(&token.token_id)
    .bind(token.org.as_str())
    .bind(&token.label)
    .bind(as_word(&token.scope)?)
    .bind(token.secret_hash.0.as_slice())
    .bind(ms(token.created_at))
    .bind(token.expires_at.map(ms))
    .bind(token.requests_per_second)
    .execute(&mut tx.conn)
    .await?;
    let event = Event::new(EventType::TokenCreated)
        .with("token_id", token.token_id.as_str())
        .with("label", token.label.as_str())
        .with("scope", as_word(&token.scope)?);
    tx.note(Some(&token.org), event);
    Ok(())
}

struct DeleteToken {
    org: OrgId,
    token_id: String,
}

impl Write for DeleteToken {
    type Out = bool;
    async fn apply(&self, tx: &mut Tx) -> Result<bool> {
        let done = sqlx::query("DELETE FROM tokens WHERE org = ?1 AND token_id = ?2")
            .bind(self.org.as_str())
            .bind(&self.token_id)
            .execute(&mut tx.conn)
            .await?;
        let deleted = done.rows_affected() == 1;
        if deleted {
            let event = Event::new(EventType::TokenDeleted).with("token_id", self.token_id.as_str());
            tx.note(Some(&self.org), event);
        }
        Ok(deleted)
    }
}

struct TokenUsed {
    token_id: String,
    at: Timestamp,
}

impl Write for TokenUsed {
    type Out = ();
    fn durability(&self) -> Durability {
        Durability::Relaxed
    }
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query("UPDATE tokens SET last_used_at = ?2 WHERE token_id = ?1")
            .bind(&self.token_id)
            .bind(ms(self.at))
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
    Vec<u8>,
    i64,
    Option<i64>,
    Option<i64>,
    Option<u32>,
);

fn read(row: Columns) -> Result<TokenRow> {
    let (token_id, org, label, scope, hash, created, expires, used, requests_per_second) = row;
    Ok(TokenRow {
        token_id,
        org: text(&org)?,
        label,
        scope: word(&scope)?,
        secret_hash: digest(&hash)?,
        created_at: time(created),
        expires_at: expires.map(time),
        last_used_at: used.map(time),
        requests_per_second,
    })
}

#[async_trait]
impl Tokens for SqliteStore {
    async fn put_token(&self, token: TokenRow) -> Result<()> {
        self.writer.run(PutToken(token)).await
    }

    async fn token(&self, token_id: &str) -> Result<Option<TokenRow>> {
        let row: Option<Columns> = sqlx::query_as(
            "SELECT token_id, org, label, scope, secret_hash, created_at, expires_at, last_used_at, requests_per_second
             FROM tokens WHERE token_id = ?1",
        )
        .bind(token_id)
        .fetch_optional(&self.reads)
        .await?;
        row.map(read).transpose()
    }

    async fn tokens(&self, org: &OrgId, after: Option<String>, limit: u32) -> Result<Vec<TokenRow>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT token_id, org, label, scope, secret_hash, created_at, expires_at, last_used_at, requests_per_second
             FROM tokens WHERE org = ?1 AND token_id > ?2 ORDER BY token_id LIMIT ?3",
        )
        .bind(org.as_str())
        .bind(after.unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read).collect()
    }

    async fn delete_token(&self, org: &OrgId, token_id: &str) -> Result<bool> {
        let (org, token_id) = (org.clone(), token_id.to_owned());
        self.writer.run(DeleteToken { org, token_id }).await
    }

    async fn token_used(&self, token_id: &str, at: Timestamp) -> Result<()> {
        let token_id = token_id.to_owned();
        self.writer.run(TokenUsed { token_id, at }).await
    }
}
