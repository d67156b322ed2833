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
    let state = |n: &NodeId| sight.standing.get(n).copied();
    let away = |n: &NodeId| state(n) == Some(ExecutionState::Queued) && (sight.is_away)(n);
    let stands = |state, batch, resumes_at, message: String| RolloutRow {
        state,
        batch,
        resumes_at,
        message,
        ..row.clone()
    };
    // What no node has taken yet can be taken back, in the last batch too.
    let can_stop = |s: &ExecutionState| matches!(s, ExecutionState::Held | ExecutionState::Queued);
    if !sight.standing.values().any(can_stop) {
        let ended = stands(RolloutState::Ended, row.batch, None, String::new());
        return Next::Stand(ended, Vec::new());
    }
    let counted = failures(sight.standing).saturating_sub(row.forgiven);
    if counted >= row.plan.max_failures {
        let text = format!(
            "{counted} have not succeeded, and {} stop it",
            row.plan.max_failures
        );
        let stopped = stands(RolloutState::Stopped, row.batch, None, text);
        // Who is there and has no room now would begin later.
        let queued = sight
            .standing
            .iter()
            .filter(|(_, s)| **s == ExecutionState::Queued);
        return Next::Stand(stopped, queued.map(|(n, _)| n.clone()).collect());
    }
    let next = || stands(RolloutState::Running, row.batch + 1, None, String::new());
    if row.state == RolloutState::Pausing {
        return match row.resumes_at {
            Some(at) if at > sight.now => Next::Wait(Some(at)),
            _ => Next::Stand(next(), Vec::new()),
        };
    }
    // Earlier batches too: what was taken back when it stopped has its turn when it goes on.
    let batches = row.plan.batches.iter().take(row.batch as usize + 1);
    let begun: Vec<&NodeId> = batches.flatten().collect();
    let is_held = |n: &&&NodeId| state(n) == Some(ExecutionState::Held);
    let is_at_it = |n: &&&NodeId| {
        let open = state(n).is_some_and(|s| !s.is_final());
        open && !is_held(n) && state(n) != Some(ExecutionState::Lost) && !away(n)
    };
    let at_it = begun.iter().filter(is_at_it).count();
    let held = begun.iter().filter(is_held).count();
    if held > 0 {
        let most = row.plan.concurrency.map_or(usize::MAX, |c| c as usize);
        let room = most.saturating_sub(at_it);
        let some = begun.iter().filter(is_held).take(room);
        let some: Vec<NodeId> = some.map(|n| (*n).clone()).collect();
        return match some.is_empty() {
            true => Next::Wait(None),
            false => Next::Begin(some),
        };
    }
    // The last one: nothing comes after it, but a failure may still take back who waits for a node.
    if row.batch as usize + 1 >= row.plan.batches.len() {
        return Next::Wait(None);
    }
    let batch = row.plan.batches.get(row.batch as usize);
    let mut batch = batch.into_iter().flatten();
    let nobody_ended = !batch.any(|n| state(n).is_some_and(|s| s.is_final() || s == ExecutionState::Lost));
    if at_it > 0 || nobody_ended {
        return Next::Wait(None);
    }
    if row.batch == 0 && row.plan.pause_ms > 0 {
        let until = sight
            .now
            .plus(std::time::Duration::from_millis(row.plan.pause_ms));
        let pausing = stands(RolloutState::Pausing, row.batch, Some(until), String::new());
        return Next::Stand(pausing, Vec::new());
    }
    Next::Stand(next(), Vec::new())
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
