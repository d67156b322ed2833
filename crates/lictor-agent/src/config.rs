//! The agent's settings: one TOML file, unknown keys refused (`docs/config/agent.toml` shows all of them).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// How the agent reaches its hub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A WebSocket that stays open, HTTP/2 inside: the hub reaches the agent at once.
    #[default]
    Link,
    /// Ordinary HTTPS requests, where nothing else passes.
    Poll,
}

/// The agent's settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The node directory, made by `lictor agent enroll`.
    pub dir: PathBuf,
    /// How to reach the hub.
    #[serde(default)]
    pub transport: Transport,
    /// The hub's address, when it has moved since enrolment; its key stays pinned.
    #[serde(default)]
    pub hub_url: Option<String>,
    /// On SIGTERM: how long running jobs may go on, in seconds.
    #[serde(default = "drain_grace")]
    pub drain_grace_s: u64,
}

fn drain_grace() -> u64 {
    30
}

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
    /// It is not the TOML that it should be.
    #[error("invalid configuration")]
    Malformed(#[source] Box<toml::de::Error>),
}

impl AgentConfig {
    /// The settings for a node directory when there is no file.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            transport: Transport::default(),
            hub_url: None,
            drain_grace_s: drain_grace(),
        }
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`], which names the line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::Malformed(Box::new(e)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Io(path.into(), e))?;
        Self::parse(&text)
    }

    /// How long running jobs may go on after SIGTERM.
    #[must_use]
    pub fn drain_grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_is_the_default() {
        let example = include_str!("../../../docs/config/agent.toml");
        let read = AgentConfig::parse(example).unwrap();
        assert_eq!(read, AgentConfig::new(Path::new("/var/lib/lictor/agent")));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(AgentConfig::parse("dir = \"/x\"").is_ok());
        assert!(AgentConfig::parse("dir = \"/x\"\npol = true").is_err());
        assert!(AgentConfig::parse("dir = \"/x\"\ntransport = \"pigeon\"").is_err());
    }
}
