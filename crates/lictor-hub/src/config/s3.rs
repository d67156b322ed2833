//! A bucket in place of files below the hub's directory, and the file with the keys to it.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// Bytes of the file with the keys.
const KEYS: u64 = 16 * 1024;

/// Where logs and inputs are stored, by anything that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The bucket, which is there.
    pub bucket: String,
    /// Its region.
    #[serde(default = "default_region")]
    pub region: String,
    /// Who serves it, as a URL; Amazon when left out. `http` only on this machine.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What every object's name begins with.
    #[serde(default)]
    pub prefix: String,
    /// The file with the keys, which nobody but its owner may read.
    pub credentials: PathBuf,
}

/// The keys to it. Not `Debug`: they are nobody's to print.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Keys {
    /// As the service names it.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// A token that goes with keys for a while.
    #[serde(default)]
    pub session_token: Option<String>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

impl S3Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.bucket.is_empty() {
            return Err(ConfigError::Invalid("s3.bucket is empty"));
        }
        let here = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let is_here = |url: &str| {
            here.iter().any(|host| {
                url.strip_prefix(host)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            })
        };
        match &self.endpoint {
            Some(url) if !url.starts_with("https://") && !is_here(url) => Err(ConfigError::Invalid(
                "s3.endpoint is an https URL, or an http URL of this machine",
            )),
            _ => Ok(()),
        }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// [`ConfigError`], also when others than its owner may read the file.
    pub fn keys(&self) -> Result<S3Keys, ConfigError> {
        let failed = |source| ConfigError::Read {
            path: self.credentials.clone(),
            source,
        };
        let file = File::open(&self.credentials).map_err(failed)?;
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().map_err(failed)?);
            if mode & 0o077 != 0 {
                return Err(ConfigError::Invalid(
                    "others than its owner may read the file that s3.credentials names; chmod 600 it",
                ));
            }
        }
        let mut text = String::new();
        file.take(KEYS).read_to_string(&mut text).map_err(failed)?;
        // Not the parser's own words: they quote the line, and the line is a key.
        toml::from_str(&text).map_err(|_| {
            ConfigError::Invalid("the file that s3.credentials names has access_key_id and secret_access_key")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::HubConfig;

    fn with(s3: &str) -> Result<HubConfig, super::ConfigError> {
        HubConfig::parse(&format!(
            "dir = \"x\"\n[s3]\nbucket = \"b\"\ncredentials = \"c\"\n{s3}"
        ))
    }

    #[test]
    fn keys_go_over_no_open_line() {
        for good in [
            "",
            "endpoint = \"https://s3.example.com\"",
            "endpoint = \"http://127.0.0.1:9000\"",
        ] {
            assert!(with(good).is_ok(), "{good}");
        }
        for bad in [
            "endpoint = \"http://s3.example.com\"",
            "endpoint = \"http://127.0.0.1.example.com\"",
            "endpoint = \"http://localhost@example.com\"",
            "endpoint = \"ftp://x\"",
            "secret_access_key = \"x\"",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn keys_that_others_may_read_are_refused_and_not_shown() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let mut config = with("").unwrap().s3.unwrap();
        config.credentials.clone_from(&path);
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(
            &path,
            "access_key_id = \"a\"\nsecret_access_key = \"very secret\"\n",
        )
        .unwrap();
        set(0o640);
        assert!(config.keys().is_err());
        set(0o600);
        assert_eq!(config.keys().ok().unwrap().secret_access_key, "very secret");
        std::fs::write(&path, "access_key_id = \"a\"\nsecret_access_key = very secret\n").unwrap();
        let said = format!("{:?}", config.keys().err().unwrap());
        assert!(!said.contains("very secret"), "{said}");
    }
}
