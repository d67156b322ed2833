//! Standard input and files for jobs to come: streamed into storage, hashed on the way.
//!
//! # Invariants
//! - Memory is bounded: [`UPLOADS`] at once, each with one part in memory, and no org has all of them.
//! - Nothing is there under a digest that is not its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use lictor_proto::api::TokenScope;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, OrgId, Timestamp, limits};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, RwLock, Semaphore, SemaphorePermit};

use super::objects::Upload;
use super::{App, Caller, Error};
use crate::store::Inserted;

/// Uploads at once; each has at most one part in memory.
const UPLOADS: usize = 16;
/// Uploads of one org at once.
const OF_ORG: usize = 4;
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long an upload may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The turns of uploads.
pub struct StdinGate {
    turns: Semaphore,
    of_orgs: Mutex<HashMap<OrgId, Arc<Semaphore>>>,
    /// Held shared while a file and its row are made, and alone while both are deleted: a file that has just come
    /// again is not deleted with the row of its former self.
    pub(super) sweeping: RwLock<()>,
}

impl Default for StdinGate {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(UPLOADS),
            of_orgs: Mutex::default(),
            sweeping: RwLock::default(),
        }
    }
}

/// One turn, the org's and the hub's.
type Turn<'a> = (OwnedSemaphorePermit, SemaphorePermit<'a>);

impl StdinGate {
    /// The org's turn first: who waits for it keeps nobody else waiting.
    async fn turn(&self, org: &OrgId) -> Result<Turn<'_>, AcquireError> {
        let of_org = {
            let mut orgs = self.of_orgs.lock().unwrap_or_else(PoisonError::into_inner);
            let turns = orgs.entry(org.clone());
            turns.or_insert_with(|| Arc::new(Semaphore::new(OF_ORG))).clone()
        };
        Ok((of_org.acquire_owned().await?, self.turns.acquire().await?))
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
        let turn = tokio::time::timeout(TURN, self.stdin.turn(&caller.org)).await;
        let Ok(Ok(_turn)) = turn else {
            let why = format!("{OF_ORG} uploads of this org, or {UPLOADS} in all, are under way");
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
    let silent = |_| Refusal::new(Code::Timeout, "the body brought nothing for 30 s");
    while let Some(piece) = tokio::time::timeout(SILENCE, body.next()).await.map_err(silent)? {
        let piece = piece?;
        size += piece.len() as u64;
        if size > limits::ARTIFACT {
            return Err(Refusal::new(Code::TooLarge, format!("at most {} bytes", limits::ARTIFACT)).into());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn org(name: &str) -> OrgId {
        OrgId::from_root(&Digest::of(name.as_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_brings_nothing_any_more_is_given_up_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = super::super::Objects::local(dir.path()).expect("a place");
        let whole = Digest::of(b"first and second");
        let mut upload = objects.upload(&org("one"), &whole).await.expect("begins");
        let first = futures_util::stream::iter([Ok(Bytes::from_static(b"first"))]);
        let mut body = first.chain(futures_util::stream::pending());
        let began = tokio::time::Instant::now();
        let refused = receive(&mut upload, &whole, &mut body).await;
        assert!(matches!(refused, Err(Error::Refused(why)) if why.code == Code::Timeout));
        assert_eq!(began.elapsed(), SILENCE);
        upload.abort().await;
        assert_eq!(files_below(dir.path()), 0);
    }

    fn files_below(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        let count = |path: std::path::PathBuf| if path.is_dir() { files_below(&path) } else { 1 };
        entries.map(|entry| count(entry.path())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn an_org_whose_turns_are_taken_keeps_no_other_waiting() {
        let gate = StdinGate::default();
        let mut taken = Vec::new();
        for _ in 0..OF_ORG {
            taken.push(gate.turn(&org("one")).await.expect("a turn"));
        }
        let more = tokio::time::timeout(TURN, gate.turn(&org("one"))).await;
        assert!(more.is_err(), "no turn is left for this org");
        drop(gate.turn(&org("two")).await.expect("the other has its own"));
        taken.pop();
        drop(gate.turn(&org("one")).await.expect("a turn that came back"));
    }
}
