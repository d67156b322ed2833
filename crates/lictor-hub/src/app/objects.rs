//! Log segments and standard input in object storage; local files by default, synced before anything counts, or a bucket
//! that speaks S3.

mod upload;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lictor_proto::{Digest, OrgId};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig};

use super::Error;
use crate::config::s3::{S3Config, S3Keys};
use crate::relay::Chunk;
use crate::relay::splitter::Place;
use crate::store::{ExecutionKey, SegmentBody, SegmentRow};

pub use upload::Upload;

/// Most raw bytes of one segment.
pub const SEGMENT: usize = 4 * 1024 * 1024;
/// A packed segment up to this size lives in its row: most logs are small, and a row costs no file.
const INLINE: usize = 64 * 1024;
const ZSTD_LEVEL: i32 = 1;
/// Bytes of one write to a file.
const PIECE: usize = 64 * 1024;
/// How long a bucket is tried again.
const S3_PATIENCE: Duration = Duration::from_secs(60);

/// Object storage.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The same where uploads have ids, which outlive who began them.
    parts: Option<Arc<dyn MultipartStore>>,
}

impl Objects {
    /// Files under this directory, which is made if need be. What a killed hub had begun to write goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn local(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::Internal(format!("{}: {e}", dir.display())))?;
        keep_private(dir);
        upload::sweep(dir).map_err(|e| Error::Internal(format!("{}: {e}", dir.display())))?;
        let files = LocalFileSystem::new_with_prefix(dir)?.with_fsync(true);
        Ok(Self {
            store: Arc::new(files),
            parts: None,
        })
    }

    /// A bucket.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn s3(config: &S3Config, keys: S3Keys) -> Result<Self, Error> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(keys.access_key_id)
            .with_secret_access_key(keys.secret_access_key)
            .with_retry(RetryConfig {
                max_retries: 5,
                retry_timeout: S3_PATIENCE,
                ..RetryConfig::default()
            });
        if let Some(token) = keys.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = &config.endpoint {
            // What is not Amazon's has the bucket in the path.
            builder = builder
                .with_endpoint(endpoint)
                .with_virtual_hosted_style_request(false)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        let bucket = builder.build()?;
        Ok(match config.prefix.as_str() {
            "" => Self::of_bucket(bucket),
            prefix => Self::of_bucket(PrefixStore::new(bucket, prefix)),
        })
    }

    fn of_bucket(bucket: impl ObjectStore + MultipartStore) -> Self {
        let bucket = Arc::new(bucket);
        Self {
            store: bucket.clone(),
            parts: Some(bucket),
        }
    }

    /// Writes, reads and deletes something small: what cannot be used is told at the start, and not by the first log.
    ///
    /// # Errors
    /// [`Error::Objects`]; [`Error::Internal`] when what comes back is another thing.
    pub async fn try_out(&self) -> Result<(), Error> {
        let (path, text) = (
            ObjectPath::from("lictor-hub-started"),
            Bytes::from_static(b"lictor"),
        );
        self.store.put(&path, text.clone().into()).await?;
        let back = self.store.get(&path).await?.bytes().await?;
        if back != text {
            return Err(Error::Internal(
                "object storage gives other bytes than it was given".to_owned(),
            ));
        }
        self.delete(&path).await
    }

    /// Packs contiguous chunks into a segment and puts it where it belongs; a large one is stored when this
    /// returns, a small one comes back to be stored with its row.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn pack(&self, key: &ExecutionKey, chunks: Vec<Chunk>) -> Result<Option<SegmentRow>, Error> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(None);
        };
        let (start, to) = (first.start, last.after.at);
        let from = start.at;
        let packed = if to - from <= INLINE as u64 {
            compress(&chunks)?
        } else {
            let work = tokio::task::spawn_blocking(move || compress(&chunks));
            work.await.map_err(|e| Error::Internal(e.to_string()))??
        };
        let body = if packed.len() <= INLINE {
            SegmentBody::Inline(packed)
        } else {
            let path = format!(
                "logs/{}/{}/{}/{from:020}-{to:020}.zst",
                key.org, key.job_id, key.node_id
            );
            self.store
                .put(&ObjectPath::from(path.as_str()), in_pieces(packed))
                .await?;
            SegmentBody::Object(path)
        };
        Ok(Some(SegmentRow {
            from,
            to,
            stdout_at: start.stdout,
            stderr_at: start.stderr,
            body,
        }))
    }

    /// The frames of a stored segment.
    ///
    /// # Errors
    /// [`Error::Objects`], [`Error::Internal`] when the bytes are damaged.
    pub async fn read_segment(&self, segment: &SegmentRow) -> Result<Chunk, Error> {
        let packed = match &segment.body {
            SegmentBody::Inline(bytes) => bytes.clone(),
            SegmentBody::Object(path) => {
                self.store
                    .get(&ObjectPath::from(path.as_str()))
                    .await?
                    .bytes()
                    .await?
            }
        };
        let len = usize::try_from(segment.to - segment.from).unwrap_or(usize::MAX);
        let raw = if len <= INLINE {
            unpack(&packed, len)?
        } else {
            let work = tokio::task::spawn_blocking(move || unpack(&packed, len));
            work.await.map_err(|e| Error::Internal(e.to_string()))??
        };
        Ok(Chunk::whole(place_of(segment), Arc::new([raw])))
    }

    /// Deletes a log object; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn delete_log(&self, path: &str) -> Result<(), Error> {
        self.delete(&ObjectPath::from(path)).await
    }

    /// Deletes standard input; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn delete_stdin(&self, org: &OrgId, sha256: &Digest) -> Result<(), Error> {
        self.delete(&stdin_path(org, sha256)).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), Error> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A piece of standard input.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn stdin(
        &self,
        org: &OrgId,
        sha256: &Digest,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, Error> {
        Ok(self.store.get_range(&stdin_path(org, sha256), range).await?)
    }
}

/// Outputs and inputs are for the hub's user only. One that is not the hub's own, a mounted disk say, stays as it is.
fn keep_private(dir: &Path) {
    #[cfg(unix)]
    {
        let only_its_owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        if let Err(e) = std::fs::set_permissions(dir, only_its_owner) {
            tracing::warn!(dir = %dir.display(), error = %e, "others may be able to read what jobs print");
        }
    }
    #[cfg(not(unix))]
    let _ = dir;
}

fn stdin_path(org: &OrgId, sha256: &Digest) -> ObjectPath {
    let hex = data_encoding::HEXLOWER.encode(&sha256.0);
    ObjectPath::from(format!("stdin/{org}/{hex}"))
}

/// One frame of Zstandard, made part by part: there is no second copy of what is packed.
fn compress(chunks: &[Chunk]) -> Result<Bytes, Error> {
    let size: usize = chunks.iter().map(Chunk::len).sum();
    let work = || {
        let mut packer = zstd::Encoder::new(Vec::with_capacity(size + size / 64 + 64), ZSTD_LEVEL)?;
        packer.set_pledged_src_size(Some(size as u64))?;
        for part in chunks.iter().flat_map(|c| c.parts.iter()) {
            packer.write_all(part)?;
        }
        packer.finish()
    };
    let packed: std::io::Result<Vec<u8>> = work();
    packed
        .map(Bytes::from)
        .map_err(|e| Error::Internal(format!("compress: {e}")))
}

/// The same bytes, for a file that is written piece by piece: the kernel's cache takes megabytes that are written at once
/// as memory in one piece, which a virtual machine may first have to get (a gigabyte: 2.9 s of processor time, not 0.4).
fn in_pieces(mut packed: Bytes) -> PutPayload {
    let mut pieces = Vec::with_capacity(packed.len() / PIECE + 1);
    while !packed.is_empty() {
        pieces.push(packed.split_to(packed.len().min(PIECE)));
    }
    pieces.into_iter().collect()
}

fn unpack(packed: &[u8], len: usize) -> Result<Bytes, Error> {
    let raw =
        zstd::bulk::decompress(packed, len).map_err(|e| Error::Internal(format!("damaged segment: {e}")))?;
    if raw.len() == len {
        Ok(raw.into())
    } else {
        Err(Error::Internal("damaged segment: wrong length".to_owned()))
    }
}

/// Where the log stands before a segment.
#[must_use]
pub fn place_of(segment: &SegmentRow) -> Place {
    Place {
        at: segment.from,
        stdout: segment.stdout_at,
        stderr: segment.stderr_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::frame::{Frame, FrameKind};
    use lictor_proto::{JobId, NodeId, Timestamp};

    /// How a frame of Zstandard begins (RFC 8878, section 3.1.1).
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

    const PIECE: usize = 10_000;

    fn key() -> ExecutionKey {
        let org = OrgId::from_root(&Digest::of(b"root"));
        ExecutionKey {
            node_id: NodeId::derive(&org, &[7; 32]),
            org,
            job_id: JobId::from_digest(&Digest::of(b"job")),
        }
    }

    fn printed(payload: &[u8]) -> Chunk {
        let frames = payload.chunks(PIECE).enumerate().map(|(n, piece)| {
            let frame = Frame {
                kind: FrameKind::Stdout,
                time: Timestamp::from_millis(7),
                at: (n * PIECE) as u64,
                payload: Bytes::copy_from_slice(piece),
            };
            Bytes::from(frame.encode())
        });
        Chunk::whole(Place::default(), frames.collect())
    }

    #[tokio::test]
    async fn a_segment_is_zstd_in_its_row_or_in_an_object_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::local(dir.path()).unwrap();
        let mut noise = 1_u64;
        let noise = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        });
        let repetitive = printed(&b"again and again\n".repeat(60_000));
        let random = printed(&noise.take(100_000).collect::<Vec<u8>>());
        for (chunk, is_row) in [(repetitive, true), (random, false)] {
            let packed = objects.pack(&key(), vec![chunk.clone()]).await.unwrap();
            let row = packed.expect("there is something to store");
            let stored = match &row.body {
                SegmentBody::Inline(bytes) => bytes.to_vec(),
                SegmentBody::Object(path) => std::fs::read(dir.path().join(path)).unwrap(),
            };
            assert_eq!(matches!(row.body, SegmentBody::Inline(_)), is_row);
            assert!(stored.starts_with(&MAGIC));
            assert!(
                !is_row || stored.len() * 100 < chunk.len(),
                "{} bytes",
                stored.len()
            );
            let back = objects.read_segment(&row).await.unwrap();
            assert!(back.parts.concat() == chunk.parts.concat());
            assert_eq!((back.start, back.after), (chunk.start, chunk.after));
        }
    }
}
