//! Plain tarballs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use lictor_proto::{Code, Digest, Timestamp};
use lictor_rootfs::{Bounds, Form};

use crate::archives::{Archive, Bench, gzip, zstd};

fn small() -> Archive {
    let script = b"#!/bin/sh\necho hello\n";
    Archive::default()
        .directory("./")
        .directory("bin/")
        .member(b'0', "bin/hello", "", 0o755, script)
        .symlink("bin/hi", "hello")
        .hard_link("bin/again", "bin/hello")
        .file("etc/motd", "welcome\n")
}

#[test]
fn a_tarball_is_called_by_its_own_digest_however_it_is_compressed() {
    let plain = small().end();
    for bytes in [
        plain.clone(),
        gzip(&plain),
        zstd(&plain),
        [zstd(&plain), zstd(b"")].concat(),
    ] {
        let bench = Bench::new();
        let meta = bench.add(&bytes).expect("added");
        assert_eq!((meta.digest, meta.form), (Digest::of(&bytes), Form::Tarball));
        assert_eq!(meta.source, "given.tar");
        let tree = bench.tree(&meta.digest);
        assert!(
            fs::read_to_string(tree.join("bin/again"))
                .expect("there")
                .contains("echo hello")
        );
        assert_eq!(
            fs::read_link(tree.join("bin/hi")).expect("a link").to_str(),
            Some("hello")
        );
        assert_eq!(
            fs::read_to_string(tree.join("etc/motd")).expect("there"),
            "welcome\n"
        );
        for made in ["proc", "dev", "tmp", "workspace", "etc/passwd", "etc/hosts"] {
            assert!(tree.join(made).exists(), "{made}");
        }
        let modified = fs::metadata(tree.join("bin/hello"))
            .expect("there")
            .modified()
            .expect("a time");
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        assert_eq!(since.as_secs(), 0o14000000000);
    }
}

#[test]
fn what_is_expected_is_what_is_added_or_nothing_is() {
    let bench = Bench::new();
    let path = bench.write(&small().end());
    let other = Digest::of(b"another");
    let error = bench.add_path(&path, Some(&other)).expect_err("refused");
    assert_eq!(error.code(), Code::RootfsMismatch);
    bench.is_empty();
    let own = Digest::of(&fs::read(&path).expect("there"));
    assert_eq!(bench.add_path(&path, Some(&own)).expect("added").digest, own);
    // Again is no error, and is still one, which counts as used.
    let lock = bench
        .store()
        .dir()
        .join(own.to_string().replace(':', "-"))
        .join("lock");
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    fs::File::open(lock)
        .expect("there")
        .set_modified(long_ago)
        .expect("set");
    bench.add_path(&path, Some(&own)).expect("added");
    let bounds = Bounds {
        bytes: u64::MAX,
        unused: Duration::from_secs(100_000),
    };
    assert_eq!(
        bench.store().prune(&bounds, Timestamp::now()).expect("pruned"),
        []
    );
    assert_eq!(bench.store().list().expect("a list").len(), 1);
}

#[test]
fn rights_are_for_reading_and_ids_and_devices_are_left_behind() {
    let bench = Bench::new();
    let archive = Archive::default()
        .member(b'5', "open/", "", 0o1777, b"")
        .member(b'5', "closed/", "", 0o000, b"")
        .member(b'0', "su", "", 0o6755, b"x")
        .member(b'0', "all", "", 0o666, b"x")
        .member(b'0', "secret", "", 0o600, b"x")
        .member(b'3', "dev/null", "", 0o666, b"")
        .member(b'4', "dev/sda", "", 0o666, b"")
        .member(b'6', "pipe", "", 0o666, b"");
    let meta = bench.add(&archive.end()).expect("added");
    assert_eq!((meta.devices_left_out, meta.set_ids_dropped), (3, 1));
    let tree = bench.tree(&meta.digest);
    let mode = |name: &str| {
        let meta = fs::symlink_metadata(tree.join(name)).expect("there");
        meta.permissions().mode() & 0o7777
    };
    let modes = ["open", "closed", "su", "all", "secret"].map(mode);
    assert_eq!(modes, [0o755, 0o700, 0o755, 0o644, 0o600]);
    assert!(!tree.join("dev/null").exists() && !tree.join("pipe").exists());
}

#[test]
fn names_of_gnu_and_pax_are_read() {
    let bench = Bench::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let pax = |key: &str, value: &str| {
        let body = format!(" {key}={value}\n");
        let length = (body.len()..)
            .find(|n| n.to_string().len() + body.len() == *n)
            .expect("a length");
        format!("{length}{body}").into_bytes()
    };
    let archive = Archive::default()
        .member(b'L', "././@LongLink", "", 0, format!("{long}-gnu\0").as_bytes())
        .file("short", "gnu")
        .member(b'x', "pax", "", 0, &pax("path", &format!("{long}-pax")))
        .file("short", "pax")
        .member(b'K', "././@LongLink", "", 0, format!("{long}-gnu\0").as_bytes())
        .symlink("link", "short");
    let meta = bench.add(&archive.end()).expect("added");
    let tree = bench.tree(&meta.digest);
    for kind in ["gnu", "pax"] {
        let content = fs::read_to_string(tree.join(format!("{long}-{kind}"))).expect("there");
        assert_eq!(content, kind);
    }
    assert_eq!(fs::read_to_string(tree.join("link")).expect("there"), "gnu");
}

#[test]
fn what_a_sandbox_mounts_over_is_no_link() {
    let bench = Bench::new();
    let archive = Archive::default()
        .directory("etc/")
        .directory("real/")
        .file("real/passwd", "user:x:1000:1000::/:/bin/sh\n")
        .symlink("etc/passwd", "/real/passwd")
        .symlink("etc/hosts", "../../../../etc/hosts");
    let meta = bench.add(&archive.end()).expect("added");
    let tree = bench.tree(&meta.digest);
    let is_file = |name: &str| fs::symlink_metadata(tree.join(name)).expect("there").is_file();
    assert!(is_file("etc/passwd") && is_file("etc/hosts"));
    assert!(
        fs::read_to_string(tree.join("etc/passwd"))
            .expect("there")
            .starts_with("user")
    );
    // It leads to itself in the root, and never to the host's.
    assert_eq!(fs::read_to_string(tree.join("etc/hosts")).expect("there"), "");
    let linked = Archive::default().symlink("proc", "/tmp").end();
    Bench::new().refuses(&linked, Code::RootfsInvalid, "/proc is no directory");
}

#[test]
fn what_was_used_longest_ago_goes_first_and_what_is_used_stays() {
    let bench = Bench::new();
    let added: Vec<_> = ["a", "b", "c"]
        .map(|name| bench.add(&small().file(name, name).end()).expect("added"))
        .into_iter()
        .collect();
    let store = bench.store();
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    for (n, meta) in added.iter().enumerate() {
        let lock = store
            .dir()
            .join(meta.digest.to_string().replace(':', "-"))
            .join("lock");
        let at = long_ago + Duration::from_secs(n as u64);
        fs::File::open(lock)
            .expect("there")
            .set_modified(at)
            .expect("set");
    }
    let held = store.hold(&added[1].digest).expect("held");
    let room = Bounds {
        bytes: added[0].bytes * 2,
        unused: Duration::from_secs(100_000),
    };
    let gone = store.prune(&room, Timestamp::now()).expect("pruned");
    assert_eq!(gone, [added[0].digest]);
    let old = Bounds {
        bytes: u64::MAX,
        unused: Duration::from_secs(1),
    };
    let later = Timestamp::now().plus(Duration::from_secs(60));
    assert_eq!(store.prune(&old, later).expect("pruned"), [added[2].digest]);
    drop(held);
    assert_eq!(store.prune(&old, later).expect("pruned"), [added[1].digest]);
    bench.is_empty();
}
