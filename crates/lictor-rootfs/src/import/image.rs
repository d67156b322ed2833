//! An OCI image: from its index to one manifest for this machine, and its layers in their order.
//!
//! <https://github.com/opencontainers/image-spec>: `image-layout.md`, `manifest.md`, `layer.md`.

use std::collections::BTreeSet;

use lictor_proto::Digest;
use serde::Deserialize;

use super::archive::shown;
use super::blobs::{Blobs, name_of};
use super::descriptor::{
    Descriptor, INDEXES, LAYERS, MANIFESTS, MOST, Platform, architecture, check, invalid, listed, parse,
};
use super::stream::Tarball;
use super::tree::Tree;
use super::wanted::Wanted;
use crate::error::RootfsError;

/// Indexes in indexes.
const NESTED: usize = 4;
/// What is not what it is called.
const PART: &str = "a part of the image";

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

/// What an image is called that was unpacked.
pub(super) struct Called {
    pub(super) digest: Digest,
    /// Its manifest, where that is the digest of an index.
    pub(super) manifest: Option<Digest>,
}

/// Unpacks the image for this machine, or the one that is wanted; says which it was.
pub(super) fn unpack(
    blobs: &mut Blobs,
    wanted: Option<&Wanted>,
    tree: &mut Tree,
) -> Result<Called, RootfsError> {
    let (chosen, index) = match blobs.only() {
        Some(digest) => (alone(blobs, digest, wanted)?, wanted.and_then(index_of)),
        None => choose(blobs, wanted.map(|w| &w.named))?,
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
    Ok(Called {
        digest: index.unwrap_or(chosen.digest),
        manifest: index.map(|_| chosen.digest),
    })
}

/// The index by which an image is wanted.
fn index_of(wanted: &Wanted) -> Option<Digest> {
    wanted.of_index.as_ref().map(|_| wanted.named)
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
    check(PART, &layer.digest, &seen.digest)?;
    if seen.bytes != layer.size {
        return Err(mismatch(&layer.digest, layer.size, seen.bytes));
    }
    check(PART, content, &seen.content)
}

/// The only image of a directory without an index.
fn alone(blobs: &mut Blobs, digest: Digest, wanted: Option<&Wanted>) -> Result<Descriptor, RootfsError> {
    if let Some(wanted) = wanted {
        check("the manifest of the image", wanted.image(), &digest)?;
    }
    if let Some(described) = wanted.and_then(|w| w.of_index.clone()) {
        return Ok(described);
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
        artifact_type: None,
    })
}

/// What the indexes of a layout name.
#[derive(Default)]
struct Found {
    images: Vec<Descriptor>,
    /// The index that is meant, where one is.
    index: Option<Descriptor>,
}

/// The one image that is meant, and the index that is, if one is.
fn choose(blobs: &mut Blobs, expect: Option<&Digest>) -> Result<(Descriptor, Option<Digest>), RootfsError> {
    let Found { mut images, index } = find(blobs, expect)?;
    if let Some(index) = index {
        let bytes = document(blobs, &index)?;
        let wanted = Wanted::read(&index.digest, &bytes)?;
        let image = wanted.of_index.ok_or_else(|| invalid("its index is none"))?;
        return Ok((image, Some(index.digest)));
    }
    match expect {
        Some(expected) => images.retain(|f| f.digest == *expected),
        None => images.retain(|f| f.platform.as_ref().is_none_or(Platform::is_ours)),
    }
    match images.as_slice() {
        [one] => Ok((one.clone(), None)),
        [] if expect.is_some() => Err(invalid("it has no image of the digest that was expected")),
        [] => Err(invalid(format!("it has no image for linux/{}", architecture()))),
        several => {
            let digests = listed(several.iter().map(|f| f.digest.to_string()));
            Err(invalid(format!(
                "it has several images for this machine; say which one to expect: {digests}"
            )))
        }
    }
}

/// Everything that the indexes of a layout lead to.
fn find(blobs: &mut Blobs, expect: Option<&Digest>) -> Result<Found, RootfsError> {
    let mut ahead: Vec<(usize, Option<Descriptor>)> = vec![(0, None)];
    let mut found = Found::default();
    let mut known = BTreeSet::new();
    let mut seen = 0;
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
                if expect == Some(&descriptor.digest) {
                    found.index = Some(descriptor.clone());
                }
                if known.insert(descriptor.digest) {
                    ahead.push((depth + 1, Some(descriptor)));
                }
            } else if MANIFESTS.contains(&kind) && !found.images.iter().any(|f| f.digest == descriptor.digest)
            {
                found.images.push(descriptor);
            }
        }
    }
    Ok(found)
}

/// A small blob that is what its descriptor says.
fn document(blobs: &mut Blobs, descriptor: &Descriptor) -> Result<Vec<u8>, RootfsError> {
    let bytes = blobs.document(&name_of(&descriptor.digest))?;
    check(PART, &descriptor.digest, &Digest::of(&bytes))?;
    let length = bytes.len() as u64;
    match length == descriptor.size {
        true => Ok(bytes),
        false => Err(mismatch(&descriptor.digest, descriptor.size, length)),
    }
}

fn mismatch(digest: &Digest, expected: u64, found: u64) -> RootfsError {
    RootfsError::Mismatch {
        what: format!("the length of {digest}"),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
