//! Sandboxes that outlive their jobs: how long what they hold is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::duration;

/// The longest that anything is kept.
const MOST: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long a kept sandbox is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persist {
    /// After its last job.
    #[serde(default = "default_idle", with = "duration")]
    pub idle: Duration,
    /// After it was made, whatever uses it.
    #[serde(default = "default_age", with = "duration")]
    pub age: Duration,
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Persist;

    #[test]
    fn a_day_idle_and_a_week_old_unless_something_else_is_said() {
        let usual: Persist = toml::from_str("").expect("all of it may be left out");
        assert_eq!((usual.idle.as_secs(), usual.age.as_secs()), (86_400, 604_800));
        for (text, good) in [
            ("idle = \"1h\"", true),
            ("idle = \"8d\"", false),
            ("idle = \"0s\"", false),
            ("age = \"366d\"", true),
            ("age = \"367d\"", false),
        ] {
            let persist: Persist = toml::from_str(text).expect("a section");
            assert_eq!(persist.validate().is_ok(), good, "{text}");
        }
        assert!(toml::from_str::<Persist>("forever = true").is_err());
    }
}
