//! What a rollout does next, from where its executions stand: a pure function.
//!
//! ```text
//! running --> begin some --> all of the batch over or away --> next batch ... --> ended
//!    |                            '-- the first one --> pausing --'
//!    '--> stopped (too many have failed) --> running (somebody goes on)
//! ```
//!
//! # Invariants
//! - Once too many have failed nothing begins any more, in the middle of a batch as well. Once nothing is held, and
//!   nothing waits for its node, it has ended, and there is nothing left to stop.
//! - A node that is away does not hold up the others of its batch; a batch of which nobody has ended holds up the next.

use std::collections::BTreeMap;

use lictor_proto::api::{ExecutionState, RolloutState};
use lictor_proto::{NodeId, Timestamp};

use crate::store::RolloutRow;

/// What is there to be seen.
pub(crate) struct Sight<'a> {
    /// Where each execution stands.
    pub(crate) standing: &'a BTreeMap<NodeId, ExecutionState>,
    /// Whether a node is not there, and cannot be expected back in a moment.
    pub(crate) is_away: &'a dyn Fn(&NodeId) -> bool,
    /// Now.
    pub(crate) now: Timestamp,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These begin.
    Begin(Vec<NodeId>),
    /// Nothing, before something happens or this time comes.
    Wait(Option<Timestamp>),
    /// It stands like this now; what has been let begin on these nodes is held again.
    Stand(RolloutRow, Vec<NodeId>),
}

/// Whether it has not succeeded. A cancel is somebody's will, and no failure.
pub(crate) fn has_failed(state: ExecutionState) -> bool {
    use ExecutionState as S;
    matches!(
        state,
        S::Failed | S::TimedOut | S::Denied | S::Interrupted | S::Lost | S::Expired
    )
}

/// How many have failed.
pub(crate) fn failures(standing: &BTreeMap<NodeId, ExecutionState>) -> u32 {
    let failed = standing.values().filter(|s| has_failed(**s)).count();
    u32::try_from(failed).unwrap_or(u32::MAX)
}

/// What comes next.
pub(crate) fn step(row: &RolloutRow, sight: &Sight<'_>) -> Next {
    if matches!(row.state, RolloutState::Stopped | RolloutState::Ended) {
        return Next::Wait(None);
    }
    // What no node has taken yet can be taken back, in the last batch too.
    let can_stop = |s: &ExecutionState| matches!(s, ExecutionState::Held | ExecutionState::Queued);
    if !sight.standing.values().any(can_stop) {
        let ended = stands(row, RolloutState::Ended, None, String::new());
        return Next::Stand(ended, Vec::new());
    }
    if let Some(stopped) = too_many_failed(row, sight) {
        return stopped;
    }
    if row.state == RolloutState::Pausing {
        return match row.resumes_at {
            Some(at) if at > sight.now => Next::Wait(Some(at)),
            _ => next_batch(row),
        };
    }
    within_batch(row, sight).unwrap_or_else(|| after_batch(row, sight))
}

fn stands(
    row: &RolloutRow,
    state: RolloutState,
    resumes_at: Option<Timestamp>,
    message: String,
) -> RolloutRow {
    RolloutRow {
        state,
        resumes_at,
        message,
        ..row.clone()
    }
}

fn too_many_failed(row: &RolloutRow, sight: &Sight<'_>) -> Option<Next> {
    let counted = failures(sight.standing).saturating_sub(row.forgiven);
    let most = row.plan.max_failures;
    if counted < most {
        return None;
    }
    let text = format!("{counted} have not succeeded, and {most} stop it");
    // Who is there and has no room now would begin later.
    let all = sight.standing.iter();
    let queued = all.filter(|(_, s)| **s == ExecutionState::Queued);
    let queued = queued.map(|(n, _)| n.clone()).collect();
    Some(Next::Stand(
        stands(row, RolloutState::Stopped, None, text),
        queued,
    ))
}

fn next_batch(row: &RolloutRow) -> Next {
    let mut next = stands(row, RolloutState::Running, None, String::new());
    next.batch += 1;
    Next::Stand(next, Vec::new())
}

impl Sight<'_> {
    fn state(&self, node: &NodeId) -> Option<ExecutionState> {
        self.standing.get(node).copied()
    }

    /// Whether a node has begun and can be expected to end.
    fn is_at_it(&self, node: &NodeId) -> bool {
        use ExecutionState as S;
        self.state(node).is_some_and(|s| match s {
            S::Held | S::Lost => false,
            S::Queued => !(self.is_away)(node),
            open => !open.is_final(),
        })
    }
}

/// Nodes of the batches that have begun: earlier ones too, since what was taken back when it stopped has its turn when
/// it goes on.
fn begun(row: &RolloutRow) -> impl Iterator<Item = &NodeId> + Clone {
    let batches = row.plan.batches.iter().take(row.batch as usize + 1);
    batches.flatten()
}

/// What is to begin of them, as far as there is room.
fn within_batch(row: &RolloutRow, sight: &Sight<'_>) -> Option<Next> {
    let mut held = begun(row).filter(|n| sight.state(n) == Some(ExecutionState::Held));
    held.clone().next()?;
    let at_it = begun(row).filter(|n| sight.is_at_it(n)).count();
    let most = row.plan.concurrency.map_or(usize::MAX, |c| c as usize);
    let some: Vec<NodeId> = held.by_ref().take(most.saturating_sub(at_it)).cloned().collect();
    Some(match some.is_empty() {
        true => Next::Wait(None),
        false => Next::Begin(some),
    })
}

/// What comes when all of a batch have begun.
fn after_batch(row: &RolloutRow, sight: &Sight<'_>) -> Next {
    // The last one: nothing comes after it, but a failure may still take back who waits for a node.
    if row.batch as usize + 1 >= row.plan.batches.len() {
        return Next::Wait(None);
    }
    let mut batch = row.plan.batches.get(row.batch as usize).into_iter().flatten();
    let has_ended = |s: ExecutionState| s.is_final() || s == ExecutionState::Lost;
    let nobody_ended = !batch.any(|n| sight.state(n).is_some_and(has_ended));
    if nobody_ended || begun(row).any(|n| sight.is_at_it(n)) {
        return Next::Wait(None);
    }
    if row.batch > 0 || row.plan.pause_ms == 0 {
        return next_batch(row);
    }
    let pause = std::time::Duration::from_millis(row.plan.pause_ms);
    let until = sight.now.plus(pause);
    let pausing = stands(row, RolloutState::Pausing, Some(until), String::new());
    Next::Stand(pausing, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutionState as S;
    use lictor_proto::api::RolloutPlan;
    use lictor_proto::{Digest, OrgId};
    use std::time::Duration;

    fn nodes() -> Vec<NodeId> {
        let org = OrgId::from_root(&Digest::of(b"root"));
        (0..6).map(|n| NodeId::derive(&org, &[n; 32])).collect()
    }

    /// Batches of 1, 2 and 3.
    fn row(change: impl FnOnce(&mut RolloutRow)) -> RolloutRow {
        let n = nodes();
        let mut row = RolloutRow {
            plan: RolloutPlan {
                batches: vec![n[..1].to_vec(), n[1..3].to_vec(), n[3..].to_vec()],
                concurrency: None,
                pause_ms: 0,
                max_failures: 1,
            },
            state: RolloutState::Running,
            batch: 0,
            forgiven: 0,
            resumes_at: None,
            message: String::new(),
        };
        change(&mut row);
        row
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000)
    }

    fn next(row: &RolloutRow, states: [S; 6], away: &[usize]) -> Next {
        let all = nodes();
        let standing = all.iter().cloned().zip(states).collect();
        let is_away = |n: &NodeId| away.iter().any(|i| all[*i] == *n);
        let sight = Sight {
            standing: &standing,
            is_away: &is_away,
            now: now(),
        };
        step(row, &sight)
    }

    fn stands(next: Next) -> (RolloutState, u32, usize) {
        match next {
            Next::Stand(row, back) => (row.state, row.batch, back.len()),
            other => panic!("{other:?}"),
        }
    }

    const H: S = S::Held;
    const OK: S = S::Succeeded;

    #[test]
    fn one_batch_begins_when_the_one_before_is_over() {
        let n = nodes();
        let first = row(|_| {});
        assert_eq!(next(&first, [H; 6], &[]), Next::Begin(n[..1].to_vec()));
        for open in [
            S::Queued,
            S::Leased,
            S::Running,
            S::AwaitingApproval,
            S::AwaitingRelease,
        ] {
            assert_eq!(
                next(&first, [open, H, H, H, H, H], &[]),
                Next::Wait(None),
                "{open:?}"
            );
        }
        let moved = stands(next(&first, [OK, H, H, H, H, H], &[]));
        assert_eq!(moved, (RolloutState::Running, 1, 0));
        let second = row(|r| r.batch = 1);
        assert_eq!(
            next(&second, [OK, H, H, H, H, H], &[]),
            Next::Begin(n[1..3].to_vec())
        );
        assert_eq!(
            next(&second, [OK, OK, S::Running, H, H, H], &[]),
            Next::Wait(None)
        );
        let last = row(|r| r.batch = 2);
        let waits = [OK, OK, OK, S::Running, S::Queued, OK];
        assert_eq!(next(&last, waits, &[]), Next::Wait(None));
        let ended = stands(next(&last, [OK, OK, OK, S::Running, OK, OK], &[]));
        assert_eq!(ended.0, RolloutState::Ended);
    }

    #[test]
    fn failures_in_the_last_batch_take_back_who_waits_for_a_node() {
        let n = nodes();
        let last = row(|r| r.batch = 2);
        let Next::Stand(stopped, back) = next(&last, [OK, OK, OK, S::Failed, S::Queued, S::Queued], &[5])
        else {
            panic!("it does not stop");
        };
        assert_eq!((stopped.state, stopped.batch), (RolloutState::Stopped, 2));
        assert_eq!(back, n[4..], "who is there, and who is away");
        let on = next(&last, [OK, OK, OK, OK, S::Queued, S::Queued], &[4, 5]);
        assert_eq!(on, Next::Wait(None), "it waits for those who are away");
        let over = stands(next(&last, [OK, OK, OK, S::Failed, OK, OK], &[]));
        assert_eq!(over.0, RolloutState::Ended, "there is nobody left to stop");
    }

    #[test]
    fn too_many_failures_stop_it_also_inside_a_batch_and_take_back_what_waits_for_nodes_away() {
        for bad in [
            S::Failed,
            S::TimedOut,
            S::Denied,
            S::Interrupted,
            S::Lost,
            S::Expired,
        ] {
            let second = row(|r| r.batch = 1);
            let stopped = stands(next(&second, [OK, bad, S::Queued, H, H, H], &[2]));
            assert_eq!(stopped, (RolloutState::Stopped, 1, 1), "{bad:?}");
        }
        let two = row(|r| (r.batch, r.plan.max_failures) = (1, 2));
        let on = stands(next(&two, [OK, S::Failed, OK, H, H, H], &[]));
        assert_eq!(on, (RolloutState::Running, 2, 0));
        let canceled = row(|r| r.batch = 1);
        let on = stands(next(&canceled, [OK, S::Canceled, OK, H, H, H], &[]));
        assert_eq!(on.0, RolloutState::Running, "somebody's will is no failure");
        let stopped = row(|r| r.state = RolloutState::Stopped);
        assert_eq!(next(&stopped, [OK, H, H, H, H, H], &[]), Next::Wait(None));
    }

    #[test]
    fn a_stop_takes_back_what_no_node_has_taken_yet_and_nothing_else() {
        let n = nodes();
        let last = row(|r| r.batch = 2);
        let standing = [OK, OK, S::Failed, S::Queued, S::Leased, H];
        let Next::Stand(stopped, back) = next(&last, standing, &[]) else {
            panic!("it does not stop");
        };
        assert_eq!(stopped.state, RolloutState::Stopped);
        assert_eq!(back, n[3..4], "a node that is there, and said later");
        let asked = [OK, OK, S::Failed, S::AwaitingRelease, S::Running, H];
        assert_eq!(stands(next(&last, asked, &[])), (RolloutState::Stopped, 2, 0));
    }

    #[test]
    fn what_was_forgiven_counts_no_more_and_what_was_taken_back_has_its_turn() {
        let n = nodes();
        let on = row(|r| (r.batch, r.forgiven) = (1, 1));
        let standing = [OK, S::Failed, H, H, H, H];
        assert_eq!(next(&on, standing, &[]), Next::Begin(n[2..3].to_vec()));
        let again = stands(next(&on, [OK, S::Failed, S::Failed, H, H, H], &[]));
        assert_eq!(again.0, RolloutState::Stopped);
    }

    #[test]
    fn a_pause_follows_the_first_batch_only() {
        let pause = |r: &mut RolloutRow| r.plan.pause_ms = 500;
        let first = row(pause);
        let Next::Stand(pausing, _) = next(&first, [OK, H, H, H, H, H], &[]) else {
            panic!("it does not pause");
        };
        let until = now().plus(Duration::from_millis(500));
        assert_eq!(
            (pausing.state, pausing.resumes_at),
            (RolloutState::Pausing, Some(until))
        );
        assert_eq!(next(&pausing, [OK, H, H, H, H, H], &[]), Next::Wait(Some(until)));
        let over = RolloutRow {
            resumes_at: Some(now()),
            ..pausing
        };
        assert_eq!(
            stands(next(&over, [OK, H, H, H, H, H], &[])),
            (RolloutState::Running, 1, 0)
        );
        let second = row(|r| (r.batch, r.plan.pause_ms) = (1, 500));
        assert_eq!(
            stands(next(&second, [OK, OK, OK, H, H, H], &[])),
            (RolloutState::Running, 2, 0)
        );
    }

    #[test]
    fn no_more_are_at_it_at_once_than_may_be() {
        let n = nodes();
        let few = row(|r| (r.batch, r.plan.concurrency) = (2, Some(2)));
        assert_eq!(
            next(&few, [OK, OK, OK, H, H, H], &[]),
            Next::Begin(n[3..5].to_vec())
        );
        assert_eq!(
            next(&few, [OK, OK, OK, S::Running, H, H], &[]),
            Next::Begin(n[4..5].to_vec())
        );
        assert_eq!(
            next(&few, [OK, OK, OK, S::Running, S::Queued, H], &[]),
            Next::Wait(None)
        );
        let away = next(&few, [OK, OK, OK, S::Running, S::Queued, H], &[4]);
        assert_eq!(
            away,
            Next::Begin(n[5..].to_vec()),
            "who is away takes nobody's place"
        );
    }

    #[test]
    fn nodes_that_are_away_hold_up_nobody_but_a_batch_of_which_nobody_has_ended_does() {
        let second = row(|r| r.batch = 1);
        let on = stands(next(&second, [OK, OK, S::Queued, H, H, H], &[2]));
        assert_eq!(on, (RolloutState::Running, 2, 0));
        assert_eq!(next(&second, [OK, OK, S::Queued, H, H, H], &[]), Next::Wait(None));
        let all = next(&second, [OK, S::Queued, S::Queued, H, H, H], &[1, 2]);
        assert_eq!(all, Next::Wait(None), "a canary that is away has shown nothing");
    }
}
