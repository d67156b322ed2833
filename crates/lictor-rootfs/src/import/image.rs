//! An OCI image: from its index to one manifest for this machine, and its layers in their order.
//!
//! <https://github.com/opencontainers/image-spec>: `image-layout.md`, `manifest.md`, `layer.md`.

use std::collections::BTreeSet;

use lictor_proto::Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::archive::shown;
use super::blobs::{Blobs, name_of};
use super::stream::Tarball;
use super::tree::Tree;
use crate::error::RootfsError;

/// Indexes in indexes.
const NESTED: usize = 4;
/// Images of one index, and layers of one image.
const MOST: usize = 512;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: Option<String>,
    /// Of an index; a document that is both is read differently by everybody.
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What a document says that it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    media_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Config {
    os: String,
    architecture: String,
    rootfs: Rootfs,
}

#[derive(Debug, Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

fn invalid(what: impl Into<String>) -> RootfsError {
    RootfsError::Invalid(what.into())
}

/// Unpacks the image for this machine, or the one that is expected; says which it was.
pub(super) fn unpack(
    blobs: &mut Blobs,
    expect: Option<&Digest>,
    tree: &mut Tree,
) -> Result<Digest, RootfsError> {
    let chosen = match blobs.only() {
        Some(digest) => alone(blobs, digest, expect)?,
        None => choose(blobs, expect)?,
    };
    let manifest: Manifest = parse("its manifest", &document(blobs, &chosen)?)?;
    if manifest
        .media_type
        .as_ref()
        .is_some_and(|kind| *kind != chosen.media_type)
        || manifest.manifests.is_some()
    {
        return Err(invalid(
            "its manifest is not of the kind that it is called, or of two kinds",
        ));
    }
    let config: Config = parse("its configuration", &document(blobs, &manifest.config)?)?;
    if (config.os.as_str(), config.architecture.as_str()) != ("linux", architecture()) {
        let (os, architecture) = (shown(config.os.as_bytes()), shown(config.architecture.as_bytes()));
        return Err(invalid(format!(
            "the image is for {os}/{architecture}, not for this machine"
        )));
    }
    let (layers, contents) = (&manifest.layers, &config.rootfs.diff_ids);
    if layers.len() != contents.len() || layers.len() > MOST {
        return Err(invalid("manifest and configuration do not name the same layers"));
    }
    for (layer, content) in layers.iter().zip(contents) {
        apply(blobs, layer, content, tree)?;
    }
    Ok(chosen.digest)
}

fn apply(
    blobs: &mut Blobs,
    layer: &Descriptor,
    content: &Digest,
    tree: &mut Tree,
) -> Result<(), RootfsError> {
    if !LAYERS.contains(&layer.media_type.as_str()) {
        return Err(invalid(format!(
            "a layer is of a kind that is not known: {}",
            shown(layer.media_type.as_bytes())
        )));
    }
    let mut tarball = Tarball::open(blobs.blob(&layer.digest)?, tree.limits)?.after(tree.unpacked);
    tree.apply(&mut tarball)?;
    let seen = tarball.finish()?;
    tree.unpacked = tree.unpacked.saturating_add(seen.unpacked);
    check(&layer.digest, &seen.digest)?;
    if seen.bytes != layer.size {
        return Err(mismatch(&layer.digest, layer.size, seen.bytes));
    }
    check(content, &seen.content)
}

/// The only image of a directory without an index.
fn alone(blobs: &mut Blobs, digest: Digest, expect: Option<&Digest>) -> Result<Descriptor, RootfsError> {
    if let Some(expected) = expect.filter(|e| **e != digest) {
        // An index leads to another manifest on each machine, which is the one to name.
        return Err(RootfsError::Mismatch {
            what: "the manifest of the image for this machine".into(),
            expected: expected.to_string(),
            found: digest.to_string(),
        });
    }
    let bytes = blobs.document(&name_of(&digest))?;
    let kind: Kind = parse("its manifest", &bytes)?;
    let media_type = kind.media_type.unwrap_or_else(|| MANIFESTS[0].to_owned());
    if !MANIFESTS.contains(&media_type.as_str()) {
        return Err(invalid(format!(
            "its manifest is of a kind that is not known: {}",
            shown(media_type.as_bytes())
        )));
    }
    Ok(Descriptor {
        media_type,
        digest,
        size: bytes.len() as u64,
        platform: None,
    })
}

/// The one image that is meant.
fn choose(blobs: &mut Blobs, expect: Option<&Digest>) -> Result<Descriptor, RootfsError> {
    let mut ahead: Vec<(usize, Option<Descriptor>)> = vec![(0, None)];
    let mut found: Vec<Descriptor> = Vec::new();
    let mut known = BTreeSet::new();
    let (mut seen, mut is_index) = (0, false);
    while let Some((depth, descriptor)) = ahead.pop() {
        // One at a time: many of them would be much memory.
        let bytes = match &descriptor {
            None => blobs.document("index.json")?,
            Some(descriptor) => document(blobs, descriptor)?,
        };
        let index: Index = parse("its index", &bytes)?;
        for descriptor in index.manifests {
            seen += 1;
            if seen > MOST || depth > NESTED {
                return Err(invalid("its index names too many images"));
            }
            let kind = descriptor.media_type.as_str();
            if INDEXES.contains(&kind) {
                is_index |= expect == Some(&descriptor.digest);
                if known.insert(descriptor.digest) {
                    ahead.push((depth + 1, Some(descriptor)));
                }
            } else if MANIFESTS.contains(&kind) && !found.iter().any(|f| f.digest == descriptor.digest) {
                found.push(descriptor);
            }
        }
    }
    if is_index {
        found.retain(|f| f.platform.as_ref().is_none_or(is_ours));
        let digests: Vec<_> = found.iter().take(8).map(|f| f.digest.to_string()).collect();
        return Err(invalid(format!(
            "that is the digest of an index, which is of no image; for this machine it names: {}",
            digests.join(", ")
        )));
    }
    match expect {
        Some(expected) => found.retain(|f| f.digest == *expected),
        None => found.retain(|f| f.platform.as_ref().is_none_or(is_ours)),
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] if expect.is_some() => Err(invalid("it has no image of the digest that was expected")),
        [] => Err(invalid(format!("it has no image for linux/{}", architecture()))),
        [..] => {
            let digests: Vec<_> = found.iter().take(8).map(|f| f.digest.to_string()).collect();
            let digests = digests.join(", ");
            Err(invalid(format!(
                "it has several images for this machine; say which one to expect: {digests}"
            )))
        }
    }
}

fn is_ours(platform: &Platform) -> bool {
    platform.os == "linux" && platform.architecture == architecture()
}

/// As images call it.
fn architecture() -> &'static str {
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

/// A small blob that is what its descriptor says.
fn document(blobs: &mut Blobs, descriptor: &Descriptor) -> Result<Vec<u8>, RootfsError> {
    let bytes = blobs.document(&name_of(&descriptor.digest))?;
    check(&descriptor.digest, &Digest::of(&bytes))?;
    let length = bytes.len() as u64;
    match length == descriptor.size {
        true => Ok(bytes),
        false => Err(mismatch(&descriptor.digest, descriptor.size, length)),
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, RootfsError> {
    serde_json::from_slice(bytes).map_err(|e| invalid(format!("{what} cannot be read: {e}")))
}

fn check(expected: &Digest, found: &Digest) -> Result<(), RootfsError> {
    match expected == found {
        true => Ok(()),
        false => Err(RootfsError::Mismatch {
            what: "a part of the image".into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
    }
}

fn mismatch(digest: &Digest, expected: u64, found: u64) -> RootfsError {
    RootfsError::Mismatch {
        what: format!("the length of {digest}"),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
