//! Standard input and files for jobs to come: streamed into storage, hashed on the way.
//!
//! # Invariants
//! - Memory is bounded: [`UPLOADS`] at once, each with 5 MiB in memory, and no org has all of them.
//! - Nothing is there under a digest that is not its own.
//! - Nothing is there without a row in the database: who is killed at any point leaves nothing that is not found again.
//! - An upload goes to its end in a task of its own, its good one or its bad one, whether who brings it is still there or not.
//! - No org has more than it may, what is under way counted in: `stored + coming <= most`, piece by piece.

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
use crate::store::{Begun, Inserted};

/// Uploads at once; each has at most 5 MiB in memory.
const UPLOADS: usize = 16;
/// Uploads of one org at once.
const OF_ORG: usize = 4;
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long an upload may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The turns of uploads, and what they bring.
pub struct StdinGate {
    turns: Arc<Semaphore>,
    of_orgs: Mutex<HashMap<OrgId, OfOrg>>,
    /// Bytes that one org may have stored.
    most: u64,
    /// Held shared while a file and its row are made, and alone while both are deleted: a file that has just come
    /// again is not deleted with the row of its former self.
    pub(super) sweeping: RwLock<()>,
}

/// What the uploads of one org share.
#[derive(Clone)]
struct OfOrg {
    turns: Arc<Semaphore>,
    /// Held while what is stored is read, and while an upload becomes stored: nothing is counted twice, or not at all.
    booking: Arc<tokio::sync::Mutex<()>>,
    account: Arc<Mutex<Account>>,
}

/// Bytes of one org since the hub's start.
#[derive(Debug, Default)]
struct Account {
    /// Of uploads that are under way.
    coming: u64,
    /// Of uploads that became stored.
    stored: u64,
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
    fn of(&self, org: &OrgId) -> OfOrg {
        let mut orgs = self.of_orgs.lock().unwrap_or_else(PoisonError::into_inner);
        let of_org = orgs.entry(org.clone()).or_insert_with(|| OfOrg {
            turns: Arc::new(Semaphore::new(OF_ORG)),
            booking: Arc::default(),
            account: Arc::default(),
        });
        of_org.clone()
    }

    /// The org's turn first: who waits for it keeps nobody else waiting.
    async fn turn(&self, org: &OrgId) -> Result<Turn, AcquireError> {
        let of_org = self.of(org).turns;
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
        body: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + 'static,
    ) -> Result<Inserted, Error> {
        caller.need(TokenScope::Submit)?;
        let turn = tokio::time::timeout(TURN, self.stdin.turn(&caller.org)).await;
        let Ok(Ok(turn)) = turn else {
            let why = format!("{OF_ORG} uploads of this org, or {UPLOADS} in all, are under way");
            return Err(Refusal::new(Code::Busy, why).into());
        };
        // In a task of its own: whoever goes away meanwhile leaves no file behind that has no row, and no part of one.
        let (app, org, sha256) = (self.clone(), caller.org.clone(), *sha256);
        let bringing = self.tasks.spawn(async move {
            let _turn = turn;
            app.bring(&org, &sha256, body).await
        });
        bringing
            .await
            .map_err(|e| Error::Internal(format!("an upload: {e}")))?
    }

    async fn bring(
        &self,
        org: &OrgId,
        sha256: &Digest,
        mut body: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    ) -> Result<Inserted, Error> {
        let of_org = self.stdin.of(org);
        let mut coming = {
            let _alone = of_org.booking.lock().await;
            let stored = self.store.blob_bytes(org, sha256).await?;
            Coming::new(of_org.account, stored, self.stdin.most)
        };
        let mut upload = self.objects.upload(org, sha256).await?;
        if let Some(begun) = upload.begun().cloned()
            && let Err(e) = self.store.upload_began(begun).await
        {
            // It is written down nowhere: nobody else would abort it.
            if let Err(e) = upload.abort().await {
                tracing::warn!(error = %e.chain(), "an upload was not cleaned up, and is not known any more");
            }
            return Err(e.into());
        }
        let receiving = receive(&mut upload, sha256, &mut coming, &mut body);
        let received = self.stop.run_until_cancelled(receiving).await;
        let stopped = || Refusal::new(Code::Unavailable, "the hub stops").into();
        let received = received.unwrap_or_else(|| Err(stopped()));
        let ended = match received {
            Ok(()) => self.end_upload(org, sha256, &mut upload, &mut coming).await,
            Err(e) => Err(e),
        };
        let begun = upload.begun().cloned();
        let aborted = match &ended {
            Ok(_) => Ok(()),
            // What is whole already has a row, and goes with it.
            Err(_) => upload.abort().await,
        };
        if let Err(e) = &aborted {
            tracing::warn!(error = %e.chain(), "an upload was not cleaned up; it is aborted when the hub starts again");
        }
        if let (Some(begun), Ok(())) = (begun, aborted) {
            self.store.upload_over(begun).await?;
        }
        ended
    }

    async fn end_upload(
        &self,
        org: &OrgId,
        sha256: &Digest,
        upload: &mut Upload,
        coming: &mut Coming,
    ) -> Result<Inserted, Error> {
        let _kept = self.stdin.sweeping.read().await;
        // With it goes what comes now, should the hub be killed before it is stored.
        self.store.blob_coming(org, sha256).await?;
        upload.finish().await?;
        let booking = self.stdin.of(org).booking;
        let _alone = booking.lock().await;
        let keep_until = Timestamp::now().plus(self.retention.stdin);
        let inserted = self.store.put_blob(org, sha256, coming.mine, keep_until).await?;
        if inserted == Inserted::New {
            coming.stored();
        }
        Ok(inserted)
    }

    /// Aborts the uploads that an earlier hub had begun.
    pub(crate) async fn abort_uploads(&self, left: Vec<Begun>) {
        for begun in left {
            let path = begun.path.clone();
            let aborted = async {
                self.objects.abort(&begun).await?;
                Ok::<_, Error>(self.store.upload_over(begun).await?)
            };
            match aborted.await {
                Ok(()) => tracing::info!(path, "an upload that was broken off is aborted"),
                Err(e) => {
                    tracing::warn!(path, error = %e.chain(), "an upload that was broken off is still there");
                }
            }
        }
    }
}

/// What one upload brings, counted into what its org has until it is dropped.
struct Coming {
    account: Arc<Mutex<Account>>,
    most: u64,
    /// What of others was stored when this began, by the store and by the account.
    base: u64,
    before: u64,
    /// What has come of this one.
    mine: u64,
}

impl Coming {
    fn new(account: Arc<Mutex<Account>>, base: u64, most: u64) -> Self {
        let before = account.lock().unwrap_or_else(PoisonError::into_inner).stored;
        Self {
            account,
            most,
            base,
            before,
            mine: 0,
        }
    }

    fn account(&self) -> std::sync::MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much more comes.
    fn takes(&mut self, more: u64) -> Result<(), Refusal> {
        let mut account = self.account();
        let others = self.base + (account.stored - self.before) + account.coming;
        let left = self.most.saturating_sub(others);
        if more > left {
            let most = self.most;
            let why = format!(
                "{left} of the {most} bytes that this org may have stored are left, uploads under way counted in; inputs \
                 that no valid job names go by themselves"
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        account.coming += more;
        drop(account);
        self.mine += more;
        Ok(())
    }

    /// It is stored.
    fn stored(&mut self) {
        let mut account = self.account();
        account.stored += self.mine;
        account.coming -= self.mine;
        drop(account);
        self.mine = 0;
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.account().coming -= self.mine;
    }
}

async fn receive(
    upload: &mut Upload,
    sha256: &Digest,
    coming: &mut Coming,
    body: &mut (impl Stream<Item = Result<Bytes, Error>> + Send + Unpin),
) -> Result<(), Error> {
    let mut hash = sha2::Sha256::default();
    let silent = |_| Refusal::new(Code::Timeout, "the body brought nothing for 30 s");
    while let Some(piece) = tokio::time::timeout(SILENCE, body.next()).await.map_err(silent)? {
        let piece = piece?;
        if coming.mine + piece.len() as u64 > limits::ARTIFACT {
            return Err(Refusal::new(Code::TooLarge, format!("at most {} bytes", limits::ARTIFACT)).into());
        }
        coming.takes(piece.len() as u64)?;
        sha2::Digest::update(&mut hash, &piece);
        upload.push(piece).await?;
    }
    if Digest(sha2::Digest::finalize(hash).into()) == *sha256 {
        Ok(())
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
        let mut coming = Coming::new(Arc::default(), 0, 100);
        let refused = receive(&mut upload, &whole, &mut coming, &mut body).await;
        assert!(matches!(refused, Err(Error::Refused(why)) if why.code == Code::Timeout));
        assert_eq!(began.elapsed(), SILENCE);
        upload.abort().await.expect("is thrown away");
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
            let mut coming = Coming::new(Arc::default(), 100 - left, 100);
            let taken = receive(&mut upload, &whole, &mut coming, &mut body).await;
            assert_eq!(taken.is_ok(), fits, "{left}");
            if let Err(Error::Refused(why)) = taken {
                assert_eq!(why.code, Code::LimitExceeded);
            }
            upload.abort().await.expect("is thrown away");
        }
    }

    #[test]
    fn what_is_under_way_counts_once_until_it_is_stored_or_gone() {
        let account = Arc::<Mutex<Account>>::default();
        let begins = |stored| Coming::new(account.clone(), stored, 100);
        let (mut one, mut two) = (begins(20), begins(20));
        one.takes(50).expect("70");
        assert!(two.takes(31).is_err(), "the other's counts");
        two.takes(30).expect("100");
        drop(two);
        let mut three = begins(20);
        three.takes(30).expect("what is gone is free");
        one.stored();
        assert!(three.takes(1).is_err(), "stored, and counted once");
        // Who begins now finds it in the store.
        let mut four = begins(70);
        drop((one, three));
        assert!(four.takes(31).is_err());
        four.takes(30).expect("100");
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
