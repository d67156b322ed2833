//! Crashes: a file that forgets what was not synced, is full, or takes less than it is given.

use std::io;
use std::sync::{Arc, Mutex};

use lictor_audit::EventType;
use lictor_proto::doc::{Outcome, StreamSummary};
use lictor_proto::envelope::pae;
use lictor_proto::{Name, NodeId, OrgId, Timestamp};
use proptest::prelude::*;

use super::entry::Decision;
use super::state::Phase;
use super::*;

/// What a disk would still have after a power cut, and what the running program sees.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    written: Vec<u8>,
    capacity: Option<usize>,
    fail_sync: bool,
    syncs: usize,
    archived: Vec<Record>,
}

#[derive(Clone, Default)]
struct FaultyFile(Arc<Mutex<Disk>>);

impl FaultyFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that kept `durable` and `torn` more bytes of what was only written.
    fn after_power_cut(&self, torn: usize) -> Self {
        let disk = self.disk();
        let keep = disk.written.len().min(disk.durable.len() + torn);
        let bytes = disk.written[..keep].to_vec();
        let archived = disk.archived.clone();
        Self(Arc::new(Mutex::new(Disk {
            durable: bytes.clone(),
            written: bytes,
            archived,
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
        Ok(n)
    }
    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.fail_sync {
            return Err(io::Error::other("the device is gone"));
        }
        disk.durable = disk.written.clone();
        disk.syncs += 1;
        Ok(())
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk()
            .written
            .truncate(usize::try_from(length).expect("small"));
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.written = bytes.to_vec();
        disk.durable = bytes.to_vec();
        Ok(())
    }
}

impl Archive for FaultyFile {
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut disk = self.disk();
        let last = disk.archived.last().map_or(0, Record::seq);
        disk.archived
            .extend(records.iter().filter(|r| r.seq() > last).cloned());
        Ok(())
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
    let (journal, thread, _) = Journal::open(Open {
        file: Box::new(file.clone()),
        archive: Box::new(file.clone()),
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
        facts_digest: None,
        profile: name("host"),
        backend: None,
        capabilities: vec![],
        plan_digest: None,
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
            decision: decision(),
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
                artifacts: lictor_proto::doc::Empty,
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

#[test]
fn a_full_disk_loses_nothing_and_works_again_when_there_is_room() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        journal.commit(take(1)).await.expect("taken");
        let used = file.disk().written.len();
        file.disk().capacity = Some(used + 100);
        let before = journal.state().clone();
        assert!(matches!(
            journal.commit(take(2)).await,
            Err(JournalError::DiskFull(_))
        ));
        assert!(matches!(
            journal.commit(finish(1)).await,
            Err(JournalError::DiskFull(_))
        ));
        assert_eq!(*journal.state(), before);
        assert_eq!(file.disk().written.len(), used, "no half record is left");
        file.disk().capacity = None;
        journal.commit(finish(1)).await.expect("finished");
        journal.commit(take(2)).await.expect("taken");
    });
    let text = String::from_utf8_lossy(&file.disk().written).into_owned();
    assert_eq!(
        text.matches("\"disk_full\"").count(),
        1,
        "it is said once there is room"
    );
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert_eq!(*journal.state(), before);
    close(journal, thread);
}

#[test]
fn a_failed_sync_leaves_no_step_behind() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        journal.commit(take(1)).await.expect("taken");
        let before = (journal.state().clone(), file.disk().written.clone());
        file.disk().fail_sync = true;
        assert!(matches!(
            journal.commit(take(2)).await,
            Err(JournalError::Failed(_))
        ));
        assert_eq!((journal.state().clone(), file.disk().written.clone()), before);
        file.disk().fail_sync = false;
        journal.commit(take(2)).await.expect("taken");
        journal.commit(finish(1)).await.expect("the chain goes on");
    });
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert_eq!(*journal.state(), before);
    close(journal, thread);
}

#[test]
fn rotation_keeps_state_receipt_chain_and_the_whole_audit_log() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 2000);
    runtime().block_on(async {
        for n in 0..40 {
            journal.commit(take(n)).await.expect("taken");
            journal.commit(finish(n)).await.expect("finished");
            if n % 3 == 0 {
                journal.note(Step {
                    entries: vec![Entry::Acked { job: job(n) }],
                    ..Step::default()
                });
            }
        }
    });
    assert!(!file.disk().archived.is_empty(), "it was rotated");
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file, 2000);
    assert_eq!(journal.state().receipt_head(), before.receipt_head());
    assert!((0..40).all(|n| journal.state().is_seen(&job(n))));
    close(journal, thread);
    let disk = file.disk();
    let mut log: Vec<Record> = disk.archived.clone();
    for payload in record::scan(&disk.written).expect("whole").payloads {
        for line in replay::lines(payload).expect("reads") {
            if let replay::Line::Audit(r) = line {
                log.push(r);
            }
        }
    }
    let text: String = log.iter().map(|r| r.line() + "\n").collect();
    let expect = lictor_audit::Expect {
        log: Some("n_x".to_owned()),
        ..Default::default()
    };
    assert_eq!(
        lictor_audit::verify(text.as_bytes(), &expect)
            .expect("holds")
            .records,
        80
    );
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Take(u8),
    Finish(u8),
    Ack(u8),
    PowerCut { torn: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0..8u8).prop_map(Act::Take),
        (0..8u8).prop_map(Act::Finish),
        (0..8u8).prop_map(Act::Ack),
        (0..2000usize).prop_map(|torn| Act::PowerCut { torn }),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens between power cuts: what was answered as done is there, nothing was taken twice, no result
    /// that was told is lost, and the receipt chain has no gap.
    #[test]
    fn no_crash_forgets_or_repeats(acts in acts()) {
        let mut file = FaultyFile::default();
        let (mut journal, mut thread) = open(&file, 3000);
        let rt = runtime();
        let mut taken = std::collections::BTreeSet::new();
        let mut told = std::collections::BTreeMap::new();
        for act in acts {
            match act {
                Act::Take(n) => {
                    let ok = rt.block_on(journal.commit(take(n))).is_ok();
                    prop_assert_eq!(ok, taken.insert(n), "taken once");
                }
                Act::Finish(n) => {
                    let running = matches!(
                        journal.state().job(&job(n)).map(|j| j.phase.clone()),
                        Some(Phase::Taken { .. })
                    );
                    if running {
                        let done = rt.block_on(journal.commit(finish(n))).expect("finished");
                        told.insert(n, done.receipt.expect("a receipt"));
                    }
                }
                Act::Ack(n) => {
                    if told.remove(&n).is_some() {
                        let step = Step { entries: vec![Entry::Acked { job: job(n) }], ..Step::default() };
                        rt.block_on(journal.commit(step)).expect("acked");
                    }
                }
                Act::PowerCut { torn } => {
                    close(journal, thread);
                    file = file.after_power_cut(torn);
                    (journal, thread) = open(&file, 3000);
                }
            }
        }
        let state = journal.state().clone();
        for n in &taken {
            prop_assert!(state.is_seen(&job(*n)));
        }
        for (n, (digest, wire)) in &told {
            match state.job(&job(*n)).map(|j| &j.phase) {
                Some(Phase::Finished { receipt, digest: d, .. }) => {
                    prop_assert_eq!((d, receipt), (digest, wire));
                }
                other => prop_assert!(false, "result of {} is gone: {:?}", n, other),
            }
        }
        close(journal, thread);
    }

    /// A cut at any byte of the file gives a prefix of the steps, never a half one.
    #[test]
    fn a_cut_anywhere_gives_a_prefix(cut in 0..20_000usize) {
        let file = FaultyFile::default();
        let (journal, thread) = open(&file, 1 << 20);
        runtime().block_on(async {
            for n in 0..8 {
                journal.commit(take(n)).await.expect("taken");
                journal.commit(finish(n)).await.expect("finished");
            }
        });
        close(journal, thread);
        {
            let mut disk = file.disk();
            let keep = cut.min(disk.written.len());
            disk.written.truncate(keep);
        }
        let (journal, thread) = open(&file, 1 << 20);
        let (receipts, _) = journal.state().receipt_head();
        for n in 0..8u8 {
            let seen = journal.state().is_seen(&job(n));
            prop_assert!(seen || u64::from(n) >= receipts, "finished but not seen");
        }
        close(journal, thread);
    }
}
