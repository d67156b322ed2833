//! Durations and sizes as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// `"90s"`, `"10m"`, `"2h"`, `"7d"`, `"500ms"`.
///
/// # Errors
/// When it is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is no duration; write 500ms, 90s, 10m, 2h or 7d");
    let n: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => Some(n),
        "s" => n.checked_mul(1000),
        "m" => n.checked_mul(60_000),
        "h" => n.checked_mul(3_600_000),
        "d" => n.checked_mul(86_400_000),
        _ => None,
    };
    ms.map(Duration::from_millis).ok_or_else(wrong)
}

/// `"512"`, `"64KiB"`, `"16MiB"`, `"2GiB"`, in bytes.
///
/// # Errors
/// When it is none of these.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is no size; write bytes, or with KiB, MiB or GiB");
    let n: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    n.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `10 minutes`, `1 hour 30 minutes`, `500 ms`.
#[must_use]
pub fn duration_in_words(duration: Duration) -> String {
    const UNITS: [(u64, &str); 5] = [
        (86_400_000, "day"),
        (3_600_000, "hour"),
        (60_000, "minute"),
        (1000, "second"),
        (1, "ms"),
    ];
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut words = Vec::new();
    for (length, unit) in UNITS {
        let n = left / length;
        left %= length;
        let plural = if n == 1 || unit == "ms" { "" } else { "s" };
        words.extend((n > 0).then(|| format!("{n} {unit}{plural}")));
    }
    if words.is_empty() {
        return "0 seconds".to_owned();
    }
    words.join(" ")
}

/// `16 MiB`, `1.5 GiB (1610612737 bytes)`, `512 bytes`.
#[must_use]
pub fn size_in_words(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let whole = bytes >> shift;
    // Tenths, cut off: what is a limit is never told as more than it is.
    let tenth = ((bytes >> (shift - 10)) & 1023) * 10 / 1024;
    match bytes & ((1 << shift) - 1) {
        0 => format!("{whole} {unit}"),
        _ if tenth == 0 => format!("{whole} {unit} ({bytes} bytes)"),
        _ => format!("{whole}.{tenth} {unit} ({bytes} bytes)"),
    }
}

pub(super) mod duration {
    use super::{Deserialize, Deserializer, Duration, parse_duration};
    pub(in super::super) fn serialize<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}ms", d.as_millis()))
    }
    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

pub(super) mod size {
    use super::{Deserialize, Deserializer, parse_size};
    pub(in super::super) fn serialize<S: serde::Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }
    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        parse_size(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

pub(super) mod optional_size {
    use super::{Deserialize, Deserializer, parse_size};
    pub(in super::super) fn serialize<S: serde::Serializer>(
        n: &Option<u64>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match n {
            Some(n) => s.collect_str(n),
            None => s.serialize_none(),
        }
    }
    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|t| parse_size(&t).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, duration_in_words, parse_duration, size_in_words};

    #[test]
    fn durations_are_said_in_the_units_of_people() {
        for (written, said) in [
            ("500ms", "500 ms"),
            ("1s", "1 second"),
            ("90s", "1 minute 30 seconds"),
            ("10m", "10 minutes"),
            ("25h", "1 day 1 hour"),
        ] {
            let duration = parse_duration(written).unwrap_or_default();
            assert_eq!(duration_in_words(duration), said, "{written}");
        }
        assert_eq!(duration_in_words(Duration::ZERO), "0 seconds");
    }

    #[test]
    fn sizes_are_said_in_the_largest_unit_and_exactly() {
        for (bytes, said) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 10, "1 KiB"),
            (16 << 20, "16 MiB"),
            (3 << 29, "1.5 GiB (1610612736 bytes)"),
            ((1 << 30) + 1, "1 GiB (1073741825 bytes)"),
            (1 << 40, "1 TiB"),
        ] {
            assert_eq!(size_in_words(bytes), said);
        }
    }
}
