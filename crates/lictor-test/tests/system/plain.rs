//! An agent that is nobody special, on a machine where a test may make it so.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lictor_test::Program;
use tempfile::TempDir;

use crate::fleet::Crew;

/// Its user and group.
pub(crate) const UID: u32 = 61234;

/// The node `plain` of a crew.
pub(crate) struct Plain {
    pub(crate) agent: Program,
    place: TempDir,
}

impl Plain {
    /// Enrols it, and starts it with these settings.
    pub(crate) fn of(crew: &Crew, settings: &str) -> Result<Self> {
        let place = tempfile::tempdir()?;
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
        let lictor = place.path().join("lictor");
        fs::copy(crew.cli().binary(), &lictor)?;
        let own = place.path().join("own");
        fs::create_dir(&own)?;
        chown(&own, Some(UID), Some(UID))?;
        let dir = own.join("agent");
        let dir = dir.to_str().context("path")?;
        let config = place.path().join("agent.toml");
        fs::write(&config, format!("dir = {dir:?}\n{settings}"))?;
        let id = UID.to_string();
        let as_nobody = |words: &[&str]| {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
                .arg(&lictor)
                .args(words)
                .env_clear()
                .env("PATH", "/usr/bin:/bin:/usr/sbin")
                .env("HOME", "/nonexistent");
            command
        };
        let grant = crew.cli().json(&["nodes", "grant", "plain"])?;
        let token = grant["token"].as_str().context("a token")?;
        let enrolled = as_nobody(&["agent", "enroll", "--token", token, "--dir", dir]).output()?;
        let said = String::from_utf8_lossy(&enrolled.stderr);
        ensure!(enrolled.status.success(), "{said}");
        let config = config.to_str().context("path")?;
        let agent = Program::start(as_nobody(&["agent", "run", "--config", config]))?;
        crew.is_there("plain", true).with_context(|| agent.stderr())?;
        Ok(Self { agent, place })
    }

    /// A directory of its user's.
    pub(crate) fn own(&self) -> PathBuf {
        self.place.path().join("own")
    }
}
