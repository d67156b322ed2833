//! Between columns and types. What does not parse was never written by us: `Corrupt`.

use std::str::FromStr;

use lictor_proto::{Digest, Timestamp};

use crate::store::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// Text that parses.
pub(super) fn text<T: FromStr>(s: &str) -> Result<T> {
    s.parse().map_err(|_| StoreError::Corrupt(format!("{s:?}")))
}

/// 32 bytes.
pub(super) fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| StoreError::Corrupt(format!("a digest of {} bytes", bytes.len())))
}

/// Milliseconds since 1970.
pub(super) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms.unsigned_abs())
}

/// A time as a column.
pub(super) fn ms(t: Timestamp) -> i64 {
    // Timestamps end in the year 9999, far below 2^63.
    t.as_millis() as i64
}

/// A word that serde knows, such as a state or a scope.
pub(super) fn word<T: serde::de::DeserializeOwned>(s: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(s.to_owned()))
        .map_err(|_| StoreError::Corrupt(format!("{s:?}")))
}

/// The word of a type that serde writes as one.
pub(super) fn as_word<T: serde::Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => Ok(s),
        _ => Err(StoreError::Corrupt("no word".to_owned())),
    }
}
