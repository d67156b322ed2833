//! Whatever is done between crashes: what was answered is there, and nothing was done twice.

use proptest::prelude::*;

use super::super::state::Phase;
use super::super::*;
use super::{FaultyFile, close, finish, job, open, runtime, take};

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
