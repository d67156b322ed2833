//! When a schedule fires: a cron expression in a time zone, as instants.
//!
//! The expression has five fields (minute, hour, day of month, month, day of week, as in crontab(5)), or a sixth before
//! them for seconds. Time zones are those of the database that is built in, never the machine's: client and node read the same rules of a version.
//! Where a clock skips what is asked for, the firing is at the end of the gap; where it shows a time twice, a fixed time of day
//! fires once, and `*` in minute or hour goes on through both. Source: the `croner` crate, which follows Vixie cron.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;

use crate::limits;
use crate::time::Timestamp;

/// What two versions of a time zone's rules differ by, and how far.
const QUARTER: Duration = Duration::from_secs(15 * 60);
const SHIFT: Duration = Duration::from_secs(26 * 3600);

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

/// Why there are no such times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    /// The expression.
    #[error("the cron expression does not read: {0}")]
    Cron(String),
    /// The time zone.
    #[error("there is no such time zone; names are those of the IANA database, such as Europe/Berlin or UTC")]
    Zone,
}

impl fmt::Debug for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timetable").field(&self.cron.as_str()).finish()
    }
}

impl Timetable {
    /// Reads an expression of five or six fields, and an IANA name.
    ///
    /// # Errors
    /// Which of the two does not read.
    pub fn new(cron: &str, zone: &str) -> Result<Self, TimetableError> {
        let cron_error = |why: &dyn fmt::Display| TimetableError::Cron(why.to_string());
        let fields = cron.split_ascii_whitespace().count();
        if cron.len() > limits::CRON || !(5..=6).contains(&fields) {
            let why = format!(
                "it has five fields, or six with seconds, and at most {} bytes",
                limits::CRON
            );
            return Err(TimetableError::Cron(why));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(cron).map_err(|e| cron_error(&e))?;
        // What looks like a path, or like a rule in words, is no name.
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"/_+-".contains(&b);
        if zone.is_empty() || zone.len() > 64 || !zone.bytes().all(is_name) {
            return Err(TimetableError::Zone);
        }
        let zone = TimeZone::get(zone).map_err(|_| TimetableError::Zone)?;
        Ok(Self { cron, zone })
    }

    /// The first time after this one; `None` when there is none for years.
    #[must_use]
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let ms = i64::try_from(time.as_millis()).ok()?;
        let start = jiff::Timestamp::from_millisecond(ms).ok()?;
        let mut from = start.to_zoned(self.zone.clone());
        loop {
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            let ms = u64::try_from(next.timestamp().as_millisecond()).ok()?;
            if ms > time.as_millis() {
                return Some(Timestamp::from_millis(ms));
            }
            // A search that does not move on would go on for good.
            if next <= from {
                return None;
            }
            from = next;
        }
    }

    /// Whether this is one of its times by rules of the time zone that another version may know: those differ by quarters of
    /// an hour, and by little more than a day.
    #[must_use]
    pub fn could_have(&self, time: Timestamp) -> bool {
        let shifts = (0..=SHIFT.as_millis() / QUARTER.as_millis()).map(|n| QUARTER * (n as u32));
        let mut both = shifts.flat_map(|shift| {
            let before = time.as_millis().saturating_sub(shift.as_millis() as u64);
            [Timestamp::from_millis(before), time.plus(shift)]
        });
        both.any(|time| self.has(time))
    }

    /// Whether this is one of its times.
    #[must_use]
    pub fn has(&self, time: Timestamp) -> bool {
        let before = Timestamp::from_millis(time.as_millis().saturating_sub(1));
        self.after(before) == Some(time)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn next(cron: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let table = Timetable::new(cron, zone).expect("reads");
        let mut time = at(from);
        let mut step = || {
            time = table.after(time)?;
            assert!(table.has(time), "{time} is one of its times");
            Some(time.to_string()[..16].to_owned())
        };
        (0..n).filter_map(|_| step()).collect()
    }

    #[test]
    fn a_time_that_other_rules_of_the_zone_would_move_there_could_be_one_and_no_other() {
        let table = Timetable::new("30 3 * * *", "Europe/Berlin").expect("reads");
        let own = at("2026-05-02T01:30:00.000Z");
        assert!(table.has(own) && table.could_have(own));
        for (hours, minutes) in [(1, 0), (0, 30), (0, 45), (23, 0)] {
            let shift = Duration::from_secs(hours * 3600 + minutes * 60);
            assert!(!table.has(own.plus(shift)) && table.could_have(own.plus(shift)));
        }
        for seconds in [1, 60, 7 * 60, 3600 + 60] {
            assert!(
                !table.could_have(own.plus(Duration::from_secs(seconds))),
                "{seconds}"
            );
        }
        let monthly = Timetable::new("0 0 1 * *", "UTC").expect("reads");
        assert!(
            !monthly.could_have(at("2026-05-10T00:00:00.000Z")),
            "days away from any"
        );
    }

    #[test]
    fn a_time_of_day_follows_the_zone_through_both_changes_of_the_clock() {
        let berlin = |from, n| next("30 3 * * *", "Europe/Berlin", from, n);
        assert_eq!(
            berlin("2026-03-27T12:00:00.000Z", 3),
            ["2026-03-28T02:30", "2026-03-29T01:30", "2026-03-30T01:30"]
        );
        assert_eq!(
            berlin("2026-10-23T12:00:00.000Z", 3),
            ["2026-10-24T01:30", "2026-10-25T02:30", "2026-10-26T02:30"]
        );
    }

    #[test]
    fn what_the_clock_skips_is_made_up_at_the_end_of_the_gap_and_what_it_repeats_fires_once() {
        let berlin = |from, n| next("30 2 * * *", "Europe/Berlin", from, n);
        assert_eq!(
            berlin("2026-03-28T12:00:00.000Z", 2),
            ["2026-03-29T01:00", "2026-03-30T00:30"]
        );
        assert_eq!(
            berlin("2026-10-24T12:00:00.000Z", 2),
            ["2026-10-25T00:30", "2026-10-26T01:30"]
        );
    }

    #[test]
    fn every_quarter_of_an_hour_goes_on_through_the_hour_that_comes_twice() {
        let times = next("*/15 * * * *", "Europe/Berlin", "2026-10-24T23:59:00.000Z", 12);
        assert_eq!(times.len(), 12);
        assert_eq!(times.first().map(String::as_str), Some("2026-10-25T00:00"));
        assert_eq!(times.last().map(String::as_str), Some("2026-10-25T02:45"));
    }

    #[test]
    fn a_sixth_field_is_for_seconds() {
        assert_eq!(
            next("*/20 * * * *", "UTC", "2026-01-01T00:00:00.000Z", 1),
            ["2026-01-01T00:20"]
        );
        let table = Timetable::new("*/20 * * * * *", "UTC").expect("reads");
        assert_eq!(
            table.after(at("2026-01-01T00:00:00.000Z")),
            Some(at("2026-01-01T00:00:20.000Z"))
        );
    }

    #[test]
    fn what_does_not_read_is_refused() {
        for cron in [
            "",
            "* * * *",
            "* * * * * * *",
            "61 * * * *",
            "@hourly",
            "a b c d e",
        ] {
            let refused = Timetable::new(cron, "UTC");
            assert!(matches!(refused, Err(TimetableError::Cron(_))), "{cron}");
        }
        for zone in [
            "",
            "Europe/Nowhere",
            "/etc/localtime",
            "EST5EDT,M3.2.0,M11.1.0",
            "../UTC",
        ] {
            let refused = Timetable::new("0 3 * * *", zone);
            assert_eq!(refused.err(), Some(TimetableError::Zone), "{zone}");
        }
        let never = Timetable::new("0 0 30 2 *", "UTC");
        assert!(never.is_err() || never.is_ok_and(|t| t.after(at("2026-01-01T00:00:00.000Z")).is_none()));
    }
}
