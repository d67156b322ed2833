//! What to do when a machine lacks what a test needs: skip with a printed reason on a laptop, fail in CI.

use std::fmt;

/// A test can't run on this machine, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Missing {
    /// This is what it lacks.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Whether this process may make network namespaces.
///
/// # Errors
/// When it may not: system tests with networks of their own need root.
pub fn can_make_namespaces() -> Result<(), Missing> {
    needs_root("network namespaces")
}

/// Whether this process is root, which these need.
///
/// # Errors
/// When it is not.
pub fn needs_root(what: &str) -> Result<(), Missing> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Missing(format!("{what} need root")))
}

/// Says that a test is skipped, and why. To be followed by `return`.
///
/// # Panics
/// In CI (`CI=true`), where a test that can't run must not pass for one that did.
pub fn skip(missing: &Missing) {
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!in_ci, "this test must run in CI, but: {missing}");
    eprintln!("skipped: {missing}");
}
