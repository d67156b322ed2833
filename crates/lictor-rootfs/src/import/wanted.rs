//! What a digest is of, and which image it comes to on this machine: the image itself, or that of an index of several, one for each
//! kind of machine (OCI image index, Docker manifest list).
//!
//! <https://github.com/opencontainers/image-spec>: `image-index.md`. Where several fit, that says that the first should be taken; here
//! none is, since nobody who reads the digest could say which it is.
//!
//! # Invariants
//! - Bytes are held against their digest before anything in them is read.
//! - An index and a processor come to one image, always the same, or to a refusal.

use lictor_proto::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::archive::shown;
use super::blobs::DOCUMENT;
use super::descriptor::{
    Descriptor, INDEXES, MANIFESTS, MOST, Platform, architecture, check, invalid, listed, parse,
};
use crate::error::RootfsError;

/// A digest that was asked for, and the image that it comes to on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What was asked for.
    pub(super) named: Digest,
    /// What an index says about its image; `None` where the image itself was asked for.
    pub(super) of_index: Option<Descriptor>,
}

/// What tells an index from a manifest, whatever it is called on the way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

impl Wanted {
    /// The longest index or manifest that is read.
    pub const MOST_BYTES: usize = DOCUMENT;

    /// An image by its own digest, or whatever else has that.
    pub(super) fn exactly(digest: Digest) -> Self {
        Self {
            named: digest,
            of_index: None,
        }
    }

    /// What `digest` is of, by the bytes that are called that.
    ///
    /// # Errors
    /// [`RootfsError`]: they are not called that, are neither index nor manifest, or an index that has not one image for this
    /// machine.
    pub fn read(digest: &Digest, bytes: &[u8]) -> Result<Self, RootfsError> {
        if bytes.len() > DOCUMENT {
            return Err(RootfsError::TooLarge(format!(
                "what is called {digest} is longer than {DOCUMENT} bytes"
            )));
        }
        check("what was found by that digest", digest, &Digest::of(bytes))?;
        let document: Document = parse("the image's index or manifest", bytes)?;
        let kind = document.media_type.as_deref();
        let is_index = document.manifests.is_some();
        let has_other = match is_index {
            true => document.config.is_some() || document.layers.is_some(),
            false => document.config.is_none() || document.layers.is_none(),
        };
        let kinds = if is_index { INDEXES } else { MANIFESTS };
        if document.schema_version != 2 || has_other || kind.is_some_and(|k| !kinds.contains(&k)) {
            let kind = shown(kind.unwrap_or("no kind that it names").as_bytes());
            return Err(invalid(format!(
                "{digest} is neither the index nor the manifest of an image, or not only one of them ({kind})"
            )));
        }
        let of_index = document.manifests.map(|all| for_this_machine(digest, all));
        Ok(Self {
            named: *digest,
            of_index: of_index.transpose()?,
        })
    }

    /// The image that it comes to.
    #[must_use]
    pub fn image(&self) -> &Digest {
        self.of_index.as_ref().map_or(&self.named, |of| &of.digest)
    }
}

/// The one image of an index.
fn for_this_machine(index: &Digest, all: Vec<Descriptor>) -> Result<Descriptor, RootfsError> {
    if all.len() > MOST {
        return Err(invalid(format!("the index {index} names too many images")));
    }
    if all.iter().any(|d| INDEXES.contains(&d.media_type.as_str())) {
        return Err(invalid(format!(
            "{index} is an index of other indexes, which is not looked into; name one of them, or an image's manifest"
        )));
    }
    let is_image = |d: &&Descriptor| MANIFESTS.contains(&d.media_type.as_str()) && d.artifact_type.is_none();
    let mut ours: Vec<&Descriptor> = Vec::new();
    for image in all.iter().filter(is_image) {
        let fits = image.platform.as_ref().is_some_and(Platform::is_ours);
        if fits && !ours.contains(&image) {
            ours.push(image);
        }
    }
    let machine = format!("linux/{}", architecture());
    match ours.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let platform = |d: &Descriptor| match &d.platform {
                Some(platform) => shown(platform.words().as_bytes()),
                None => format!("{} for who knows what", d.digest),
            };
            let there = listed(all.iter().filter(is_image).map(platform));
            Err(invalid(format!(
                "{index} is an index that has no image for {machine} ({there}); name one that has, or the manifest of an image by \
                 its own digest"
            )))
        }
        several => {
            let digests = listed(several.iter().map(|d| d.digest.to_string()));
            Err(invalid(format!(
                "{index} is an index that has several images for {machine}; name the one that is meant: {digests}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "application/vnd.oci.image.manifest.v1+json";

    fn entry(n: u8, platform: &str) -> String {
        let digest = Digest([n; 32]);
        let platform = match platform {
            "" => String::new(),
            words => format!(",\"platform\":{words}"),
        };
        format!("{{\"mediaType\":\"{KIND}\",\"digest\":\"{digest}\",\"size\":7{platform}}}")
    }

    fn linux(more: &str) -> String {
        format!(
            "{{\"os\":\"linux\",\"architecture\":\"{}\"{more}}}",
            architecture()
        )
    }

    fn index(entries: &[String]) -> String {
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{}]}}",
            INDEXES[0],
            entries.join(",")
        )
    }

    fn read(text: &str) -> Result<Wanted, RootfsError> {
        Wanted::read(&Digest::of(text.as_bytes()), text.as_bytes())
    }

    fn refused(text: &str, words: &str) {
        let error = read(text).expect_err(words);
        assert!(error.to_string().contains(words), "{error} has not {words:?}");
    }

    #[test]
    fn an_index_comes_to_the_one_image_for_this_machine() {
        let other = "{\"os\":\"linux\",\"architecture\":\"s390x\"}".to_owned();
        let windows = linux("").replace("linux", "windows");
        let unknown = "{\"os\":\"unknown\",\"architecture\":\"unknown\"}".to_owned();
        let entries = [
            entry(1, &other),
            entry(2, &windows),
            entry(3, &linux("")),
            entry(4, &unknown),
            entry(5, ""),
            entry(6, &linux(",\"variant\":\"v99\"")),
            entry(7, &linux(",\"os.features\":[\"x\"]")),
            entry(8, &linux(",\"os.version\":\"7\"")),
            entry(9, &linux(",\"features\":[\"sse4\"]")),
            entry(10, &linux("")).replacen('{', "{\"artifactType\":\"application/x\",", 1),
            entry(11, &linux("")).replace(KIND, "application/x"),
        ];
        let text = index(&entries);
        let wanted = read(&text).expect("one is for this machine");
        assert_eq!(*wanted.image(), Digest([3; 32]));
        assert_eq!(wanted.named, Digest::of(text.as_bytes()));
        // Said twice it is the same one.
        let twice = index(&[entry(3, &linux("")), entry(3, &linux(""))]);
        assert_eq!(*read(&twice).expect("one").image(), Digest([3; 32]));
        let first = if architecture() == "arm64" { "v8" } else { "v1" };
        let first = index(&[entry(3, &linux(&format!(",\"variant\":\"{first}\"")))]);
        let expected = matches!(architecture(), "amd64" | "arm64");
        assert_eq!(read(&first).is_ok(), expected);
    }

    #[test]
    fn an_index_that_leaves_open_which_image_is_refused_with_what_to_name() {
        let two = index(&[entry(1, &linux("")), entry(2, &linux(""))]);
        refused(&two, &Digest([2; 32]).to_string());
        refused(&two, "several images");
        refused(&index(&[]), "no image for linux/");
        refused(
            &index(&[entry(1, "")]),
            &format!("{} for who knows", Digest([1; 32])),
        );
        let other = "{\"os\":\"linux\",\"architecture\":\"s390x\",\"variant\":\"v\\n\"}";
        refused(&index(&[entry(1, other)]), "(linux/s390x/v?)");
        let nested = entry(1, &linux("")).replace(KIND, INDEXES[1]);
        refused(&index(&[entry(2, &linux("")), nested]), "index of other indexes");
        let many: Vec<_> = (0..=MOST).map(|_| entry(1, &linux(""))).collect();
        refused(&index(&many), "too many");
    }

    #[test]
    fn bytes_of_another_digest_too_many_or_of_two_kinds_are_refused() {
        let good = index(&[entry(1, &linux(""))]);
        let other = Wanted::read(&Digest::of(b"another"), good.as_bytes()).expect_err("another");
        assert!(matches!(other, RootfsError::Mismatch { .. }), "{other}");
        let long = good.clone() + &" ".repeat(DOCUMENT);
        assert!(matches!(read(&long), Err(RootfsError::TooLarge(_))));
        refused(&good.replacen('{', "{\"layers\":[],", 1), "not only one");
        refused(&good.replacen('{', "{\"config\":{},", 1), "not only one");
        refused(&good.replace(INDEXES[0], KIND), "neither");
        refused(
            &good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
            "neither",
        );
        let manifest =
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{KIND}\",\"config\":{{}},\"layers\":[]}}");
        let read_manifest = read(&manifest).expect("a manifest");
        assert_eq!(*read_manifest.image(), Digest::of(manifest.as_bytes()));
        refused(&manifest.replace(KIND, INDEXES[0]), "neither");
        refused("{\"schemaVersion\":2}", "neither");
        refused("[]", "cannot be read");
    }
}
