//! Standard input and files for jobs to come: streamed into storage, hashed on the way.
//!
//! # Invariants
//! - Memory is bounded: [`UPLOADS`] at once, each with 5 MiB in memory, and no org has all of them.
//! - Nothing is there under a digest that is not its own.
//! - A file and its row are made to the end, whether who brought it is still there or not.
//! - No org has more stored than it may: that is looked at once more before an input counts, one at a time of each org.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use lictor_proto::api::TokenScope;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, OrgId, Timestamp, limits};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, RwLock, Semaphore};

use super::objects::Upload;
use super::{App, Caller, Error};
use crate::store::Inserted;

/// Uploads at once; each has at most 5 MiB in memory.
const UPLOADS: usize = 16;
/// Uploads of one org at once.
const OF_ORG: usize = 4;
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long an upload may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The turns of uploads.
pub struct StdinGate {
    turns: Arc<Semaphore>,
    of_orgs: Mutex<HashMap<OrgId, Turns>>,
    /// Bytes that one org may have stored.
    most: u64,
    /// Held shared while a file and its row are made, and alone while both are deleted: a file that has just come
    /// again is not deleted with the row of its former self.
    pub(super) sweeping: RwLock<()>,
}

/// The turns of one org.
#[derive(Clone)]
struct Turns {
    uploads: Arc<Semaphore>,
    /// Held by the one that ends.
    ending: Arc<tokio::sync::Mutex<()>>,
}

impl StdinGate {
    /// So many bytes may be stored for one org.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self {
            most,
            turns: Arc::new(Semaphore::new(UPLOADS)),
            of_orgs: Mutex::default(),
            sweeping: RwLock::default(),
        }
    }
}

/// One turn, the org's and the hub's.
type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl StdinGate {
    fn of(&self, org: &OrgId) -> Turns {
        let mut orgs = self.of_orgs.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = orgs.entry(org.clone()).or_insert_with(|| Turns {
            uploads: Arc::new(Semaphore::new(OF_ORG)),
            ending: Arc::default(),
        });
        turns.clone()
    }

    /// What an org that has so much may still store.
    fn room(&self, stored: u64) -> Room {
        Room {
            left: self.most.saturating_sub(stored),
            most: self.most,
        }
    }

    /// The org's turn first: who waits for it keeps nobody else waiting.
    async fn turn(&self, org: &OrgId) -> Result<Turn, AcquireError> {
        let of_org = self.of(org).uploads;
        let of_org = of_org.acquire_owned().await?;
        Ok((of_org, self.turns.clone().acquire_owned().await?))
    }
}

impl App {
    /// Stores standard input for jobs to come.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] when it is too large or not what its digest says, or when as many as
    /// may are being stored.
    pub async fn put_stdin(
        self: &Arc<Self>,
        caller: &Caller,
        sha256: &Digest,
        mut body: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    ) -> Result<Inserted, Error> {
        caller.need(TokenScope::Submit)?;
        let turn = tokio::time::timeout(TURN, self.stdin.turn(&caller.org)).await;
        let Ok(Ok(turn)) = turn else {
            let why = format!("{OF_ORG} uploads of this org, or {UPLOADS} in all, are under way");
            return Err(Refusal::new(Code::Busy, why).into());
        };
        let room = self.stdin.room(self.store.blob_bytes(&caller.org, sha256).await?);
        let mut upload = self.objects.upload(&caller.org, sha256).await?;
        let size = match receive(&mut upload, sha256, room, &mut body).await {
            Ok(size) => size,
            Err(e) => {
                upload.abort().await;
                return Err(e);
            }
        };
        // In a task of its own: whoever goes away meanwhile leaves no file behind that has no row.
        let (app, org, sha256) = (self.clone(), caller.org.clone(), *sha256);
        let ending = self.tasks.spawn(async move {
            let _turn = turn;
            app.end_upload(&org, &sha256, upload, size).await
        });
        ending
            .await
            .map_err(|e| Error::Internal(format!("the end of an upload: {e}")))?
    }

    async fn end_upload(
        &self,
        org: &OrgId,
        sha256: &Digest,
        upload: Upload,
        size: u64,
    ) -> Result<Inserted, Error> {
        let ending = self.stdin.of(org).ending;
        let _alone = ending.lock().await;
        // Others have ended meanwhile.
        let room = self.stdin.room(self.store.blob_bytes(org, sha256).await?);
        if let Err(full) = room.takes(size) {
            upload.abort().await;
            return Err(full.into());
        }
        let _kept = self.stdin.sweeping.read().await;
        upload.finish().await?;
        let keep_until = Timestamp::now().plus(self.retention.stdin);
        Ok(self.store.put_blob(org, sha256, size, keep_until).await?)
    }
}

/// What may still be stored for an org.
#[derive(Debug, Clone, Copy)]
struct Room {
    left: u64,
    most: u64,
}

impl Room {
    fn takes(self, size: u64) -> Result<(), Refusal> {
        if size <= self.left {
            return Ok(());
        }
        let why = format!(
            "{} of the {} bytes that this org may have stored are left; inputs that no valid job names go by themselves",
            self.left, self.most
        );
        Err(Refusal::new(Code::LimitExceeded, why))
    }
}

async fn receive(
    upload: &mut Upload,
    sha256: &Digest,
    room: Room,
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
        room.takes(size)?;
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
        let room = Room { left: 100, most: 100 };
        let refused = receive(&mut upload, &whole, room, &mut body).await;
        assert!(matches!(refused, Err(Error::Refused(why)) if why.code == Code::Timeout));
        assert_eq!(began.elapsed(), SILENCE);
        upload.abort().await;
        assert_eq!(files_below(dir.path()), 0);
    }

    #[tokio::test]
    async fn no_more_comes_than_an_org_may_have_stored() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = super::super::Objects::local(dir.path()).expect("a place");
        let whole = Digest::of(b"first and second");
        for (left, fits) in [(16, true), (15, false), (0, false)] {
            let mut upload = objects.upload(&org("one"), &whole).await.expect("begins");
            let pieces = [
                Ok(Bytes::from_static(b"first")),
                Ok(Bytes::from_static(b" and second")),
            ];
            let mut body = futures_util::stream::iter(pieces);
            let room = Room { left, most: 100 };
            let taken = receive(&mut upload, &whole, room, &mut body).await;
            assert_eq!(taken.is_ok(), fits, "{left}");
            if let Err(Error::Refused(why)) = taken {
                assert_eq!(why.code, Code::LimitExceeded);
            }
            upload.abort().await;
        }
    }

    fn files_below(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        let count = |path: std::path::PathBuf| if path.is_dir() { files_below(&path) } else { 1 };
        entries.map(|entry| count(entry.path())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn an_org_whose_turns_are_taken_keeps_no_other_waiting() {
        let gate = StdinGate::new(100);
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
