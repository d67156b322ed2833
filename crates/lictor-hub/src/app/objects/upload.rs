//! Standard input on its way into storage, part by part.
//!
//! In a bucket an upload has an id and outlives who began it: what is there of it costs room until it is completed or aborted.
//! So it is written down before its first part goes out, and what a kill has left is aborted at the next start.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use lictor_proto::{Digest, OrgId};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, UploadPart};

use super::{Objects, stdin_path};
use crate::app::Error;
use crate::store::Begun;

/// Standard input is stored in parts of this size in a bucket; object stores take none below 5 MiB but the last.
const PART: usize = 5 * 1024 * 1024;
/// And in files: while one is written the next one comes.
const FILE_PART: usize = 2 * 1024 * 1024;
const _: () = assert!(
    2 * FILE_PART <= PART,
    "an upload has no more in memory than one part of a bucket"
);

/// Standard input on its way into storage: at most [`PART`] of it is in memory.
pub struct Upload {
    place: Place,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

enum Place {
    /// A file, of which nothing is left when this is dropped.
    Local {
        file: Box<dyn MultipartUpload>,
        /// A part that is being written.
        going: Option<UploadPart>,
    },
    Bucket {
        bucket: Arc<dyn MultipartStore>,
        begun: Begun,
        parts: Vec<PartId>,
    },
}

impl Objects {
    /// Begins to store standard input, of which nothing is there before [`Upload::finish`].
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn upload(&self, org: &OrgId, sha256: &Digest) -> Result<Upload, Error> {
        let path = stdin_path(org, sha256);
        let place = match &self.parts {
            None => Place::Local {
                file: self.store.put_multipart(&path).await?,
                going: None,
            },
            Some(bucket) => Place::Bucket {
                begun: Begun {
                    upload_id: bucket.create_multipart(&path).await?,
                    path: path.to_string(),
                },
                bucket: bucket.clone(),
                parts: Vec::new(),
            },
        };
        Ok(Upload {
            place,
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    /// Aborts an upload that somebody has begun; one that is over already is no error.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn abort(&self, begun: &Begun) -> Result<(), Error> {
        match &self.parts {
            Some(bucket) => abort(bucket.as_ref(), begun).await,
            // It was begun in a bucket that the hub has no more.
            None => Ok(()),
        }
    }
}

async fn abort(bucket: &dyn MultipartStore, begun: &Begun) -> Result<(), Error> {
    let path = ObjectPath::from(begun.path.as_str());
    match bucket.abort_multipart(&path, &begun.upload_id).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Upload {
    /// By what the bucket knows it; none where it leaves nothing behind.
    #[must_use]
    pub fn begun(&self) -> Option<&Begun> {
        match &self.place {
            Place::Local { .. } => None,
            Place::Bucket { begun, .. } => Some(begun),
        }
    }

    /// More of it.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.waiting_bytes += piece.len();
        self.waiting.push(piece);
        let most = match self.place {
            Place::Local { .. } => FILE_PART,
            Place::Bucket { .. } => PART,
        };
        if self.waiting_bytes >= most {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        let part: PutPayload = std::mem::take(&mut self.waiting).into_iter().collect();
        match &mut self.place {
            Place::Local { file, going } => {
                arrived(going).await?;
                *going = begin(file.put_part(part)).await?;
            }
            Place::Bucket { bucket, begun, parts } => {
                let path = ObjectPath::from(begun.path.as_str());
                let sent = bucket.put_part(&path, &begun.upload_id, parts.len(), part);
                parts.push(sent.await?);
            }
        }
        Ok(())
    }

    /// Makes it there, durably. After an error it can still be aborted.
    ///
    /// # Errors
    /// [`Error::Objects`].
    pub async fn finish(&mut self) -> Result<(), Error> {
        let is_sent = matches!(&self.place, Place::Bucket { parts, .. } if !parts.is_empty());
        if !is_sent || !self.waiting.is_empty() {
            self.send().await?;
        }
        match &mut self.place {
            Place::Local { file, going } => {
                arrived(going).await?;
                file.complete().await?;
            }
            Place::Bucket { bucket, begun, parts } => {
                let path = ObjectPath::from(begun.path.as_str());
                let parts = std::mem::take(parts);
                let done = bucket.complete_multipart(&path, &begun.upload_id, parts);
                done.await?;
            }
        }
        Ok(())
    }

    /// Throws it away. Dropping it does the same where storage is local.
    ///
    /// # Errors
    /// [`Error::Objects`]; it is still there then.
    pub async fn abort(mut self) -> Result<(), Error> {
        match &mut self.place {
            Place::Local { file, going } => {
                // It fails with the rest.
                let _ = arrived(going).await;
                Ok(file.abort().await?)
            }
            Place::Bucket { bucket, begun, .. } => abort(bucket.as_ref(), begun).await,
        }
    }
}

/// Has a part written on a thread of its own, where it goes on once it was asked; gives it unless it is there already.
async fn begin(mut part: UploadPart) -> Result<Option<UploadPart>, Error> {
    match std::future::poll_fn(|cx| Poll::Ready(part.as_mut().poll(cx))).await {
        Poll::Ready(done) => done.map(|()| None).map_err(Error::from),
        Poll::Pending => Ok(Some(part)),
    }
}

/// Waits for the part that is being written.
async fn arrived(going: &mut Option<UploadPart>) -> Result<(), Error> {
    match going.take() {
        Some(part) => Ok(part.await?),
        None => Ok(()),
    }
}

/// Removes inputs that were begun to be written to files below this directory: local storage calls those by their final
/// name, `#` and a number, and no name of ours has a `#`.
pub(super) fn sweep(dir: &Path) -> std::io::Result<()> {
    let inputs = dir.join("stdin");
    match inputs.is_dir() {
        true => sweep_all(&inputs),
        false => Ok(()),
    }
}

fn sweep_all(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sweep_all(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            tracing::info!(path = %entry.path().display(), "an upload that was broken off is removed");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
