//! OCI images, as directories of the image layout and as archives of one.

use std::fs;
use std::path::PathBuf;

use lictor_proto::{Code, Digest};
use lictor_rootfs::Form;

use crate::archives::{Archive, Bench, gzip, zstd};

/// An image under construction: blobs, and what its index says.
#[derive(Default)]
struct Image {
    blobs: Vec<Vec<u8>>,
    manifests: Vec<String>,
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> String {
        let descriptor = describe(kind, &bytes);
        self.blobs.push(bytes);
        descriptor
    }

    /// One manifest of these layers, each the tar archive and what of it is stored.
    fn manifest(mut self, architecture: &str, layers: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let contents: Vec<_> = layers
            .iter()
            .map(|(tar, _)| format!("{:?}", Digest::of(tar).to_string()))
            .collect();
        let contents = contents.join(",");
        let config = format!(
            "{{\"os\":\"linux\",\"architecture\":\"{architecture}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{contents}]}}}}"
        );
        let config = self.blob("config.v1+json", config.into_bytes());
        let layers = layers
            .into_iter()
            .map(|(_, stored)| self.blob("layer.v1.tar+gzip", stored));
        let layers = layers.collect::<Vec<_>>().join(",");
        let manifest = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layers}]}}");
        let described = self.blob("manifest.v1+json", manifest.into_bytes());
        let platform = format!(",\"platform\":{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}}}");
        self.manifests
            .push(described[..described.len() - 1].to_owned() + &platform);
        self
    }

    fn index(&self) -> Vec<u8> {
        format!(
            "{{\"schemaVersion\":2,\"manifests\":[{}]}}",
            self.manifests.join(",")
        )
        .into_bytes()
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let blobs = self.blobs.iter().map(|b| (name(b), b.clone()));
        let layout = b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec();
        let own = [("index.json".into(), self.index()), ("oci-layout".into(), layout)];
        blobs.chain(own).collect()
    }

    fn archive(&self) -> Vec<u8> {
        let begin = Archive::default().directory("blobs/").directory("blobs/sha256/");
        let files = self.files();
        let members = files
            .iter()
            .fold(begin, |a, (name, bytes)| a.member(b'0', name, "", 0o644, bytes));
        members.end()
    }

    fn layout(&self, bench: &Bench) -> PathBuf {
        let dir = bench.node.path().join("layout");
        fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
        for (name, bytes) in self.files() {
            fs::write(dir.join(name), bytes).expect("written");
        }
        dir
    }

    /// The same behind an index of its own, as builders of several images write it; and what that is called.
    fn within_an_index(mut self) -> (Self, Digest) {
        let index = self.index();
        let digest = Digest::of(&index);
        self.manifests = vec![self.blob("index.v1+json", index)];
        (self, digest)
    }

    /// The digest of the last manifest.
    fn digest(&self) -> Digest {
        Digest::of(self.blobs.last().expect("a manifest"))
    }
}

fn name(bytes: &[u8]) -> String {
    format!("blobs/{}", Digest::of(bytes).to_string().replace(':', "/"))
}

fn describe(kind: &str, bytes: &[u8]) -> String {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    format!("{{\"mediaType\":\"application/vnd.oci.image.{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}")
}

fn layer(archive: Archive) -> (Vec<u8>, Vec<u8>) {
    let tar = archive.end();
    let stored = gzip(&tar);
    (tar, stored)
}

fn layered() -> Image {
    let base = Archive::default()
        .directory("keep/")
        .file("keep/old", "old")
        .file("keep/gone", "gone")
        .directory("opaque/")
        .directory("opaque/sub/")
        .file("opaque/sub/old", "old")
        .file("opaque/old", "old")
        .file("becomes-directory", "x")
        .symlink("link", "keep")
        .file("shared", "one");
    let next = Archive::default()
        .file("keep/.wh.gone", "")
        .file("opaque/sub/new", "new")
        .file("opaque/.wh..wh..opq", "")
        .directory("becomes-directory/")
        .file("becomes-directory/file", "x")
        .file("link/through", "through")
        .hard_link("again", "shared");
    let last = Archive::default()
        .file("again", "changed")
        .file(".wh.opaque", "")
        .directory("opaque/");
    let (tar, _) = layer(last);
    let stored = zstd(&tar);
    Image::default().manifest(architecture(), vec![layer(base), layer(next), (tar, stored)])
}

#[test]
fn layers_add_replace_and_take_away() {
    let bench = Bench::new();
    let image = layered();
    let meta = bench.add(&image.archive()).expect("added");
    assert_eq!((meta.digest, meta.form), (image.digest(), Form::Image));
    let tree = bench.tree(&meta.digest);
    let text = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
    assert_eq!(text("keep/old"), "old");
    assert_eq!(text("keep/through"), "through");
    assert_eq!(text("becomes-directory/file"), "x");
    // What a later layer writes is not written into what an earlier one has under two names.
    assert_eq!(
        (text("again").as_str(), text("shared").as_str()),
        ("changed", "one")
    );
    for gone in ["keep/gone", "keep/.wh.gone", "opaque/old", "opaque/sub"] {
        assert!(fs::symlink_metadata(tree.join(gone)).is_err(), "{gone}");
    }
}

#[test]
fn a_directory_is_taken_away_whatever_the_layer_has_put_into_it_before() {
    for new_first in [true, false] {
        let base = Archive::default().file("d/old", "old").file("d/sub/old", "old");
        let next = Archive::default();
        let next = match new_first {
            true => next.file("d/new", "new").file(".wh.d", ""),
            false => next.file(".wh.d", "").file("d/new", "new"),
        };
        let bench = Bench::new();
        let image = Image::default().manifest(architecture(), vec![layer(base), layer(next)]);
        let tree = bench.tree(&bench.add(&image.archive()).expect("added").digest);
        let there = ["d/new", "d/old", "d/sub"].map(|p| tree.join(p).exists());
        assert_eq!(there, [true, false, false], "new first: {new_first}");
    }
}

#[test]
fn an_opaque_directory_has_nothing_of_earlier_layers() {
    let base = Archive::default()
        .file("d/sub/old", "old")
        .file("d/old", "old")
        .file("e", "x");
    let next = Archive::default()
        .file("d/sub/new", "new")
        .file("d/.wh..wh..opq", "")
        .file("d/after", "x");
    let bench = Bench::new();
    let image = Image::default().manifest(architecture(), vec![layer(base), layer(next)]);
    let meta = bench.add_path(&image.layout(&bench), None).expect("added");
    let tree = bench.tree(&meta.digest);
    let mut left: Vec<_> = ["d/sub/old", "d/old", "d/sub/new", "d/after", "e"]
        .into_iter()
        .filter(|p| tree.join(p).exists())
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["d/after", "d/sub/new", "e"]);
}

#[test]
fn every_part_is_what_its_digest_says() {
    let image = layered();
    for n in 0..image.blobs.len() {
        let bench = Bench::new();
        let layout = image.layout(&bench);
        let path = layout.join(name(&image.blobs[n]));
        let mut changed = image.blobs[n].clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(path, changed).expect("written");
        let error = bench.add_path(&layout, None).expect_err("refused");
        assert!(
            matches!(error.code(), Code::RootfsMismatch | Code::RootfsInvalid),
            "{n}: {error}"
        );
        bench.is_empty();
    }
    // The right bytes, and the wrong content for the configuration.
    let (tar, stored) = layer(Archive::default().file("a", "a"));
    let other = [tar.clone(), vec![0; 512]].concat();
    let image = Image::default().manifest(architecture(), vec![(other, stored)]);
    Bench::new().refuses(&image.archive(), Code::RootfsMismatch, "a part of the image");
}

#[test]
fn the_image_for_this_machine_is_taken_and_two_are_a_question() {
    let one = |name: &str| vec![layer(Archive::default().file(name, "x"))];
    let image = Image::default()
        .manifest("s390x", one("other"))
        .manifest(architecture(), one("ours"));
    let bench = Bench::new();
    let meta = bench.add(&image.archive()).expect("added");
    assert!(bench.tree(&meta.digest).join("ours").is_file());
    let image = image.manifest(architecture(), one("also"));
    Bench::new().refuses(&image.archive(), Code::RootfsInvalid, "several images");
    let bench = Bench::new();
    let path = bench.write(&image.archive());
    let meta = bench.add_path(&path, Some(&image.digest())).expect("added");
    assert!(bench.tree(&meta.digest).join("also").is_file());
    let foreign = Image::default().manifest("s390x", one("other"));
    Bench::new().refuses(&foreign.archive(), Code::RootfsInvalid, "no image for linux");
    let bench = Bench::new();
    let path = bench.write(&foreign.archive());
    let error = bench
        .add_path(&path, Some(&foreign.digest()))
        .expect_err("refused");
    assert!(error.to_string().contains("not for this machine"), "{error}");
}

#[test]
fn an_index_that_is_expected_is_what_its_image_for_this_machine_is_called() {
    let one = |name: &str| vec![layer(Archive::default().file(name, "x"))];
    let image = Image::default()
        .manifest("s390x", one("other"))
        .manifest(architecture(), one("ours"));
    let manifest = image.digest();
    let (image, index) = image.within_an_index();
    let bench = Bench::new();
    let meta = bench
        .add_path(&image.layout(&bench), Some(&index))
        .expect("added");
    assert_eq!((meta.digest, meta.manifest), (index, Some(manifest)));
    assert!(bench.tree(&index).join("ours").is_file());
    // Whoever expects nothing gets the image by its own name.
    let meta = bench.add(&image.archive()).expect("added");
    assert_eq!((meta.digest, meta.manifest), (manifest, None));

    let bench = Bench::new();
    let archive = bench.write(&image.archive());
    let meta = bench.add_path(&archive, Some(&index)).expect("added");
    assert_eq!((meta.digest, meta.manifest), (index, Some(manifest)));

    let two = Image::default()
        .manifest(architecture(), one("ours"))
        .manifest(architecture(), one("also"));
    let (two, index) = two.within_an_index();
    let bench = Bench::new();
    let archive = bench.write(&two.archive());
    let refused = bench.add_path(&archive, Some(&index)).expect_err("two");
    assert!(refused.to_string().contains("several images"), "{refused}");
    bench.is_empty();
    // An index that is called what it is not.
    let bench = Bench::new();
    let layout = two.layout(&bench);
    let mut changed = two.blobs.last().expect("an index").clone();
    changed.push(b' ');
    fs::write(layout.join(name(two.blobs.last().expect("an index"))), changed).expect("written");
    let refused = bench.add_path(&layout, Some(&index)).expect_err("changed");
    assert_eq!(refused.code(), Code::RootfsMismatch, "{refused}");
    bench.is_empty();
}

#[test]
fn a_compressed_archive_of_an_image_is_not_taken_for_a_root() {
    Bench::new().refuses(&gzip(&layered().archive()), Code::RootfsInvalid, "OCI image");
    let bench = Bench::new();
    let error = bench.add_path(bench.node.path(), None).expect_err("refused");
    assert!(error.to_string().contains("no OCI image layout"), "{error}");
}
