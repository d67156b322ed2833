//! Images as `skopeo copy ... dir:` leaves them, and what a later reader could see otherwise.

use std::fs;
use std::path::PathBuf;

use lictor_proto::{Code, Digest};
use lictor_rootfs::{Import, Limits, Store, Wanted};

use crate::archives::{Archive, Bench};

/// A directory with one image of one layer; `layer` is what is stored of it.
fn directory(bench: &Bench, layer: &[u8], change: impl Fn(String) -> String) -> (PathBuf, Digest) {
    let dir = bench.node.path().join("fetched");
    fs::create_dir_all(&dir).expect("made");
    let hex = |bytes: &[u8]| Digest::of(bytes).to_string().replace("sha256:", "");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"{architecture}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{}\"]}}}}",
        Digest::of(layer)
    );
    let described = |kind: &str, bytes: &[u8]| {
        format!(
            "{{\"mediaType\":\"application/vnd.docker.{kind}\",\"digest\":\"{}\",\"size\":{}}}",
            Digest::of(bytes),
            bytes.len()
        )
    };
    let manifest = change(format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"config\":{},\"layers\":[{}]}}",
        described("container.image.v1+json", config.as_bytes()),
        described("image.rootfs.diff.tar", layer),
    ));
    fs::write(dir.join("version"), "Directory Transport Version: 1.1\n").expect("written");
    fs::write(dir.join(hex(config.as_bytes())), &config).expect("written");
    fs::write(dir.join(hex(layer)), layer).expect("written");
    fs::write(dir.join("manifest.json"), &manifest).expect("written");
    (dir, Digest::of(manifest.as_bytes()))
}

fn layer() -> Vec<u8> {
    Archive::default()
        .member(b'0', "file", "", 0o644, b"fetched")
        .end()
}

fn import(store: &Store) -> Import<'_> {
    Import {
        store,
        limits: Limits::default(),
        sync: |_| Ok(()),
    }
}

#[test]
fn a_fetched_image_is_called_by_its_manifest_as_the_registry_has_it() {
    let bench = Bench::new();
    let (dir, digest) = directory(&bench, &layer(), |m| m);
    let other = Digest::of(b"another");
    let refused = bench.add_path(&dir, Some(&other)).expect_err("another one");
    assert_eq!(refused.code(), Code::RootfsMismatch);
    assert!(refused.to_string().contains(&digest.to_string()), "{refused}");
    let store = bench.store();
    let import = import(&store);
    let manifest = fs::read(dir.join("manifest.json")).expect("there");
    let wanted = Wanted::read(&digest, &manifest).expect("a manifest");
    let meta = import
        .add_fetched(&dir, &wanted, "registry.example.com/team/name")
        .expect("added");
    assert_eq!(
        (meta.digest, meta.manifest, meta.source.as_str()),
        (digest, None, "registry.example.com/team/name")
    );
    assert_eq!(
        fs::read(bench.tree(&digest).join("file")).expect("there"),
        b"fetched"
    );
}

#[test]
#[allow(clippy::disallowed_methods)]
fn parts_that_are_not_what_they_are_called_or_no_files_are_refused() {
    let bench = Bench::new();
    let plain = layer();
    let hex = Digest::of(&plain).to_string().replace("sha256:", "");
    let (dir, digest) = directory(&bench, &plain, |m| m);
    let blob = dir.join(hex);
    let refused = || {
        bench
            .add_path(&dir, Some(&digest))
            .expect_err("refused")
            .to_string()
    };
    let mut changed = plain.clone();
    changed[600] ^= 1;
    fs::write(&blob, &changed).expect("written");
    assert!(refused().contains(&Digest::of(&plain).to_string()) || refused().contains("checksum"));
    fs::remove_file(&blob).expect("removed");
    let elsewhere = bench.node.path().join("elsewhere");
    fs::write(&elsewhere, &plain).expect("written");
    std::os::unix::fs::symlink(&elsewhere, &blob).expect("a link");
    assert!(refused().contains("is no file"), "{}", refused());
    fs::remove_file(&blob).expect("removed");
    let pipe = std::process::Command::new("mkfifo").arg(&blob).status();
    assert!(pipe.expect("mkfifo").success());
    assert!(refused().contains("is no file"), "{}", refused());
    fs::remove_file(&blob).expect("removed");
    assert!(refused().contains("has no blobs/"), "{}", refused());
    fs::write(&blob, &plain).expect("written");
    bench.add_path(&dir, Some(&digest)).expect("added");
}

#[test]
fn a_manifest_of_two_kinds_or_of_another_than_it_is_called_is_refused() {
    let bench = Bench::new();
    let (dir, _) = directory(&bench, &layer(), |m| {
        m.replacen("\"schemaVersion\"", "\"manifests\":[],\"schemaVersion\"", 1)
    });
    let refused = bench.add_path(&dir, None).expect_err("two kinds");
    assert!(refused.to_string().contains("two kinds"), "{refused}");
    let (dir, _) = directory(&bench, &layer(), |m| {
        m.replace("distribution.manifest.v2", "distribution.manifest.list.v2")
    });
    let refused = bench.add_path(&dir, None).expect_err("a list");
    assert!(refused.to_string().contains("not known"), "{refused}");
}

/// An index of one image for this machine, which it says is of this digest and length, and one for another.
fn index(digest: &Digest, size: usize) -> Vec<u8> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let entry = |architecture: &str, digest: &Digest| {
        format!(
            "{{\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"digest\":\"{digest}\",\"size\":{size},\
             \"platform\":{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}}}"
        )
    };
    let (ours, other) = (entry(architecture, digest), entry("s390x", &Digest::of(b"other")));
    format!("{{\"schemaVersion\":2,\"manifests\":[{other},{ours}]}}").into_bytes()
}

#[test]
fn a_fetched_image_of_an_index_is_called_by_that_and_knows_its_manifest() {
    let bench = Bench::new();
    let (dir, manifest) = directory(&bench, &layer(), |m| m);
    let size = fs::metadata(dir.join("manifest.json")).expect("there").len();
    let size = usize::try_from(size).expect("a length");
    let store = bench.store();
    let import = import(&store);
    let wanted = |manifest: &Digest, size: usize| {
        let bytes = index(manifest, size);
        Wanted::read(&Digest::of(&bytes), &bytes).expect("an index")
    };
    // Another manifest than the index names, and one of another length.
    for (lie, code) in [
        (wanted(&Digest::of(b"another"), size), Code::RootfsMismatch),
        (wanted(&manifest, size + 1), Code::RootfsMismatch),
    ] {
        let refused = import.add_fetched(&dir, &lie, "somewhere").expect_err("a lie");
        assert_eq!(refused.code(), code, "{refused}");
        bench.is_empty();
    }
    let wanted = wanted(&manifest, size);
    assert_eq!(*wanted.image(), manifest);
    let meta = import.add_fetched(&dir, &wanted, "somewhere").expect("added");
    assert_eq!((meta.manifest, store.has(&manifest)), (Some(manifest), false));
    let held = store.hold(&meta.digest).expect("held");
    assert_eq!(held.manifest(), Some(manifest));
    assert_eq!(fs::read(held.tree().join("file")).expect("there"), b"fetched");
}

#[test]
fn a_place_for_something_fetched_is_gone_with_whoever_made_it() {
    let bench = Bench::new();
    let store = bench.store();
    let import = import(&store);
    let place = import.place().expect("made");
    fs::write(place.dir().join("piece"), "half").expect("written");
    let dir = place.dir();
    drop(place);
    assert!(!dir.exists());
    bench.is_empty();
}
