//! Sandboxes that outlive their jobs: how long what they hold is kept, and how much.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{duration, optional_size};

/// The longest that anything is kept.
const MOST: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long kept sandboxes are kept, and how many of what size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persist {
    /// After its last job.
    #[serde(default = "default_idle", with = "duration")]
    pub idle: Duration,
    /// After it was made, whatever uses it.
    #[serde(default = "default_age", with = "duration")]
    pub age: Duration,
    /// How many of the profile each node keeps at once; a job that would begin one more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// Bytes that one may hold, snapshots included; a job that names one that holds more is refused. Counted at the end of
    /// each job, which nothing stops.
    #[serde(default, with = "optional_size", skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

fn default_idle() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn default_age() -> Duration {
    Duration::from_secs(7 * 24 * 3600)
}

impl Persist {
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if self.idle.is_zero() || self.age < self.idle {
            return Err("idle is more than nothing, and age not less than idle");
        }
        if self.age > MOST {
            return Err("age is at most 366 days");
        }
        if self.most == Some(0) || self.bytes == Some(0) {
            return Err("most and bytes are more than nothing");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Persist;

    #[test]
    fn a_day_idle_and_a_week_old_unless_something_else_is_said() {
        let usual: Persist = toml::from_str("").expect("all of it may be left out");
        let text = serde_json::to_string(&usual).expect("JSON");
        assert!(
            !text.contains("most") && !text.contains("bytes"),
            "old digests stay: {text}"
        );
        assert_eq!((usual.idle.as_secs(), usual.age.as_secs()), (86_400, 604_800));
        for (text, good) in [
            ("idle = \"1h\"", true),
            ("idle = \"8d\"", false),
            ("idle = \"0s\"", false),
            ("age = \"366d\"", true),
            ("age = \"367d\"", false),
            ("most = 1\nbytes = \"1GiB\"", true),
            ("most = 0", false),
            ("bytes = \"0KiB\"", false),
        ] {
            let persist: Persist = toml::from_str(text).expect("a section");
            assert_eq!(persist.validate().is_ok(), good, "{text}");
        }
        assert!(toml::from_str::<Persist>("forever = true").is_err());
    }
}
