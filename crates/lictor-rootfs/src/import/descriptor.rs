//! What documents of an image say about its parts: descriptors, and what kinds of parts there are.
//!
//! <https://github.com/opencontainers/image-spec>: `descriptor.md`, `media-types.md`.

use lictor_proto::Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::RootfsError;

/// Images of one index, and layers of one image.
pub(super) const MOST: usize = 512;

pub(super) const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
pub(super) const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
pub(super) const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    /// What it is where it is no image.
    #[serde(default)]
    pub(super) artifact_type: Option<String>,
}

/// For which machines an image is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default, rename = "os.features")]
    os_features: Vec<String>,
    /// Of processors, in Docker's lists.
    #[serde(default)]
    features: Vec<String>,
}

impl Platform {
    /// Whether every Linux machine of this processor can use it: what asks for more than the first variant, for
    /// features, or for a version of the system counts as somebody else's.
    pub(super) fn is_ours(&self) -> bool {
        let variant = self.variant.as_deref().filter(|v| !v.is_empty());
        let is_first = matches!(
            (architecture(), variant),
            (_, None) | ("amd64", Some("v1")) | ("arm64", Some("v8"))
        );
        let asks_nothing = self.os_version.as_deref().is_none_or(str::is_empty)
            && self.os_features.is_empty()
            && self.features.is_empty();
        self.os == "linux" && self.architecture == architecture() && is_first && asks_nothing
    }

    /// As people write it.
    pub(super) fn words(&self) -> String {
        let variant = self.variant.as_deref().filter(|v| !v.is_empty());
        let variant = variant.map_or_else(String::new, |v| format!("/{v}"));
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// This machine's, as images call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

pub(super) fn invalid(what: impl Into<String>) -> RootfsError {
    RootfsError::Invalid(what.into())
}

pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, RootfsError> {
    serde_json::from_slice(bytes).map_err(|e| invalid(format!("{what} cannot be read: {e}")))
}

pub(super) fn check(what: &str, expected: &Digest, found: &Digest) -> Result<(), RootfsError> {
    match expected == found {
        true => Ok(()),
        false => Err(RootfsError::Mismatch {
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
    }
}

/// The first few of many, for a message.
pub(super) fn listed(all: impl Iterator<Item = String>) -> String {
    all.take(8).collect::<Vec<_>>().join(", ")
}
