//! A disk that refuses: full, failing at a sync, failing while a new file takes the place of the old one.

use lictor_audit::EventType;

use super::super::file::ReplaceError;
use super::super::*;
use super::{FaultyFile, close, finish, job, open, runtime, take};

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
fn after_a_failed_sync_nothing_is_added_to_the_file_that_may_have_lost_it() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        journal.commit(take(1)).await.expect("taken");
        // Written, and dropped by the system when the sync below fails.
        journal.note(Step {
            audit: vec![Event::new(EventType::JobStarted).with_id("job", &job(1))],
            ..Step::default()
        });
        let before = journal.state().clone();
        file.disk().fail_sync = true;
        assert!(matches!(
            journal.commit(take(2)).await,
            Err(JournalError::Failed(_))
        ));
        assert_eq!(*journal.state(), before);
        file.disk().fail_replace = Some(ReplaceError::Kept);
        assert!(journal.commit(take(2)).await.is_err(), "no new file, no answer");
        file.disk().fail_replace = None;
        journal.commit(take(2)).await.expect("taken");
        journal.commit(finish(1)).await.expect("the chain goes on");
    });
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file.after_power_cut(0), 1 << 20);
    assert_eq!(*journal.state(), before);
    close(journal, thread);
}

#[test]
fn a_new_file_that_may_not_stay_is_the_end_of_all_answers() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 2000);
    file.disk().fail_replace = Some(ReplaceError::Unsure);
    let mut answered = Vec::new();
    runtime().block_on(async {
        for n in 0..40 {
            if journal.commit(take(n)).await.is_ok() {
                answered.push(n);
            }
        }
        assert!(answered.len() < 40, "the rotation failed on the way");
        file.disk().fail_replace = None;
        let refused = journal.commit(take(50)).await.expect_err("nothing is taken");
        assert!(matches!(refused, JournalError::Broken(_)));
        assert_eq!(
            journal.broken().await,
            refused,
            "and whoever can start it again is told"
        );
        assert_eq!(journal.check(), Err(refused));
    });
    close(journal, thread);
    // The crash brings back the file from before the rename.
    let (journal, thread) = open(&file.after_power_cut(0), 2000);
    assert_eq!(journal.check(), Ok(()));
    for n in answered {
        assert!(journal.state().is_seen(&job(n)), "{n} is forgotten");
    }
    close(journal, thread);
}
