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
