//! What a look at the clock finds, as tables.

use std::sync::Mutex;
use std::time::Duration;

use lictor_proto::doc::{Exec, Missed, Overlap, Schedule, Spec};
use lictor_proto::{Digest, OrgId, Timestamp};

use super::{Due, Standing};

const MINUTE: u64 = 60_000;

/// Minutes after 2026-03-01T00:00.
fn at(minutes: u64) -> Timestamp {
    let start: Timestamp = "2026-03-01T00:00:00.000Z".parse().expect("a time");
    start.plus(Duration::from_millis(minutes * MINUTE))
}

/// Every ten minutes of UTC for a day, each to begin within half an hour.
fn every_ten(missed: Missed, offset: Duration) -> Standing {
    let spec: Spec = Exec::new(vec!["true".to_owned()]).into();
    let schedule = Schedule {
        tag: Default::default(),
        org: OrgId::from_root(&Digest::of(b"org")),
        operator: "alice".parse().expect("a name"),
        nonce: vec![0; 16],
        nodes: Vec::new(),
        kind: spec.kind(),
        spec,
        profile: "host".parse().expect("a name"),
        secrets: Default::default(),
        expect: Default::default(),
        reason: String::new(),
        cron: "*/10 * * * *".to_owned(),
        tz: "UTC".to_owned(),
        jitter_ms: 5 * MINUTE,
        missed,
        overlap: Overlap::Skip,
        start_within_ms: 30 * MINUTE,
        min_bundle: 1,
        issued_at: at(0),
        not_before: at(0),
        ends_at: at(24 * 60),
    };
    Standing {
        table: schedule.timetable().expect("it reads"),
        schedule,
        wire: String::new(),
        offset,
        looked: Mutex::default(),
    }
}

fn now(nominal: u64, before: usize) -> Due {
    let nominal = at(nominal);
    Due::Now { nominal, before }
}

fn missed(last: u64, times: usize) -> Due {
    let last = at(last);
    Due::Missed { last, times }
}

#[test]
fn a_time_is_due_when_it_has_come_and_once_past_never_again() {
    let standing = every_ten(Missed::Skip, Duration::ZERO);
    assert_eq!(standing.due(at(0), at(9)), Due::Nothing);
    assert_eq!(standing.due(at(0), at(10)), now(10, 0));
    assert_eq!(standing.due(at(10), at(10)), Due::Nothing);
    assert_eq!(standing.due(at(10), at(5)), Due::Nothing, "the clock went back");
    assert_eq!(standing.due(at(0), at(5)), Due::Nothing);
}

#[test]
fn the_jitter_of_the_node_is_added_to_each_time() {
    let standing = every_ten(Missed::Skip, Duration::from_millis(3 * MINUTE));
    assert_eq!(standing.due(at(0), at(12)), Due::Nothing);
    assert_eq!(standing.due(at(0), at(13)), now(10, 0));
}

#[test]
fn times_that_nobody_was_there_for_are_left_out_or_the_last_is_made_up_for() {
    let skips = every_ten(Missed::Skip, Duration::ZERO);
    assert_eq!(skips.due(at(0), at(25)), missed(20, 2));
    assert_eq!(
        skips.due(at(0), at(30)),
        now(30, 2),
        "the one that is due now is not missed"
    );
    let once = every_ten(Missed::Once, Duration::ZERO);
    assert_eq!(once.due(at(0), at(25)), now(20, 1));
    // Half an hour after the jitter is the end of what may begin.
    let end = every_ten(Missed::Once, Duration::ZERO);
    assert_eq!(end.due(at(0), at(20 * 60 + 9)), now(20 * 60, 2));
}

#[test]
fn a_long_silence_costs_no_more_than_the_window() {
    let mut standing = every_ten(Missed::Once, Duration::ZERO);
    standing.schedule.cron = "0 0 * * *".to_owned();
    standing.table = standing.schedule.timetable().expect("it reads");
    standing.schedule.ends_at = at(60 * 24 * 20);
    // The last midnight was half a day ago, and could begin for 35 minutes.
    let noon = 10 * 24 * 60 + 12 * 60;
    let found = standing.due(at(0), at(noon));
    assert_eq!(found, missed(noon - 35, 1));
    assert_eq!(standing.due(at(noon - 35), at(noon)), Due::Nothing);
}

#[test]
fn a_week_of_every_second_is_not_gone_through_second_by_second() {
    let mut standing = every_ten(Missed::Once, Duration::ZERO);
    standing.schedule.cron = "* * * * * *".to_owned();
    standing.table = standing.schedule.timetable().expect("it reads");
    standing.schedule.start_within_ms = 7 * 24 * 60 * MINUTE;
    standing.schedule.ends_at = at(60 * 24 * 20);
    let begun = std::time::Instant::now();
    let week = 7 * 24 * 60;
    assert_eq!(
        standing.due(at(0), at(week)),
        now(week, 999),
        "the last of them, and some are counted"
    );
    assert_eq!(standing.due(at(week), at(week)), Due::Nothing);
    // One by one it takes minutes.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn the_last_that_has_come_is_found_wherever_times_lie_close_together() {
    let mut standing = every_ten(Missed::Once, Duration::ZERO);
    // Every second of one hour of the day.
    standing.schedule.cron = "* * 3 * * *".to_owned();
    standing.table = standing.schedule.timetable().expect("it reads");
    standing.schedule.start_within_ms = 24 * 60 * MINUTE;
    let last = at(3 * 60 + 59).plus(Duration::from_secs(59));
    for hour in [4, 9, 22] {
        let expected = Due::Now {
            nominal: last,
            before: 999,
        };
        assert_eq!(standing.due(at(0), at(hour * 60)), expected);
    }
    assert_eq!(standing.due(last, at(22 * 60)), Due::Nothing);
}

#[test]
fn nothing_is_due_at_its_end_or_after() {
    let standing = every_ten(Missed::Once, Duration::ZERO);
    assert_eq!(standing.due(at(24 * 60 - 10), at(24 * 60 + 1)), Due::Nothing);
}

#[test]
fn what_had_not_fired_at_the_end_is_counted_also_what_the_jitter_puts_after_it() {
    let standing = every_ten(Missed::Once, Duration::from_millis(3 * MINUTE));
    let end = 24 * 60;
    assert_eq!(standing.unfired(at(end - 20)), Some((at(end - 10), 1)));
    assert_eq!(standing.unfired(at(end - 10)), None);
    // 35 minutes before the end, and after: what is older is not counted.
    assert_eq!(standing.unfired(at(0)), Some((at(end - 10), 3)));
    let mut rare = every_ten(Missed::Once, Duration::ZERO);
    rare.schedule.cron = "0 12 * * *".to_owned();
    rare.table = rare.schedule.timetable().expect("it reads");
    assert_eq!(rare.unfired(at(0)), Some((at(end - 35), 1)));
    assert_eq!(rare.unfired(at(12 * 60)), None);
}
