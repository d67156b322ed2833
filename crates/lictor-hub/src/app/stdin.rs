//! Standard input for jobs to come: streamed into storage, hashed on the way.
//!
//! # Invariants
//! - Memory is bounded: [`UPLOADS`] at once, each with one part in memory.
//! - Nothing is there under a digest that is not its own.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use lictor_proto::api::TokenScope;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, Timestamp, limits};
use tokio::sync::{RwLock, Semaphore};

use super::objects::Upload;
use super::{App, Caller, Error};
use crate::store::Inserted;

/// Uploads at once; each has at most one part in memory.
const UPLOADS: usize = 8;
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// The turns of uploads.
pub struct StdinGate {
    turns: Semaphore,
    /// Held shared while a file and its row are made, and alone while both are deleted: a file that has just come
    /// again is not deleted with the row of its former self.
    pub(super) sweeping: RwLock<()>,
}

impl Default for StdinGate {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(UPLOADS),
            sweeping: RwLock::default(),
        }
    }
}

impl App {
    /// Stores standard input for jobs to come.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] when it is too large or not what its digest says, or when as many as
    /// may are being stored.
    pub async fn put_stdin(
        &self,
        caller: &Caller,
        sha256: &Digest,
        mut body: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    ) -> Result<Inserted, Error> {
        caller.need(TokenScope::Submit)?;
        let turn = tokio::time::timeout(TURN, self.stdin.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let why = format!("{UPLOADS} uploads are under way");
            return Err(Refusal::new(Code::Busy, why).into());
        };
        let mut upload = self.objects.upload(&caller.org, sha256).await?;
        let size = match receive(&mut upload, sha256, &mut body).await {
            Ok(size) => size,
            Err(e) => {
                upload.abort().await;
                return Err(e);
            }
        };
        let _kept = self.stdin.sweeping.read().await;
        upload.finish().await?;
        let keep_until = Timestamp::now().plus(self.retention.stdin);
        Ok(self.store.put_blob(&caller.org, sha256, size, keep_until).await?)
    }
}

async fn receive(
    upload: &mut Upload,
    sha256: &Digest,
    body: &mut (impl Stream<Item = Result<Bytes, Error>> + Send + Unpin),
) -> Result<u64, Error> {
    let mut hash = sha2::Sha256::default();
    let mut size = 0;
    while let Some(piece) = body.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        if size > limits::STDIN {
            return Err(Refusal::new(Code::TooLarge, format!("at most {} bytes", limits::STDIN)).into());
        }
        sha2::Digest::update(&mut hash, &piece);
        upload.push(piece).await?;
    }
    if Digest(sha2::Digest::finalize(hash).into()) == *sha256 {
        Ok(size)
    } else {
        Err(Code::StdinMismatch.into())
    }
}
