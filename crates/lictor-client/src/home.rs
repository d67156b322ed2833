//! The home: one directory with everything that a person's client needs.
//!
//! ```text
//! config.toml   which hub, which org, who I am, which key signs
//! keys/*.pem    signing keys, 0600
//! token         API token of the hub, 0600
//! trust/        pinned law, known nodes, receipts seen
//! org/          the org directory in source form, for whoever keeps it
//! hub/ agent/   made by `lictor up` only
//! ```
//!
//! This crate never reads the environment: whoever calls says which directory it is.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lictor_proto::{Digest, Name, OrgId};
use serde::{Deserialize, Serialize};

/// An opened home.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The org this home acts for.
    pub org: OrgId,
    /// Who acts, as the roster calls them.
    pub operator: Name,
    /// The key in `keys/` that signs for them.
    pub key: Name,
    /// Where the hub is; absent until the home is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubAddress>,
}

/// Where the hub is, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubAddress {
    /// `https://HOST:PORT`, or `http://` on this machine.
    pub url: String,
    /// SHA-256 of the SPKI of its HTTPS key; needed with `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki: Option<Digest>,
    /// The address that goes into enrolment tokens, where it differs from `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_url: Option<String>,
    /// SHA-256 of the SPKI of its link key, which goes into enrolment tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_spki: Option<Digest>,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// There is no `config.toml`.
    #[error("{} is no home: it has no config.toml", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl HomeError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

impl Home {
    /// The home in `dir`, whether or not it has been set up.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.toml`.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// `keys/NAME.pem`.
    #[must_use]
    pub fn key_path(&self, name: &Name) -> PathBuf {
        self.keys_dir().join(format!("{name}.pem"))
    }

    /// `keys/`.
    #[must_use]
    pub fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// `token`.
    #[must_use]
    pub fn token_path(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// `trust/`.
    #[must_use]
    pub fn trust_dir(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// `org/`.
    #[must_use]
    pub fn org_dir(&self) -> PathBuf {
        self.dir.join("org")
    }

    /// Reads `config.toml`.
    ///
    /// # Errors
    /// [`HomeError::Missing`] when there is none.
    pub fn config(&self) -> Result<Config, HomeError> {
        let path = self.config_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::Missing(self.dir.clone()));
            }
            Err(e) => return Err(HomeError::io(&path)(e)),
        };
        toml::from_str(&text).map_err(|e| HomeError::Malformed {
            path,
            why: e.to_string(),
        })
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &Config) -> Result<(), HomeError> {
        let path = self.config_path();
        let text = toml::to_string(config).map_err(|e| HomeError::Malformed {
            path: path.clone(),
            why: e.to_string(),
        })?;
        make_dir(&self.dir)?;
        replace(&path, text.as_bytes())
    }

    /// Reads the API token; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn token(&self) -> Result<Option<String>, HomeError> {
        let path = self.token_path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(HomeError::io(&path)(e)),
        }
    }

    /// Writes the API token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_token(&self, token: &str) -> Result<(), HomeError> {
        make_dir(&self.dir)?;
        replace(&self.token_path(), format!("{token}\n").as_bytes())
    }
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path) -> Result<(), HomeError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(HomeError::io(path))
}

/// Makes a directory that others may pass through and not look into: for a home with a node below it, whose
/// sandboxes' users have to reach their own workspaces.
///
/// # Errors
/// When it cannot be made.
pub fn make_passage(path: &Path) -> Result<(), HomeError> {
    make_dir(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(HomeError::io(path))?;
    }
    Ok(())
}

/// Replaces a file whole, readable by its owner only: a crash leaves the old one or the new one, and once this
/// returns it is the new one.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    // Two processes may replace the same file at once; each needs a scratch file of its own.
    let scratch = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&scratch)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&scratch, path)?;
        #[cfg(unix)]
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(HomeError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            org: OrgId::from_root(&Digest::of(b"root")),
            operator: "alice".parse().expect("a name"),
            key: "alice".parse().expect("a name"),
            hub: Some(HubAddress {
                url: "http://127.0.0.1:7400".into(),
                spki: None,
                link_url: None,
                link_spki: Some(Digest::of(b"spki")),
            }),
        }
    }

    #[test]
    fn configuration_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path().join("home"));
        home.write_config(&config()).expect("written");
        assert_eq!(home.config().expect("read"), config());
    }

    #[test]
    fn a_directory_without_configuration_is_no_home() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(
            Home::at(dir.path()).config(),
            Err(HomeError::Missing(_))
        ));
    }

    #[test]
    fn unknown_settings_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path());
        home.write_config(&config()).expect("written");
        let text = fs::read_to_string(home.config_path()).expect("read") + "\n[extra]\nx = 1\n";
        fs::write(home.config_path(), text).expect("written");
        assert!(matches!(home.config(), Err(HomeError::Malformed { .. })));
    }

    #[test]
    #[cfg(unix)]
    fn secrets_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::at(dir.path());
        home.write_token("lictor_pat_x_y").expect("written");
        let mode = fs::metadata(home.token_path())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(home.token().expect("read").as_deref(), Some("lictor_pat_x_y"));
    }
}
