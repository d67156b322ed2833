//! What a job expects of its nodes: facts that they were chosen by and that nobody signs for them.

use serde::{Deserialize, Serialize};

use super::{Invalid, ensure};

/// What a node must be to run a job, in its own words ([`crate::agent::HostFacts`]): who chooses nodes by these cannot
/// check them, so each node does, before anything starts. `{}` expects nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// `linux`, `macos`, `windows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// `x86_64`, `aarch64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A fact that differs from what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpected {
    /// Its name.
    pub fact: &'static str,
    /// What the job was signed for.
    pub wanted: String,
    /// What there is.
    pub found: String,
}

impl Expect {
    /// Whether anything will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each fact that is expected: its name, and its value.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("os", &self.os), ("arch", &self.arch), ("version", &self.version)];
        all.into_iter()
            .filter_map(|(fact, value)| Some((fact, value.as_deref()?)))
    }

    /// The first fact that is another one, of a machine that is this.
    #[must_use]
    pub fn differs(&self, os: &str, arch: &str, version: &str) -> Option<Unexpected> {
        let is = |fact| match fact {
            "os" => os,
            "arch" => arch,
            _ => version,
        };
        let mut all = self.each();
        let (fact, wanted) = all.find(|(fact, wanted)| is(fact) != *wanted)?;
        Some(Unexpected {
            fact,
            wanted: wanted.to_owned(),
            found: is(fact).to_owned(),
        })
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let short = |value: &str| {
            !value.is_empty() && value.len() <= 64 && value.bytes().all(|b| b.is_ascii_graphic())
        };
        ensure(self.each().all(|(_, value)| short(value)), || {
            Invalid::field("expect", "each fact is 1 to 64 visible ASCII characters")
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::Expect;

    #[test]
    fn a_job_that_expects_nothing_is_written_as_before() {
        assert_eq!(serde_json::to_string(&Expect::default()).expect("JSON"), "{}");
        assert_eq!(
            serde_json::from_str::<Expect>("{}").expect("nothing"),
            Expect::default()
        );
        assert!(serde_json::from_str::<Expect>("{\"kernel\":\"6\"}").is_err());
    }

    #[test]
    fn a_fact_that_is_another_one_is_named() {
        let expect = Expect {
            os: Some("linux".to_owned()),
            arch: Some("x86_64".to_owned()),
            version: None,
        };
        assert_eq!(expect.differs("linux", "x86_64", "9.9"), None);
        let differs = expect.differs("linux", "aarch64", "9.9").expect("another arch");
        assert_eq!(
            (differs.fact, differs.wanted.as_str(), differs.found.as_str()),
            ("arch", "x86_64", "aarch64")
        );
    }
}
