//! The one time form, `YYYY-MM-DDTHH:MM:SS.mmmZ`, and the instant behind it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC with millisecond precision, between the years 1970 and 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

const FORMAT: &str = "%Y-%m-%dT%H:%M:%S";
/// 9999-12-30T22:00:00.000Z, the last second that jiff knows.
const MAX_MS: u64 = 253_402_207_200_000;

/// A time that is not in the one form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time must be written YYYY-MM-DDTHH:MM:SS.mmmZ")]
pub struct TimeError;

impl Timestamp {
    /// 1970-01-01T00:00:00.000Z.
    pub const START: Self = Self(0);

    /// The system clock, now.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z; clamped to the year 9999.
    #[must_use]
    pub fn from_millis(ms: u64) -> Self {
        Self(ms.min(MAX_MS))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This instant and `d` more, clamped to the year 9999.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self::from_millis(
            self.0
                .saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        let t = jiff::Timestamp::from_millisecond(ms).map_err(|_| fmt::Error)?;
        write!(f, "{}.{:03}Z", t.strftime(FORMAT), self.0 % 1000)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(s: &str) -> Result<Self, TimeError> {
        // The shape first: jiff reads many more forms than the one that documents may use.
        let shape = |(i, b): (usize, u8)| match i {
            4 | 7 => b == b'-',
            10 => b == b'T',
            13 | 16 => b == b':',
            19 => b == b'.',
            23 => b == b'Z',
            _ => b.is_ascii_digit(),
        };
        if s.len() != 24 || !s.bytes().enumerate().all(shape) || &s[17..19] == "60" {
            return Err(TimeError);
        }
        let t: jiff::Timestamp = s.parse().map_err(|_| TimeError)?;
        u64::try_from(t.as_millisecond()).map(Self).map_err(|_| TimeError)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_round_trips() {
        for s in [
            "1970-01-01T00:00:00.000Z",
            "2026-11-21T22:53:02.007Z",
            "9999-12-30T21:59:59.999Z",
        ] {
            assert_eq!(
                s.parse::<Timestamp>().map(|t| t.to_string()).ok().as_deref(),
                Some(s)
            );
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        for s in [
            "2026-11-21T22:53:02Z",
            "2026-11-21T22:53:02.0070Z",
            "2026-11-21T22:53:02.007+00:00",
            "2026-11-21 22:53:02.007Z",
            "2026-11-21t22:53:02.007z",
            "2026-02-30T00:00:00.000Z",
            "2026-11-21T24:00:00.000Z",
            "2026-12-31T23:59:60.000Z",
            "1969-12-31T23:59:59.999Z",
            "",
        ] {
            assert!(s.parse::<Timestamp>().is_err(), "{s}");
        }
    }
}
