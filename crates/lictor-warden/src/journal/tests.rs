//! Crashes: a file that forgets what was not synced, is full, or takes less than it is given.

use std::io;
use std::sync::{Arc, Mutex};

use super::entry::Decision;
use super::file::{ClosedFile, ReplaceError};
use super::*;
use lictor_audit::EventType;
use lictor_proto::doc::{Outcome, StreamSummary};
use lictor_proto::envelope::pae;
use lictor_proto::{Name, NodeId, OrgId, Timestamp};

mod crashes;
mod faults;
mod firings;
mod replays;
mod rotations;

/// What a disk would still have after a power cut, and what the running program sees.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    written: Vec<u8>,
    /// Bytes from one position to another that a failed sync has dropped: read back, and never on the disk.
    lost: Option<(usize, usize)>,
    capacity: Option<usize>,
    fail_sync: bool,
    fail_replace: Option<fn(io::Error) -> ReplaceError>,
    syncs: usize,
    archived: Vec<Record>,
    closed: Option<Closed>,
    /// Taken away, and brought back by a crash until the directory is synced.
    removed: Option<Closed>,
    fail_archive: bool,
    /// What a crash would have left after each thing that was done, when somebody wants to know.
    moments: Option<Vec<rotations::Moment>>,
}

#[derive(Debug, Clone)]
enum Closed {
    /// The journal itself, under a second name.
    Same,
    Apart(Vec<u8>),
}

#[derive(Clone, Default)]
struct FaultyFile(Arc<Mutex<Disk>>);

impl Disk {
    fn fails_to_replace(&self) -> Option<ReplaceError> {
        self.fail_replace
            .map(|kind| kind(io::Error::other("the device is gone")))
    }

    fn put_in_place(&mut self, bytes: &[u8]) {
        self.written = bytes.to_vec();
        self.durable = bytes.to_vec();
        self.lost = None;
        self.removed = None;
    }

    fn closed_bytes(&self) -> Option<Vec<u8>> {
        self.closed.as_ref().map(|closed| match closed {
            Closed::Same => self.written.clone(),
            Closed::Apart(bytes) => bytes.clone(),
        })
    }
}

impl FaultyFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that kept `durable` and `torn` more bytes of what was only written.
    fn after_power_cut(&self, torn: usize) -> Self {
        let disk = self.disk();
        let keep = disk.written.len().min(disk.durable.len() + torn);
        let bytes = disk.written[..keep].to_vec();
        let (archived, closed) = (disk.archived.clone(), disk.closed.clone());
        Self(Arc::new(Mutex::new(Disk {
            durable: bytes.clone(),
            written: bytes,
            archived,
            closed,
            ..Disk::default()
        })))
    }
}

impl JournalFile for FaultyFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.disk().written.clone())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        // Never more than a few hundred bytes at once, as a signal or a full pipe may do to any write.
        let room = disk
            .capacity
            .map_or(usize::MAX, |c| c.saturating_sub(disk.written.len()));
        let n = bytes.len().min(300).min(room);
        if n == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.written.extend_from_slice(&bytes[..n]);
        disk.moment();
        Ok(n)
    }
    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.fail_sync {
            // What Linux does: the pages count as clean from now on and are never written, and the next sync is fine.
            disk.fail_sync = false;
            disk.lost = Some((disk.durable.len(), disk.written.len()));
            return Err(io::Error::other("the device is gone"));
        }
        let mut durable = disk.written.clone();
        if let Some((from, to)) = disk.lost {
            let to = to.min(durable.len());
            durable[from.min(to)..to].fill(0);
        }
        disk.durable = durable;
        disk.syncs += 1;
        disk.moment();
        Ok(())
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk()
            .written
            .truncate(usize::try_from(length).expect("small"));
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> Result<(), ReplaceError> {
        let mut disk = self.disk();
        let failure = disk.fails_to_replace();
        if let Some(kept @ ReplaceError::Kept(_)) = failure {
            return Err(kept);
        }
        if let Some(unsure) = failure {
            disk.written = bytes.to_vec();
            return Err(unsure);
        }
        disk.put_in_place(bytes);
        disk.moment();
        Ok(())
    }
    fn succeed(&mut self, bytes: &[u8]) -> Result<(), ReplaceError> {
        let mut disk = self.disk();
        let failure = disk.fails_to_replace();
        if let Some(kept @ ReplaceError::Kept(_)) = failure {
            return Err(kept);
        }
        disk.closed = Some(Closed::Same);
        disk.moment();
        if let Some(unsure) = failure {
            disk.written = bytes.to_vec();
            return Err(unsure);
        }
        // What is not durable is not there when a crash comes between the rename and any later sync.
        disk.closed = Some(Closed::Apart(disk.durable.clone()));
        disk.put_in_place(bytes);
        disk.moment();
        Ok(())
    }
    fn closed(&self) -> io::Result<Option<Box<dyn ClosedFile>>> {
        let there = self.disk().closed.is_some();
        Ok(there.then(|| Box::new(self.clone()) as Box<dyn ClosedFile>))
    }
}

impl ClosedFile for FaultyFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.disk()
            .closed_bytes()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn remove(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.removed = disk.closed.take();
        disk.moment();
        Ok(())
    }
}

impl Archive for FaultyFile {
    fn append(&mut self, records: &[Record]) -> io::Result<lictor_audit::Chain> {
        let mut disk = self.disk();
        if disk.fail_archive {
            return Err(io::Error::other("the archive is gone"));
        }
        let mut end = lictor_audit::Chain::new("n_x");
        for record in &disk.archived {
            end.follow(record).map_err(io::Error::other)?;
        }
        for record in records.iter().filter(|r| r.seq() > disk.archived.len() as u64) {
            end.follow(record).map_err(io::Error::other)?;
        }
        let new = records.iter().filter(|r| r.seq() > disk.archived.len() as u64);
        let new: Vec<Record> = new.cloned().collect();
        disk.archived.extend(new);
        disk.moment();
        Ok(end)
    }
}

struct PlainSigner;

impl Signer for PlainSigner {
    fn sign(&self, receipt: &Receipt) -> (Wire, Digest) {
        let json = serde_json::to_string(receipt).expect("plain data");
        let digest = Digest::of(&pae("receipt", json.as_bytes()));
        (json, digest)
    }
}

fn open(file: &FaultyFile, rotate_after: u64) -> (Journal, WriterThread) {
    open_with(file, Box::new(file.clone()), rotate_after)
}

fn open_with(file: &FaultyFile, archive: Box<dyn Archive>, rotate_after: u64) -> (Journal, WriterThread) {
    let (journal, thread, _) = Journal::open(Open {
        file: Box::new(file.clone()),
        archive,
        signer: Box::new(PlainSigner),
        log: "n_x".to_owned(),
        rotate_after,
    })
    .expect("opens");
    (journal, thread)
}

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

fn decision() -> Decision {
    Decision {
        text: "permit".to_owned(),
        bundle_version: 1,
        bundle_digest: Digest::of(b"bundle"),
        policy_ids: vec![],
        approvals: vec![],
        break_glass: false,
        fired: None,
        facts_digest: None,
        profile: name("host"),
        backend: None,
        engine: None,
        rootfs: None,
        capabilities: vec![],
        plan_digest: None,
        sandbox: None,
    }
}

fn job(n: u8) -> Digest {
    Digest::of(&[n])
}

fn take(n: u8) -> Step {
    Step {
        entries: vec![Entry::Taken {
            job: job(n),
            envelope: format!("envelope {n}"),
            expires_at: Timestamp::from_millis(1000 + u64::from(n)),
            decision: Box::new(decision()),
        }],
        audit: vec![Event::new(EventType::JobPermitted).with_id("job", &job(n))],
        receipt: None,
    }
}

fn finish(n: u8) -> Step {
    let org = OrgId::from_root(&Digest::of(b"root"));
    Step {
        entries: vec![],
        audit: vec![],
        receipt: Some(Draft {
            receipt: Receipt {
                tag: Default::default(),
                node_id: NodeId::derive(&org, &[7; 32]),
                org,
                job_digest: job(n),
                fired: None,
                outcome: Outcome::Failed,
                code: None,
                message: String::new(),
                bundle_version: 1,
                bundle_digest: Digest::of(b"bundle"),
                policy_ids: vec![],
                approvals: vec![],
                break_glass: false,
                facts_digest: None,
                profile: name("host"),
                backend: None,
                plan_digest: None,
                started_at: None,
                finished_at: Timestamp::from_millis(5),
                exit: None,
                limits_hit: vec![],
                usage: None,
                stdout: StreamSummary::empty(),
                stderr: StreamSummary::empty(),
                egress: None,
                sandbox: None,
                artifacts: Vec::new(),
                node_seq: 0,
                prev: None,
                audit_head: Digest::of(b""),
                agent_version: "0".to_owned(),
            },
            log: Log::default(),
            event: Event::new(EventType::JobFinished),
        }),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

fn close(journal: Journal, thread: WriterThread) {
    drop(journal);
    thread.join();
}

#[test]
fn steps_are_there_again_after_a_restart() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    let done = runtime().block_on(async {
        journal.commit(take(1)).await.expect("taken");
        journal.commit(finish(1)).await.expect("finished")
    });
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert_eq!(*journal.state(), before);
    assert_eq!(journal.state().receipt_head(), (1, done.receipt.map(|(d, _)| d)));
    close(journal, thread);
}

#[test]
fn a_job_is_never_taken_twice() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        let (a, b) = tokio::join!(journal.commit(take(1)), journal.commit(take(1)));
        assert!(a.is_ok() != b.is_ok(), "one of two at once");
        assert!(journal.commit(take(1)).await.is_err());
        journal.commit(finish(1)).await.expect("finished");
        journal.note(Step {
            entries: vec![Entry::Acked { job: job(1) }],
            ..Step::default()
        });
        assert!(journal.commit(take(1)).await.is_err(), "also when it is over");
        let until = Timestamp::from_millis(1001);
        let prune = Step {
            entries: vec![Entry::Pruned { until }],
            ..Step::default()
        };
        journal.commit(prune).await.expect("pruned");
        assert!(!journal.state().is_seen(&job(1)));
        assert!(
            journal.commit(take(1)).await.is_err(),
            "also when it is forgotten"
        );
    });
    close(journal, thread);
}

#[test]
fn many_steps_share_one_sync() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        let mut waiting = Vec::new();
        for n in 0..100 {
            waiting.push(journal.commit(take(n)));
        }
        for result in futures_util::future::join_all(waiting).await {
            result.expect("taken");
        }
    });
    assert!(
        file.disk().syncs < 50,
        "{} syncs for 100 steps",
        file.disk().syncs
    );
    close(journal, thread);
}
