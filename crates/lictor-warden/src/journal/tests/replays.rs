//! Whatever the writer takes, however it comes: a replay of the file takes it, and finds the same state.

use lictor_audit::EventType;
use lictor_proto::Timestamp;
use proptest::prelude::*;

use super::super::*;
use super::{FaultyFile, close, finish, job, open, runtime, take};

/// Expiry of job `n`, as [`take`] sets it.
fn expiry(n: u8) -> Timestamp {
    Timestamp::from_millis(1000 + u64::from(n))
}

fn entries(entries: Vec<Entry>) -> Step {
    Step {
        entries,
        ..Step::default()
    }
}

fn waiting(n: u8, approvals: Vec<String>) -> Step {
    entries(vec![Entry::Waiting {
        job: job(n),
        envelope: format!("envelope {n}"),
        expires_at: expiry(n),
        ask: "ask".to_owned(),
        approvals,
    }])
}

/// A text that JSON writes with up to six bytes for one.
fn hostile_text() -> impl Strategy<Value = String> {
    let sizes = prop_oneof![8 => 0..100usize, 8 => 900..1200usize, 1 => Just(1 << 18)];
    let pieces = prop_oneof![
        Just("a"),
        Just("\u{1}"),
        Just("\""),
        Just("\\"),
        Just("é"),
        Just("\n")
    ];
    (pieces, sizes).prop_map(|(piece, n)| piece.repeat(n))
}

fn step() -> impl Strategy<Value = (Step, bool)> {
    let n = || 0..5u8;
    let step = prop_oneof![
        4 => n().prop_map(Make::Take),
        3 => n().prop_map(Make::Finish),
        1 => n().prop_map(Make::TakeAndFinish),
        2 => n().prop_map(Make::Ack),
        2 => n().prop_map(Make::Prune),
        2 => (n(), proptest::collection::vec(hostile_text(), 0..8)).prop_map(|(n, a)| Make::Wait(n, a)),
        1 => (hostile_text(), 0..80usize).prop_map(|(t, n)| Make::Audit(t, n)),
    ];
    (step, any::<bool>()).prop_map(|(step, lazy)| (step.make(), lazy))
}

#[derive(Debug, Clone)]
enum Make {
    Take(u8),
    Finish(u8),
    TakeAndFinish(u8),
    Ack(u8),
    Prune(u8),
    Wait(u8, Vec<String>),
    Audit(String, usize),
}

impl Make {
    fn make(self) -> Step {
        match self {
            Self::Take(n) => take(n),
            Self::Finish(n) => finish(n),
            Self::TakeAndFinish(n) => Step {
                receipt: finish(n).receipt,
                ..take(n)
            },
            Self::Ack(n) => entries(vec![Entry::Acked { job: job(n) }]),
            Self::Prune(n) => entries(vec![Entry::Pruned { until: expiry(n) }]),
            Self::Wait(n, approvals) => waiting(n, approvals),
            Self::Audit(text, n) => Step {
                audit: vec![
                    Event::new(EventType::JobPermitted)
                        .with("argv", vec![text.clone(); n].as_slice())
                        .with("operator", text),
                ],
                ..Step::default()
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_writer_takes_a_replay_takes(
        batches in proptest::collection::vec(proptest::collection::vec(step(), 1..12), 1..6),
        rotate_after in prop_oneof![Just(1u64 << 30), Just(2000u64)],
    ) {
        let file = FaultyFile::default();
        let (journal, thread) = open(&file, rotate_after);
        runtime().block_on(async {
            for batch in batches {
                let commits = batch.into_iter().filter_map(|(step, lazy)| {
                    if lazy {
                        journal.note(step);
                        return None;
                    }
                    Some(journal.commit(step))
                });
                futures_util::future::join_all(commits).await;
            }
            journal.commit(Step::default()).await.expect("everything is written");
        });
        let before = journal.state().clone();
        close(journal, thread);
        let (journal, thread) = open(&file, rotate_after);
        prop_assert_eq!(&*journal.state(), &before);
        close(journal, thread);
    }
}

#[test]
fn a_job_that_is_forgotten_in_the_same_batch_is_not_taken() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        let prune = entries(vec![Entry::Pruned { until: expiry(3) }]);
        let (pruned, early, late) = tokio::join!(
            journal.commit(prune),
            journal.commit(take(2)),
            journal.commit(take(4))
        );
        assert!(pruned.is_ok() && late.is_ok());
        assert!(matches!(early, Err(JournalError::Refused(_))));
    });
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert!(journal.state().is_seen(&job(4)) && !journal.state().is_seen(&job(2)));
    close(journal, thread);
}

#[test]
fn a_step_that_is_too_long_to_be_read_back_is_refused_and_the_rest_goes_on() {
    let file = FaultyFile::default();
    let (journal, thread) = open(&file, 1 << 20);
    runtime().block_on(async {
        let long = waiting(1, vec!["x".repeat(8 << 20)]);
        assert!(matches!(
            journal.commit(long).await,
            Err(JournalError::Refused(_))
        ));
        let mut fields = Event::new(EventType::JobPermitted);
        for n in 0..8 {
            let list = vec!["x".repeat(1000); 64];
            fields.fields.insert(format!("list{n}"), list.as_slice().into());
        }
        let long = Step {
            audit: vec![fields],
            ..take(2)
        };
        assert!(journal.commit(long).await.is_err());
        assert!(!journal.state().is_seen(&job(2)));
        journal.commit(take(2)).await.expect("without the long line");
    });
    close(journal, thread);
    let (journal, thread) = open(&file, 1 << 20);
    assert!(journal.state().is_seen(&job(2)));
    close(journal, thread);
}
