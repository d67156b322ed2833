//! The root file system that a profile names: which, where a node may get it, and whether a job may write to it.
//!
//! # Invariants
//! - What is named is one digest. Where it comes from decides nothing: bytes that are not called that are not used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Backend, Profile};

/// Longest name of an image.
const LONGEST: usize = 255;

/// Whether a node may get a root file system by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// No: somebody adds it there (`lictor agent rootfs add`).
    #[default]
    Never,
    /// When its store has none of that digest.
    Missing,
}

impl Pull {
    pub(super) fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// The name of a repository of images with its registry, `registry.example.com/team/name`: no tag, no digest, no scheme,
/// and no registry that goes without saying.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// Why something is no name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no image: write REGISTRY/NAME, such as registry.example.com/team/name, in small letters and without a \
     tag or digest"
)]
pub struct NoImageName(String);

impl ImageName {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The registry that it is in, with its port where it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl FromStr for ImageName {
    type Err = NoImageName;

    fn from_str(text: &str) -> Result<Self, NoImageName> {
        let wrong = || NoImageName(text.chars().take(LONGEST).collect());
        let (registry, path) = text.split_once('/').ok_or_else(wrong)?;
        let good = text.len() <= LONGEST && is_registry(registry) && path.split('/').all(is_path_part);
        good.then(|| Self(text.to_owned())).ok_or_else(wrong)
    }
}

impl TryFrom<String> for ImageName {
    type Error = NoImageName;

    fn try_from(text: String) -> Result<Self, NoImageName> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host name with a dot, `localhost`, or either with a port. A single word would be somebody's default registry.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&l.len()) && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
    };
    let number =
        |p: &str| !p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok();
    let whole = host == "localhost" || host.contains('.') || port.is_some();
    whole && host.split('.').all(label) && port.is_none_or(number)
}

/// Small letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_path_part(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between = |s: &str| matches!(s, "." | "_" | "__") || (!s.is_empty() && s.bytes().all(|b| b == b'-'));
    let ends = |s: &str| s.bytes().next().is_some_and(word) && s.bytes().last().is_some_and(word);
    let separators = text.split(|c: char| c.is_ascii() && word(c as u8));
    ends(text) && separators.filter(|s| !s.is_empty()).all(between)
}

impl Profile {
    /// Where a node gets the root file system by itself, if it may.
    #[must_use]
    pub fn pulled(&self) -> Option<(&ImageName, &lictor_proto::Digest)> {
        let image = self.image.as_ref().filter(|_| self.pull == Pull::Missing)?;
        self.rootfs.as_ref().map(|digest| (image, digest))
    }

    pub(super) fn validate_rootfs(&self) -> Result<(), &'static str> {
        if self.image.is_some() && self.rootfs.is_none() {
            return Err("image says where the root file system is; rootfs has to say which, by its digest");
        }
        if self.pull == Pull::Missing && self.image.is_none() {
            return Err("pull = \"missing\" takes an image to pull from");
        }
        if self.rootfs_writable && self.rootfs.is_none() {
            return Err("rootfs_writable is about a rootfs, and there is none");
        }
        Ok(())
    }

    /// What is said of its root file system where that is not the host's.
    pub(super) fn reads_of_rootfs(&self, backend: Backend, usual: &str) -> String {
        match &self.rootfs {
            Some(digest) if backend.is_namespaced() => {
                format!("the root file system {digest} of the node's store, in place of the host's")
            }
            _ => usual.to_owned(),
        }
    }

    pub(super) fn writes_of_rootfs(&self, backend: Backend, usual: &str) -> String {
        if !self.rootfs_writable || !backend.is_namespaced() {
            return usual.to_owned();
        }
        let room = match self.limits.disk {
            Some(_) => "the room that limits.disk says",
            None => "room for 1 GiB, which is memory",
        };
        format!(
            "{usual}, and all of its root file system but what is mounted there, as a copy of its own with {room}"
        )
    }

    pub(super) fn needs_of_rootfs(&self) -> Option<String> {
        let digest = self.rootfs.as_ref()?;
        let from = match self.pulled() {
            Some((image, _)) => {
                format!(", which the node gets from {image} where it is missing, with skopeo")
            }
            None => match &self.image {
                Some(image) => format!(", where somebody adds it (it is in {image})"),
                None => ", where somebody adds it".to_owned(),
            },
        };
        Some(format!("the root file system {digest} in the node's store{from}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageName, Profile};

    #[test]
    fn an_image_is_named_with_its_registry_and_without_what_may_change() {
        for (name, good) in [
            ("registry.example.com/team/name", true),
            ("registry.example.com/name", true),
            ("registry.example.com:5000/a-b/c_d/e__f.g", true),
            ("localhost/name", true),
            ("localhost:5000/name", true),
            ("build:5000/name", true),
            ("127.0.0.1:5000/name", true),
            ("name", false),
            ("team/name", false),
            ("registry.example.com", false),
            ("registry.example.com/", false),
            ("registry.example.com/name:latest", false),
            ("registry.example.com/name@sha256:00", false),
            ("https://registry.example.com/name", false),
            ("docker://registry.example.com/name", false),
            ("registry.example.com/Name", false),
            ("Registry.example.com/name", false),
            ("registry.example.com//name", false),
            ("registry.example.com/../name", false),
            ("registry.example.com/a..b", false),
            ("registry.example.com/a._b", false),
            ("registry.example.com/-a", false),
            ("registry.example.com/a-", false),
            ("registry.example.com/a b", false),
            ("registry.example.com/a\n", false),
            ("registry.example.com/é", false),
            ("-registry.example.com/name", false),
            ("registry..com/name", false),
            ("user@registry.example.com/name", false),
            ("registry.example.com:0/name", false),
            ("registry.example.com:65536/name", false),
            ("registry.example.com:/name", false),
            ("[::1]:5000/name", false),
        ] {
            assert_eq!(name.parse::<ImageName>().is_ok(), good, "{name}");
        }
        let long = format!("registry.example.com/{}", "a".repeat(255));
        assert!(long.parse::<ImageName>().is_err());
    }

    #[test]
    fn where_a_root_comes_from_and_that_it_is_written_to_go_with_which_it_is() {
        let digest = format!("\"rootfs\": \"sha256:{}\"", "a".repeat(64));
        let image = "\"image\": \"registry.example.com/team/name\"";
        for (fields, good) in [
            (digest.clone(), true),
            (format!("{digest}, {image}"), true),
            (format!("{digest}, {image}, \"pull\": \"missing\""), true),
            (format!("{digest}, {image}, \"pull\": \"never\""), true),
            (format!("{digest}, \"pull\": \"missing\""), false),
            (format!("{image}, \"pull\": \"missing\""), false),
            (image.to_owned(), false),
            (format!("{digest}, \"rootfs_writable\": true"), true),
            ("\"rootfs_writable\": true".to_owned(), false),
        ] {
            let text = format!("{{\"backend\": \"bubblewrap\", {fields}}}");
            let profile: Profile = serde_json::from_str(&text).expect("a profile");
            assert_eq!(profile.validate().is_ok(), good, "{fields}");
            let pulls = good && fields.contains("missing");
            assert_eq!(profile.pulled().is_some() && good, pulls, "{fields}");
        }
        let always = format!("{{\"backend\": \"bubblewrap\", {digest}, {image}, \"pull\": \"always\"}}");
        assert!(serde_json::from_str::<Profile>(&always).is_err());
    }
}
