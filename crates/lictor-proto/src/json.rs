//! Strict JSON for signed documents (TRUST.md section 1).
//!
//! serde_json alone keeps the last of two equal keys and reads floats into integers' places; either lets two
//! readers see two documents in the same signed bytes. So a document is read twice: once by [`check`], which
//! looks at every token, and once into its type, which denies unknown fields.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::limits::{JSON_DEPTH, MAX_INTEGER};

/// Why bytes are not a strict JSON document of the wanted type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

/// Reads `bytes` as a `T`, refusing duplicate keys, floats, integers beyond 2^53, nesting deeper than 16, and
/// trailing bytes. Unknown fields are refused by `T` itself (`deny_unknown_fields`).
///
/// # Errors
/// [`JsonError`] says what and where.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|e| {
        // What does not read is read a second time, for the name of the field.
        let mut again = serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(named) => JsonError(told("", named)),
            Ok(_) => JsonError(e.to_string()),
        }
    })
}

/// Reads `value`, which stands at `place` of a document, as a `T`; an error names the field.
pub(crate) fn from_value<T: DeserializeOwned>(place: &str, value: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|e| told(place, e))
}

/// Where and what. Names may be anybody's, so they are escaped.
fn told(place: &str, error: serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let parts = [place, if path == "." { "" } else { &path }];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    match parts.join(".") {
        path if path.is_empty() => error.inner().to_string(),
        path => format!("{}: {}", path.escape_debug(), error.inner()),
    }
}

/// Checks the token rules alone.
///
/// # Errors
/// [`JsonError`] says what and where.
pub fn check(bytes: &[u8]) -> Result<(), JsonError> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 1 }
        .deserialize(&mut de)
        .map_err(|e| JsonError(e.to_string()))?;
    de.end().map_err(|e| JsonError(e.to_string()))
}

/// The exact bytes to sign for `value`.
///
/// # Errors
/// When `value` cannot be JSON (a map with keys that are no strings).
pub fn to_vec<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, JsonError> {
    serde_json::to_vec(value).map_err(|e| JsonError(e.to_string()))
}

struct Strict {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        if self.depth > JSON_DEPTH {
            return Err(D::Error::custom(format_args!("nested deeper than {JSON_DEPTH}")));
        }
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats or duplicate keys")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<(), E> {
        if v > MAX_INTEGER {
            Err(E::custom("integer beyond 2^53"))
        } else {
            Ok(())
        }
    }
    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<(), E> {
        if v.unsigned_abs() > MAX_INTEGER {
            Err(E::custom("integer beyond 2^53"))
        } else {
            Ok(())
        }
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("floating point number"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq
            .next_element_seed(Strict {
                depth: self.depth + 1,
            })?
            .is_some()
        {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Strict {
                depth: self.depth + 1,
            })?;
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
        }
        Ok(())
    }
}

/// serde glue: 32 bytes as canonical standard base64.
pub mod base64_32 {
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes 32 bytes as base64.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::encode_base64(bytes))
    }

    /// Reads 32 bytes of canonical base64.
    ///
    /// # Errors
    /// When it is not base64, not canonical, or not 32 bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        super::decode_base64(&text)
            .and_then(|v| v.try_into().ok())
            .ok_or_else(|| serde::de::Error::custom("expected 32 bytes of canonical base64"))
    }
}

/// serde glue: any bytes as canonical standard base64.
pub mod base64_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes bytes as base64.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::encode_base64(bytes))
    }

    /// Reads canonical base64.
    ///
    /// # Errors
    /// When it is not base64 or not canonical.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        super::decode_base64(&text).ok_or_else(|| serde::de::Error::custom("expected canonical base64"))
    }
}

/// Standard base64 with padding (RFC 4648 section 4).
#[must_use]
pub fn encode_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Canonical standard base64 only: padding required, no stray bits.
#[must_use]
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn accepts_plain_documents() {
        for s in [
            r#"{"a":[1,-2,"x",null,true,{"b":{}}]}"#,
            "9007199254740992",
            "\"\"",
        ] {
            assert!(check(s.as_bytes()).is_ok(), "{s}");
        }
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        let deep = "[".repeat(17) + &"]".repeat(17);
        for s in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":1,"\u0061":2}"#,
            "1.0",
            "1e3",
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551616",
            "{} {}",
            "{",
            "\"\u{0001}\"",
            &deep,
        ] {
            assert!(check(s.as_bytes()).is_err(), "{s}");
        }
        assert!(check(b"\"\xff\"").is_err());
    }
}
