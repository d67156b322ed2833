//! Work that carries files: to a node (`fetch`), and from one (`collect`).
//!
//! The paths are signed as they are judged and used: absolute, in one spelling, without `.` and `..`. No link is followed
//! on the node, so what the path says is where the file is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::terms::permission_bits;
use super::url::FileUrl;
use super::work::Process;
use super::{Invalid, StdinBytes, ensure};
use crate::ids::{Digest, Name};
use crate::limits;

/// A job of these kinds sets no variables.
static NO_ENV: BTreeMap<String, String> = BTreeMap::new();

/// Put one file on the node: bytes that the hub has in store, or that the node fetches, known by digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// Where to, as the profile's jobs see it.
    pub to: String,
    /// Where the node fetches it from; left out where the hub brings it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<FileUrl>,
    /// SHA-256 of its content.
    pub sha256: Digest,
    /// Bytes of its content.
    pub size: u64,
    /// Its permission bits, four octal digits of which the first is 0: `0644`.
    pub mode: String,
    /// Its owner: a name of the node's, or a number; left out for the user that the profile's jobs run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its group, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it may take the place of a file that is there.
    pub replace: bool,
    /// Wall time after which it is given up, in milliseconds; `null` means the profile's.
    pub timeout_ms: Option<u64>,
    /// The kept sandbox of the profile to put it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
}

/// Bring one file, or a directory with all below it, from the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Which, as the profile's jobs see it.
    pub from: String,
    /// Most bytes of content, all files together.
    pub max_bytes: u64,
    /// As of [`Fetch`].
    pub timeout_ms: Option<u64>,
    /// As of [`Fetch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
}

impl Fetch {
    /// What has to be there before it starts.
    #[must_use]
    pub fn content(&self) -> StdinBytes {
        StdinBytes {
            sha256: self.sha256,
            size: self.size,
        }
    }

    /// The permission bits; `None` for a spec that does not validate.
    #[must_use]
    pub fn mode_bits(&self) -> Option<u32> {
        permission_bits(&self.mode)
    }

    pub(super) fn process(&self) -> Process<'_> {
        carrying(self.timeout_ms, self.sandbox.as_ref())
    }

    pub(super) fn words(&self) -> Vec<String> {
        let from = self.url.iter().map(ToString::to_string);
        ["fetch".to_owned(), self.to.clone()]
            .into_iter()
            .chain(from)
            .collect()
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check_path("spec.to", &self.to)?;
        ensure(self.size <= limits::ARTIFACT, || {
            Invalid::limit("spec.size", "at most 4 GiB")
        })?;
        ensure(self.size > 0 || self.url.is_none(), || {
            Invalid::field("spec.size", "at least 1 byte, where there is a URL")
        })?;
        ensure(self.mode_bits().is_some(), || {
            Invalid::field("spec.mode", "four octal digits, the first of them 0")
        })?;
        check_person("spec.owner", self.owner.as_deref())?;
        check_person("spec.group", self.group.as_deref())?;
        self.process().check_times()
    }
}

impl Collect {
    /// This path, everything else as the profile says.
    #[must_use]
    pub fn new(from: String, max_bytes: u64) -> Self {
        Self {
            from,
            max_bytes,
            timeout_ms: None,
            sandbox: None,
        }
    }

    /// Bytes of output that have to be kept for it: all of what it may bring, and what is said about it. Twice, since
    /// half of what is kept is kept of the end.
    #[must_use]
    pub fn keeps(&self) -> u64 {
        2 * (self.max_bytes.min(limits::ARTIFACT) + limits::MANIFEST)
    }

    pub(super) fn process(&self) -> Process<'_> {
        carrying(self.timeout_ms, self.sandbox.as_ref())
    }

    pub(super) fn words(&self) -> Vec<String> {
        vec!["collect".to_owned(), self.from.clone()]
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check_path("spec.from", &self.from)?;
        ensure((1..=limits::ARTIFACT).contains(&self.max_bytes), || {
            Invalid::limit("spec.max_bytes", "1 byte to 4 GiB")
        })?;
        self.process().check_times()
    }
}

fn carrying(timeout_ms: Option<u64>, sandbox: Option<&Name>) -> Process<'_> {
    Process {
        timeout: timeout_ms.map(Duration::from_millis),
        sandbox,
        ..Process::plain(&NO_ENV)
    }
}

/// One spelling for each place, so that a rule about a path cannot be got around by another one.
fn check_path(field: &'static str, path: &str) -> Result<(), Invalid> {
    let wrong = || {
        Invalid::field(
            field,
            "an absolute path without `.`, `..`, `//` and a `/` at the end",
        )
    };
    ensure(path.len() <= limits::PATH, || {
        Invalid::limit(field, "at most 4095 bytes")
    })?;
    let parts = path.strip_prefix('/').ok_or_else(wrong)?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    ensure(parts.split('/').all(plain), wrong)?;
    ensure(parts.split('/').all(|part| part.len() <= 255), || {
        Invalid::limit(field, "a part of it is over 255 bytes")
    })
}

fn check_person(field: &'static str, name: Option<&str>) -> Result<(), Invalid> {
    let plain = |name: &str| {
        (1..=32).contains(&name.len())
            && !name.starts_with(['-', '.'])
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    ensure(name.is_none_or(plain), || {
        Invalid::field(
            field,
            "a name of 1 to 32 letters, digits, `_`, `.`, `-`, or a number",
        )
    })
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::{Collect, Fetch};
    use crate::doc::{JobKind, Spec};
    use crate::{Digest, limits};

    fn fetch() -> Fetch {
        Fetch {
            to: "/srv/app/file".to_owned(),
            url: None,
            sha256: Digest::of(b"content"),
            size: 7,
            mode: "0644".to_owned(),
            owner: Some("www-data".to_owned()),
            group: None,
            replace: false,
            timeout_ms: None,
            sandbox: None,
        }
    }

    fn fetched() -> Fetch {
        Fetch {
            url: Some("https://dl.example.org/app/file".parse().expect("a URL")),
            ..fetch()
        }
    }

    #[test]
    fn a_url_is_among_the_words_and_brings_at_least_a_byte() {
        assert_eq!(fetched().validate(), Ok(()));
        assert_eq!(
            fetched().words(),
            ["fetch", "/srv/app/file", "https://dl.example.org/app/file"]
        );
        let empty = Fetch { size: 0, ..fetched() };
        assert_eq!(empty.validate().expect_err("empty").field, "spec.size");
        let odd = serde_json::to_string(&fetched())
            .expect("JSON")
            .replace("/app/", "/../");
        let odd = serde_json::from_str(&odd).expect("JSON");
        let error = Spec::read(JobKind::Fetch, odd).expect_err("another spelling");
        assert!(error.contains("url") && error.contains(".."), "{error}");
        // A job without one is written as before there were any.
        assert!(!serde_json::to_string(&fetch()).expect("JSON").contains("url"));
    }

    #[test]
    fn a_path_has_one_spelling() {
        assert_eq!(fetch().validate(), Ok(()));
        for path in [
            "",
            "/",
            "srv/file",
            "/srv/../file",
            "/srv/./file",
            "/srv//file",
            "/srv/file/",
            "/..",
            "/srv/\0",
        ] {
            let other = Fetch {
                to: path.to_owned(),
                ..fetch()
            };
            assert_eq!(other.validate().expect_err(path).field, "spec.to", "{path:?}");
            let other = Collect::new(path.to_owned(), 1);
            assert_eq!(other.validate().expect_err(path).field, "spec.from", "{path:?}");
        }
        for long in [format!("/{}", "a".repeat(256)), "/ab".repeat(2000)] {
            let other = Fetch { to: long, ..fetch() };
            assert!(other.validate().is_err());
        }
    }

    #[test]
    fn what_a_file_may_be_is_bounded() {
        for (other, field) in [
            (
                Fetch {
                    mode: "4755".to_owned(),
                    ..fetch()
                },
                "spec.mode",
            ),
            (
                Fetch {
                    mode: "644".to_owned(),
                    ..fetch()
                },
                "spec.mode",
            ),
            (
                Fetch {
                    mode: "0648".to_owned(),
                    ..fetch()
                },
                "spec.mode",
            ),
            (
                Fetch {
                    size: limits::ARTIFACT + 1,
                    ..fetch()
                },
                "spec.size",
            ),
            (
                Fetch {
                    owner: Some("a:b".to_owned()),
                    ..fetch()
                },
                "spec.owner",
            ),
            (
                Fetch {
                    group: Some(String::new()),
                    ..fetch()
                },
                "spec.group",
            ),
            (
                Fetch {
                    timeout_ms: Some(0),
                    ..fetch()
                },
                "spec.timeout_ms",
            ),
        ] {
            assert_eq!(other.validate().expect_err(field).field, field);
        }
        assert_eq!(fetch().mode_bits(), Some(0o644));
        assert!(
            Collect::new("/var/log".to_owned(), limits::ARTIFACT + 1)
                .validate()
                .is_err()
        );
    }

    #[test]
    fn they_are_read_by_their_kind_and_written_as_they_were() {
        for spec in [
            Spec::Fetch(fetch()),
            Spec::Fetch(fetched()),
            Spec::Collect(Collect::new("/var/log".to_owned(), 1 << 20)),
        ] {
            let text = serde_json::to_string(&spec).expect("JSON");
            let value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(Spec::read(spec.kind(), value), Ok(spec));
        }
        let unknown =
            serde_json::json!({ "from": "/var/log", "max_bytes": 1, "timeout_ms": null, "follow": true });
        let error = Spec::read(JobKind::Collect, unknown).expect_err("an unknown field");
        assert!(error.contains("follow"), "{error}");
    }
}
