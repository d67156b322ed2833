//! What other readers would read differently, what older tools write, and a disk that is full.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::process::Command;

use lictor_proto::Code;

use crate::archives::{Archive, Bench};

/// A pax record.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length = format!("{length}{rest}").len();
    }
    format!("{length}{rest}")
}

#[test]
fn names_and_sizes_that_are_told_twice_are_refused() {
    let bench = Bench::new();
    let pax = |text: &str| Archive::default().member(b'x', "x", "", 0o644, text.as_bytes());
    bench
        .add(&pax(&record("path", "once")).file("ignored", "").end())
        .expect("a name told once");
    let bench = Bench::new();
    let twice = pax(&format!("{}{}", record("path", "one"), record("path", "two")));
    bench.refuses(
        &twice.file("ignored", "").end(),
        Code::RootfsInvalid,
        "told twice",
    );
    let both = pax(&record("path", "one")).member(b'L', "x", "", 0o644, b"two\0");
    bench.refuses(&both.file("ignored", "").end(), Code::RootfsInvalid, "told twice");
    let sizes = pax(&format!("{}{}", record("size", "3"), record("size", "4")));
    bench.refuses(&sizes.file("f", "abc").end(), Code::RootfsInvalid, "told twice");
}

#[test]
fn what_comes_after_the_end_is_refused_and_empty_blocks_are_not() {
    let bench = Bench::new();
    let mut archive = Archive::default().file("seen", "").end();
    archive.resize(archive.len() + 20 * 512, 0);
    bench.add(&archive).expect("padded as tar does it");
    archive.extend(Archive::default().file("hidden", "").end());
    let other = Bench::new();
    other.refuses(&archive, Code::RootfsInvalid, "after its end");
}

#[test]
fn a_size_that_only_the_extension_tells_is_taken_from_there() {
    let bench = Bench::new();
    // As some writers do it for what the header has no room for; here for three bytes.
    let mut bytes = Archive::default()
        .member(b'x', "x", "", 0o644, record("size", "3").as_bytes())
        .file("large", "")
        .cut();
    bytes.extend(b"abc");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(Archive::default().file("next", "n").end());
    let meta = bench.add(&bytes).expect("added");
    let tree = bench.tree(&meta.digest);
    assert_eq!(fs::read(tree.join("large")).expect("there"), b"abc");
    assert_eq!(fs::read(tree.join("next")).expect("there"), b"n");
}

#[test]
fn an_image_as_older_tools_save_it_is_no_root() {
    let bench = Bench::new();
    let saved = Archive::default().file("abc/layer.tar", "").file(
        "manifest.json",
        "[{\"Config\":\"x.json\",\"Layers\":[\"abc/layer.tar\"]}]",
    );
    bench.refuses(&saved.end(), Code::RootfsInvalid, "oci-archive");
    let own = Archive::default().file("manifest.json", "{\"name\":\"an extension\"}");
    bench.add(&own.end()).expect("a file of that name is a file");
}

const INSIDE: &str = "LICTOR_TEST_SMALL_DISK";

/// On a disk of a megabyte, in mounts of its own.
#[test]
fn a_disk_that_is_full_is_told_and_nothing_is_left_on_it() {
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("this test");
        let name = "readers::a_disk_that_is_full_is_told_and_nothing_is_left_on_it";
        let ran = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(own)
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .expect("unshare");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{said}");
        return;
    }
    let bench = Bench::new();
    let dir = bench.store().dir().to_owned();
    fs::create_dir(&dir).expect("made");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=0711", "tmpfs"])
        .arg(&dir)
        .status();
    assert!(mounted.expect("mount").success());
    let fits = Archive::default().file("small", &"s".repeat(100_000)).end();
    let kept = bench.add(&fits).expect("there is room for it");
    let large = Archive::default().file("large", &"l".repeat(2_000_000)).end();
    let error = bench.add(&large).expect_err("there is none for this");
    assert_eq!(error.code(), Code::RootfsUnusable, "{error}");
    let why = std::error::Error::source(&error).expect("the system's reason");
    assert!(why.to_string().contains("No space left"), "{why}");
    let left: Vec<_> = fs::read_dir(&dir).expect("a store").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    bench.store().hold(&kept.digest).expect("what was there is there");
    let many = (0..400).fold(Archive::default(), |a, n| a.file(&format!("f{n}"), "x"));
    bench.add(&many.end()).expect_err("each file takes a page");
    let left: Vec<_> = fs::read_dir(&dir).expect("a store").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let unmounted = Command::new("umount").arg("-l").arg(&dir).status();
    assert!(unmounted.expect("umount").success());
}
