//! The index of logs and standard input.

use async_trait::async_trait;
use bytes::Bytes;
use lictor_audit::{Event, EventType};
use lictor_proto::{Digest, OrgId, Timestamp};

use super::SqliteStore;
use super::rows::ms;
use super::writer::{Tx, Write};
use crate::store::{Begun, ExecutionKey, Inserted, Logs, SegmentBody, SegmentRow, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

struct PutSegment {
    key: ExecutionKey,
    segment: SegmentRow,
}

impl Write for PutSegment {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        if insert_segment(tx, &self.key, &self.segment).await? == Inserted::New {
            let event = Event::new(EventType::OutputStored)
                .with_id("job_id", &self.key.job_id)
                .with_id("node_id", &self.key.node_id)
                .with("from", self.segment.from)
                .with("to", self.segment.to);
            tx.note(Some(&self.key.org), event);
        }
        Ok(())
    }
}

/// The same piece again, after a reconnect, changes nothing; a longer one from the same position takes its place.
pub(super) async fn insert_segment(
    tx: &mut Tx,
    key: &ExecutionKey,
    segment: &SegmentRow,
) -> Result<Inserted> {
    let (inline, object) = match &segment.body {
        SegmentBody::Inline(bytes) => (Some(bytes.as_ref()), None),
        SegmentBody::Object(path) => (None, Some(path.as_str())),
    };
    let done = sqlx::query(
        "INSERT INTO segments
           (org, job_id, node_id, from_pos, to_pos, stdout_at, stderr_at, inline, object, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET to_pos = excluded.to_pos, inline = excluded.inline, object = excluded.object
           WHERE excluded.to_pos > to_pos",
    )
    .bind(key.org.as_str())
    .bind(key.job_id.as_str())
    .bind(key.node_id.as_str())
    .bind(segment.from as i64)
    .bind(segment.to as i64)
    .bind(segment.stdout_at as i64)
    .bind(segment.stderr_at as i64)
    .bind(inline)
    .bind(object)
    .bind(ms(tx.now))
    .execute(&mut tx.conn)
    .await?;
    Ok(if done.rows_affected() == 1 {
        Inserted::New
    } else {
        Inserted::Same
    })
}

struct BlobComing {
    org: OrgId,
    sha256: Digest,
}

impl Write for BlobComing {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query(
            "INSERT INTO blobs (org, sha256, size, created_at, keep_until) VALUES (?1, ?2, 0, ?3, 0)
             ON CONFLICT DO NOTHING",
        )
        .bind(self.org.as_str())
        .bind(self.sha256.0.as_slice())
        .bind(ms(tx.now))
        .execute(&mut tx.conn)
        .await?;
        Ok(())
    }
}

struct PutBlob {
    org: OrgId,
    sha256: Digest,
    size: u64,
    keep_until: Timestamp,
}

impl Write for PutBlob {
    type Out = Inserted;
    async fn apply(&self, tx: &mut Tx) -> Result<Inserted> {
        let there: Option<(i64,)> =
            sqlx::query_as("SELECT 1 FROM blobs WHERE org = ?1 AND sha256 = ?2 AND keep_until > 0")
                .bind(self.org.as_str())
                .bind(self.sha256.0.as_slice())
                .fetch_optional(&mut tx.conn)
                .await?;
        sqlx::query(
            "INSERT INTO blobs (org, sha256, size, created_at, keep_until) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET size = excluded.size, keep_until = MAX(keep_until, excluded.keep_until)",
        )
        .bind(self.org.as_str())
        .bind(self.sha256.0.as_slice())
        .bind(self.size as i64)
        .bind(ms(tx.now))
        .bind(ms(self.keep_until))
        .execute(&mut tx.conn)
        .await?;
        let event = Event::new(EventType::BlobStored)
            .with_id("sha256", &self.sha256)
            .with("size", self.size);
        tx.note(Some(&self.org), event);
        Ok(if there.is_none() {
            Inserted::New
        } else {
            Inserted::Same
        })
    }
}

struct UploadBegan(Begun);

impl Write for UploadBegan {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query("INSERT INTO uploads (path, upload_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
            .bind(&self.0.path)
            .bind(&self.0.upload_id)
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }
}

struct UploadOver(Begun);

impl Write for UploadOver {
    type Out = ();
    async fn apply(&self, tx: &mut Tx) -> Result<()> {
        sqlx::query("DELETE FROM uploads WHERE path = ?1 AND upload_id = ?2")
            .bind(&self.0.path)
            .bind(&self.0.upload_id)
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }
}

type Columns = (i64, i64, i64, i64, Option<Vec<u8>>, Option<String>);

fn read(row: Columns) -> Result<SegmentRow> {
    let (from, to, stdout_at, stderr_at, inline, object) = row;
    let body = match (inline, object) {
        (Some(bytes), None) => SegmentBody::Inline(Bytes::from(bytes)),
        (None, Some(path)) => SegmentBody::Object(path),
        _ => return Err(StoreError::Corrupt("a segment is inline or an object".to_owned())),
    };
    Ok(SegmentRow {
        from: from.unsigned_abs(),
        to: to.unsigned_abs(),
        stdout_at: stdout_at.unsigned_abs(),
        stderr_at: stderr_at.unsigned_abs(),
        body,
    })
}

#[async_trait]
impl Logs for SqliteStore {
    async fn put_segment(&self, key: &ExecutionKey, segment: SegmentRow) -> Result<()> {
        let key = key.clone();
        self.writer.run(PutSegment { key, segment }).await
    }

    async fn segments(&self, key: &ExecutionKey, from: u64, limit: u32) -> Result<Vec<SegmentRow>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT from_pos, to_pos, stdout_at, stderr_at, inline, object FROM segments
             WHERE org = ?1 AND job_id = ?2 AND node_id = ?3 AND to_pos > ?4 ORDER BY from_pos LIMIT ?5",
        )
        .bind(key.org.as_str())
        .bind(key.job_id.as_str())
        .bind(key.node_id.as_str())
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.reads)
        .await?;
        rows.into_iter().map(read).collect()
    }

    async fn blob_coming(&self, org: &OrgId, sha256: &Digest) -> Result<()> {
        let (org, sha256) = (org.clone(), *sha256);
        self.writer.run(BlobComing { org, sha256 }).await
    }

    async fn put_blob(
        &self,
        org: &OrgId,
        sha256: &Digest,
        size: u64,
        keep_until: Timestamp,
    ) -> Result<Inserted> {
        let put = PutBlob {
            org: org.clone(),
            sha256: *sha256,
            size,
            keep_until,
        };
        self.writer.run(put).await
    }

    async fn blob(&self, org: &OrgId, sha256: &Digest) -> Result<Option<u64>> {
        // What is about to go does not count: the job that asks will need it for a while.
        let row: Option<(i64,)> =
            sqlx::query_as("SELECT size FROM blobs WHERE org = ?1 AND sha256 = ?2 AND keep_until > ?3")
                .bind(org.as_str())
                .bind(sha256.0.as_slice())
                .bind(ms(Timestamp::now()))
                .fetch_optional(&self.reads)
                .await?;
        Ok(row.map(|(size,)| size.unsigned_abs()))
    }

    async fn blob_bytes(&self, org: &OrgId, but: &Digest) -> Result<u64> {
        let (bytes,): (i64,) =
            sqlx::query_as("SELECT COALESCE(SUM(size), 0) FROM blobs WHERE org = ?1 AND sha256 <> ?2")
                .bind(org.as_str())
                .bind(but.0.as_slice())
                .fetch_one(&self.reads)
                .await?;
        Ok(bytes.unsigned_abs())
    }

    async fn upload_began(&self, upload: Begun) -> Result<()> {
        self.writer.run(UploadBegan(upload)).await
    }

    async fn upload_over(&self, upload: Begun) -> Result<()> {
        self.writer.run(UploadOver(upload)).await
    }

    async fn uploads(&self) -> Result<Vec<Begun>> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT path, upload_id FROM uploads")
            .fetch_all(self.settled().await?)
            .await?;
        let begun = |(path, upload_id)| Begun { path, upload_id };
        Ok(rows.into_iter().map(begun).collect())
    }
}
