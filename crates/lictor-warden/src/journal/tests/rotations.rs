//! Rotations: nothing is lost whatever moment a crash comes at, and nobody waits while what was closed is archived.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::super::archive::AuditArchive;
use super::super::file::DiskFile;
use super::super::state::Phase;
use super::super::*;
use super::{Closed, Disk, FaultyFile, PlainSigner, close, finish, job, open, open_with, runtime, take};

/// What a crash would leave, and what had been answered by then.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    durable: Vec<u8>,
    written: Vec<u8>,
    closed: Option<Closed>,
    removed: Option<Closed>,
    archived: Vec<Record>,
}

impl Disk {
    /// Keeps this moment, when somebody wants to know.
    pub(super) fn moment(&mut self) {
        if let Some(moments) = &mut self.moments {
            moments.push(Moment {
                durable: self.durable.clone(),
                written: self.written.clone(),
                closed: self.closed.clone(),
                removed: self.removed.clone(),
                archived: self.archived.clone(),
            });
        }
    }
}

impl Moment {
    /// How far a rotation was.
    fn step(&self) -> (Option<bool>, bool, usize) {
        let closed = self.closed.as_ref().map(|c| matches!(c, Closed::Same));
        (closed, self.removed.is_some(), self.archived.len())
    }

    /// The disks that a crash at this moment may leave: with and without what was not synced, and with what had been
    /// removed brought back.
    fn disks(&self) -> Vec<FaultyFile> {
        let mut disks = Vec::new();
        for bytes in [&self.durable, &self.written] {
            let before = self.removed.iter().map(|removed| Some(removed.clone()));
            for closed in before.chain([self.closed.clone()]) {
                disks.push(FaultyFile(Arc::new(Mutex::new(Disk {
                    durable: bytes.clone(),
                    written: bytes.clone(),
                    closed,
                    archived: self.archived.clone(),
                    ..Disk::default()
                }))));
            }
        }
        disks
    }
}

/// The audit records of archive, closed journal and journal; each part goes on where the one before ended, or says again
/// what that has said.
fn audit_log(disk: &Disk) -> Vec<Record> {
    let mut log = disk.archived.clone();
    for bytes in disk.closed_bytes().iter().chain([&disk.written]) {
        for payload in record::scan(bytes).expect("whole").payloads {
            let last = log.last().map_or(0, Record::seq);
            let records = replay::audit_records(payload).expect("reads");
            log.extend(records.into_iter().filter(|r| r.seq() > last));
        }
    }
    log
}

/// Number of records of an unbroken log.
fn verified(log: &[Record]) -> u64 {
    let text: String = log.iter().map(|r| r.line() + "\n").collect();
    let expect = lictor_audit::Expect {
        log: Some("n_x".to_owned()),
        ..Default::default()
    };
    let checked = lictor_audit::verify(text.as_bytes(), &expect);
    checked.expect("the audit log holds").records
}

/// A note with a record that nobody waits for.
fn ack(n: u8) -> Step {
    let event = Event::new(lictor_audit::EventType::ResultAcknowledged).with_id("job", &job(n));
    Step {
        entries: vec![Entry::Acked { job: job(n) }],
        audit: vec![event],
        ..Step::default()
    }
}

/// Does so many jobs, the results of every third acknowledged in passing; gives the number of moments after each.
fn work(file: &FaultyFile, journal: &Journal, jobs: std::ops::Range<u8>) -> Vec<usize> {
    let mut answered = Vec::new();
    runtime().block_on(async {
        for n in jobs {
            journal.commit(take(n)).await.expect("taken");
            journal.commit(finish(n)).await.expect("finished");
            if n % 3 == 0 {
                journal.note(ack(n));
            }
            answered.push(file.disk().moments.as_ref().map_or(0, Vec::len));
        }
    });
    answered
}

#[test]
fn rotation_keeps_state_receipt_chain_and_the_whole_audit_log() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 2000);
    work(&file, &journal, 0..40);
    let before = runtime().block_on(async {
        journal.commit(Step::default()).await.expect("all is written");
        journal.state().clone()
    });
    close(journal, thread);
    assert!(!file.disk().archived.is_empty(), "it was rotated");
    assert!(file.disk().closed.is_none(), "and nothing is left over");
    let (journal, thread) = open(&file, 2000);
    assert_eq!(*journal.state(), before);
    close(journal, thread);
    // Two for each job, and one for each acknowledgement.
    assert_eq!(verified(&audit_log(&file.disk())), 2 * 40 + 14);
}

#[test]
fn a_crash_at_any_moment_of_a_rotation_loses_nothing_and_breaks_no_chain() {
    const JOBS: u8 = 12;
    let file = FaultyFile::default();
    file.disk().moments = Some(Vec::new());
    let (journal, thread) = open(&file, 2000);
    let answered = work(&file, &journal, 0..JOBS);
    close(journal, thread);
    let moments = file.disk().moments.take().expect("kept");
    let seen_as = |pick: fn(&Moment) -> bool| moments.iter().filter(|m| pick(m)).count();
    assert!(seen_as(|m| matches!(m.closed, Some(Closed::Same))) > 1, "linked");
    assert!(
        seen_as(|m| matches!(m.closed, Some(Closed::Apart(_)))) > 2,
        "closed"
    );
    assert!(seen_as(|m| m.removed.is_some()) > 1, "archived and removed");

    for (at, moment) in moments.iter().enumerate() {
        // What is written between two steps of rotations is cut elsewhere, at every byte.
        let beside = [at.wrapping_sub(1), at + 1].map(|n| moments.get(n).map(Moment::step));
        if beside.iter().flatten().all(|step| *step == moment.step()) {
            continue;
        }
        let done = answered.iter().filter(|count| **count <= at).count() as u64;
        for disk in moment.disks() {
            holds_after_a_crash(&disk, done);
        }
    }
}

/// Whatever was answered is there, the audit log has no gap, and work goes on.
fn holds_after_a_crash(file: &FaultyFile, done: u64) {
    let (journal, thread) = open(file, 2000);
    let (receipts, _) = journal.state().receipt_head();
    assert!(receipts >= done, "{receipts} of {done}");
    for n in (0..done).map(|n| job(u8::try_from(n).expect("small"))) {
        let state = journal.state();
        assert!(state.is_seen(&n));
        let phase = state.job(&n).map(|j| &j.phase);
        assert!(matches!(phase, None | Some(Phase::Finished { .. })));
    }
    work(file, &journal, 100..103);
    close(journal, thread);
    let disk = file.disk();
    assert!(disk.closed.is_none(), "what was closed is archived");
    assert!(verified(&audit_log(&disk)) >= 2 * (done + 3));
}

/// An archive that waits until the test lets it go on.
struct Gate {
    file: FaultyFile,
    opened: mpsc::Receiver<()>,
}

impl Archive for Gate {
    fn append(&mut self, records: &[Record]) -> std::io::Result<Chain> {
        // It stays open once the other end has gone.
        let _ = self.opened.recv();
        Archive::append(&mut self.file, records)
    }
}

impl Gate {
    fn shut(file: &FaultyFile) -> (Box<dyn Archive>, mpsc::Sender<()>) {
        let (open, opened) = mpsc::channel();
        let file = file.clone();
        (Box::new(Self { file, opened }), open)
    }
}

#[test]
fn steps_are_answered_while_what_was_closed_is_being_archived() {
    let file = FaultyFile::default();
    let (archive, gate) = Gate::shut(&file);
    let (journal, thread) = open_with(&file, archive, 2000);
    let steps = async {
        for n in 0..40 {
            journal.commit(take(n)).await.expect("taken");
            journal.commit(finish(n)).await.expect("finished");
        }
    };
    let deadline = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let answered = deadline
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), steps).await });
    assert!(answered.is_ok(), "they wait for the archive");
    assert!(file.disk().archived.is_empty());
    let first = file.disk().closed_bytes().expect("one was closed");
    assert!(first.len() < 10_000 && file.disk().written.len() > first.len());
    drop(gate);
    close(journal, thread);
    assert!(file.disk().closed.is_none() && !file.disk().archived.is_empty());
    assert_eq!(verified(&audit_log(&file.disk())), 80);
}

#[test]
fn what_was_closed_and_cannot_be_archived_stays_and_is_archived_by_the_next_start() {
    let file = FaultyFile::default();
    file.disk().fail_archive = true;
    let (journal, thread) = open(&file, 2000);
    work(&file, &journal, 0..40);
    close(journal, thread);
    assert!(file.disk().archived.is_empty());
    let left = file.disk().closed_bytes().expect("it stays");
    assert!(left.len() < 10_000, "nothing else was closed over it");
    assert_eq!(verified(&audit_log(&file.disk())), 2 * 40 + 14);
    file.disk().fail_archive = false;
    let (journal, thread) = open(&file, 2000);
    close(journal, thread);
    assert!(file.disk().closed.is_none() && !file.disk().archived.is_empty());
    assert_eq!(verified(&audit_log(&file.disk())), 2 * 40 + 14);
}

#[test]
fn a_closed_journal_that_lost_records_is_kept_and_never_passed_over() {
    let file = FaultyFile::default();
    file.disk().fail_archive = true;
    let (journal, thread) = open(&file, 2000);
    work(&file, &journal, 0..40);
    close(journal, thread);
    let mut left = file.disk().closed_bytes().expect("it stays");
    left.truncate(left.len() - 1);
    file.disk().closed = Some(Closed::Apart(left.clone()));
    file.disk().fail_archive = false;
    let (journal, thread) = open(&file, 2000);
    work(&file, &journal, 100..103);
    close(journal, thread);
    assert_eq!(file.disk().closed_bytes(), Some(left));
}

fn open_on_disk(dir: &Path) -> (Journal, WriterThread) {
    let log = "n_x".to_owned();
    let (journal, thread, _) = Journal::open(Open {
        file: Box::new(DiskFile::open(&dir.join("journal.log")).expect("opens")),
        archive: Box::new(AuditArchive::new(dir.join("audit.log"), log.clone())),
        signer: Box::new(PlainSigner),
        log,
        rotate_after: 2000,
    })
    .expect("opens");
    (journal, thread)
}

fn exported(dir: &Path) -> u64 {
    let mut log = Vec::new();
    let read = export::audit_lines(dir, |line| log.push(Record::parse(line).expect("a record")));
    read.expect("reads");
    verified(&log)
}

/// On real files: the old one has its second name already when the crash comes, or the name comes back after its records
/// are archived.
#[test]
fn a_second_name_that_a_crash_has_left_goes_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (now, closed) = (dir.join("journal.log"), dir.join("journal.old"));
    let unused = FaultyFile::default();
    let (journal, thread) = open_on_disk(dir);
    work(&unused, &journal, 0..20);
    close(journal, thread);
    assert!(dir.join("audit.log").exists() && !closed.exists());
    assert_eq!(exported(dir), 2 * 20 + 7);

    std::fs::hard_link(&now, &closed).expect("links");
    assert_eq!(exported(dir), 2 * 20 + 7);
    let (journal, thread) = open_on_disk(dir);
    work(&unused, &journal, 20..40);
    close(journal, thread);
    assert!(!closed.exists());
    assert_eq!(exported(dir), 2 * 40 + 14);

    let before = std::fs::read(&now).expect("reads");
    let (journal, thread) = open_on_disk(dir);
    work(&unused, &journal, 40..60);
    close(journal, thread);
    std::fs::write(&closed, before).expect("writes");
    assert_eq!(exported(dir), 2 * 60 + 20);
    let (journal, thread) = open_on_disk(dir);
    close(journal, thread);
    assert!(!closed.exists());
    assert_eq!(exported(dir), 2 * 60 + 20);
}
