//! What a job says about who its process is and how much it may use: never more than its profile allows.
//!
//! Left out of a job that says none of it, so that a job without terms is written as it always was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Invalid, ensure};
use crate::ids::Name;
use crate::limits;

/// The terms of one process. At least one of them is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The user of the host that it runs as, with that user's groups; one that the profile lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Name>,
    /// Its group, in place of the user's own; one that the profile lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// Which permission bits the files that it makes are without: four octal digits of which the first is 0, `0027`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<String>,
    /// Limits, each at most that of the profile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<LimitName, u64>,
}

/// Which limit of a profile a job may narrow; the units are those of the profile, in bytes where it is a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // as of the profile's `limits`
pub enum LimitName {
    Memory,
    Pids,
    CpuSeconds,
    CpuMillis,
    ReadBytesPerS,
    WriteBytesPerS,
    FileSize,
    Disk,
    Files,
    OpenFiles,
}

impl LimitName {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::Memory,
        Self::Pids,
        Self::CpuSeconds,
        Self::CpuMillis,
        Self::ReadBytesPerS,
        Self::WriteBytesPerS,
        Self::FileSize,
        Self::Disk,
        Self::Files,
        Self::OpenFiles,
    ];

    /// The word in jobs and profiles.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::CpuSeconds => "cpu_seconds",
            Self::CpuMillis => "cpu_millis",
            Self::ReadBytesPerS => "read_bytes_per_s",
            Self::WriteBytesPerS => "write_bytes_per_s",
            Self::FileSize => "file_size",
            Self::Disk => "disk",
            Self::Files => "files",
            Self::OpenFiles => "open_files",
        }
    }

    /// The one of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }

    /// Whether it is a number of bytes.
    #[must_use]
    pub const fn is_size(self) -> bool {
        match self {
            Self::Memory | Self::ReadBytesPerS | Self::WriteBytesPerS | Self::FileSize | Self::Disk => true,
            Self::Pids | Self::CpuSeconds | Self::CpuMillis | Self::Files | Self::OpenFiles => false,
        }
    }
}

impl Terms {
    /// Whether it says nothing, which a job leaves out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says whom to run as.
    #[must_use]
    pub fn names_somebody(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }

    /// The bits of `umask`; `None` where it is left out, or does not validate.
    #[must_use]
    pub fn umask_bits(&self) -> Option<u32> {
        self.umask.as_deref().and_then(permission_bits)
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        ensure(!self.is_empty(), || {
            Invalid::field("spec.terms", "says something, or is left out")
        })?;
        ensure(self.umask.is_none() || self.umask_bits().is_some(), || {
            Invalid::field("spec.terms.umask", "four octal digits, the first of them 0")
        })?;
        let possible = 1..=limits::MAX_INTEGER;
        ensure(self.limits.values().all(|n| possible.contains(n)), || {
            Invalid::limit("spec.terms.limits", "each is from 1 to 2^53")
        })
    }
}

/// Permission bits as four octal digits of which the first is 0.
pub(super) fn permission_bits(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').filter(|d| d.len() == 3)?;
    let octal = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten()
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Terms, String> {
        let terms: Terms = serde_json::from_str(text).map_err(|e| e.to_string())?;
        terms.validate().map_err(|e| e.to_string())?;
        Ok(terms)
    }

    #[test]
    fn terms_say_something_that_can_be_held_or_are_refused_by_the_name_of_the_field() {
        let good = read(r#"{"user":"deploy","umask":"0027","limits":{"memory":1048576}}"#).expect("terms");
        assert_eq!(good.umask_bits(), Some(0o027));
        for (text, named) in [
            ("{}", "spec.terms"),
            (r#"{"umask":"27"}"#, "umask"),
            (r#"{"umask":"1777"}"#, "umask"),
            (r#"{"umask":"0089"}"#, "umask"),
            (r#"{"limits":{"memory":0}}"#, "limits"),
            (r#"{"limits":{"memory":9007199254740993}}"#, "limits"),
            (r#"{"limits":{"timeout":1}}"#, "timeout"),
            (r#"{"limits":{"memory":-1}}"#, "-1"),
            (r#"{"user":"Root"}"#, "a name"),
            (r#"{"uid":0}"#, "uid"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }

    #[test]
    fn every_limit_has_its_word() {
        for name in LimitName::ALL {
            let word = serde_json::to_value(name).expect("a word");
            assert_eq!(word, name.as_str());
            assert_eq!(LimitName::from_word(name.as_str()), Some(name));
        }
    }
}
