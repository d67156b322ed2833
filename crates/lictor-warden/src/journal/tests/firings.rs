//! Nothing of a schedule begins after the receipt that says it is over.

use lictor_proto::Timestamp;
use lictor_proto::doc::Fired;

use super::super::*;
use super::{FaultyFile, close, finish, job, open, runtime, take};

/// Job `n`, as a firing of the schedule `of`.
fn fire(n: u8, of: u8) -> Step {
    let mut step = take(n);
    for entry in &mut step.entries {
        if let Entry::Taken { decision, .. } = entry {
            decision.fired = Some(Fired {
                schedule: job(of),
                nominal: Timestamp::from_millis(u64::from(n)),
            });
        }
    }
    step
}

fn stand(n: u8) -> Step {
    Step {
        entries: vec![Entry::Standing {
            job: job(n),
            envelope: "schedule".to_owned(),
            expires_at: Timestamp::from_millis(5000),
            at: Timestamp::from_millis(0),
            past: Timestamp::from_millis(0),
            secrets: Vec::new(),
        }],
        ..Step::default()
    }
}

#[test]
fn a_firing_is_not_taken_after_the_end_of_its_schedule_also_in_one_batch_with_it() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        journal.commit(stand(9)).await.expect("it stands");
        journal.commit(fire(1, 9)).await.expect("it fires");
        let (end, late) = tokio::join!(journal.commit(finish(9)), journal.commit(fire(2, 9)));
        end.expect("it ends");
        assert!(matches!(late, Err(JournalError::Refused(_))), "{late:?}");
        let later = journal.commit(fire(3, 9)).await;
        assert!(matches!(later, Err(JournalError::Refused(_))), "{later:?}");
        journal
            .commit(finish(1))
            .await
            .expect("what it had fired goes on");
    });
    let before = journal.state().clone();
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert_eq!(*journal.state(), before);
    close(journal, thread);
}

#[test]
fn a_journal_of_before_with_such_a_firing_still_reads() {
    let mut state = State::default();
    for entry in fire(1, 9).entries {
        state.apply(entry).expect("it may follow");
    }
    assert!(state.is_seen(&job(1)));
}
