//! Archives that mean harm. Each attempt has a place outside the tree that it would write to if it got there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use lictor_proto::Code;

use crate::archives::{Archive, Bench, gzip};

#[test]
fn names_that_lead_out_of_the_root_are_refused() {
    for name in ["../evil", "a/../../evil", "/etc/evil", "..", "a/.."] {
        Bench::new().refuses(
            &Archive::default().file(name, "x").end(),
            Code::RootfsInvalid,
            "root",
        );
    }
    for target in ["../../given.tar", "a/../../../given.tar", "nothing", "etc"] {
        let archive = Archive::default().directory("etc/").hard_link("link", target);
        Bench::new().refuses(&archive.end(), Code::RootfsInvalid, target);
    }
}

#[test]
fn links_lead_to_where_they_will_lead_inside() {
    let bench = Bench::new();
    let outside = bench.node.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret"), "the node's").expect("written");
    let outside = outside.to_str().expect("UTF-8");
    let archive = Archive::default()
        .symlink("out", outside)
        .file("out/evil", "x")
        .symlink("up", "../../../../../../../../..")
        .file("up/evil", "x")
        .symlink("file", &format!("{outside}/secret"))
        .file("file", "replaced");
    let meta = bench.add(&archive.end()).expect("added");
    let tree = bench.tree(&meta.digest);
    assert_eq!(fs::read_dir(outside).expect("there").count(), 1);
    assert_eq!(
        fs::read_to_string(format!("{outside}/secret")).expect("there"),
        "the node's"
    );
    assert!(tree.join("evil").is_file());
    assert!(tree.join(&outside[1..]).join("evil").is_file());
    assert!(fs::symlink_metadata(tree.join("file")).expect("there").is_file());

    // A hard link to a link is the link again, and never what it leads to.
    let archive = Archive::default()
        .symlink("link", &format!("{outside}/secret"))
        .hard_link("second", "link");
    let meta = bench.add(&archive.end()).expect("added");
    let second = fs::symlink_metadata(bench.tree(&meta.digest).join("second")).expect("there");
    assert!(second.is_symlink());
    assert_eq!(
        fs::metadata(format!("{outside}/secret")).expect("there").nlink(),
        1
    );
    let through = Archive::default()
        .symlink("dir", outside)
        .hard_link("stolen", "dir/secret");
    let error = bench.add(&through.end()).expect_err("refused");
    assert_eq!(error.code(), Code::RootfsInvalid);

    let circle = Archive::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "x");
    Bench::new().refuses(&circle.end(), Code::RootfsInvalid, "too many links");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_all_there() {
    let mut bench = Bench::new();
    bench.limits.bytes = 64 * 1024;
    bench.refuses(
        &Archive::default().file("large", &"x".repeat(70_000)).end(),
        Code::LimitExceeded,
        "65536 bytes",
    );
    bench.limits.entries = 5;
    let many = (0..6).fold(Archive::default(), |a, n| a.file(&format!("f{n}"), ""));
    bench.refuses(&many.end(), Code::LimitExceeded, "5 files");
    bench.limits = lictor_rootfs::Limits {
        depth: 8,
        name: 40,
        ..lictor_rootfs::Limits::default()
    };
    let deep = Archive::default().file("a/a/a/a/a/a/a/a/a/a", "x");
    bench.refuses(&deep.end(), Code::RootfsInvalid, "too deep");
    bench.refuses(
        &Archive::default().file(&"n".repeat(41), "").end(),
        Code::RootfsInvalid,
        "too long",
    );
    // Depth is that of the real place: links do not add up to more.
    let links = (0..7).fold(Archive::default().directory("a/"), |a, n| {
        let at = "a/".repeat(n + 1);
        a.directory(&format!("{at}a/"))
    });
    let links = links.symlink("l", "a/a/a/a/a/a/a").file("l/b/b/b", "x");
    bench.refuses(&links.end(), Code::RootfsInvalid, "too deep");
}

#[test]
fn bombs_are_refused() {
    let bench = Bench::new();
    let zeros = vec![0; 70 << 20];
    let bomb = gzip(&Archive::default().member(b'0', "zeros", "", 0o644, &zeros).end());
    assert!(bomb.len() < 100_000);
    bench.refuses(&bomb, Code::LimitExceeded, "bomb");
    // A name as long as the archive allows would be as much memory.
    let name = gzip(&Archive::default().member(b'L', "n", "", 0, &zeros).end());
    bench.refuses(&name, Code::RootfsInvalid, "too long");
    let told = gzip(&Archive::default().member(b'x', "n", "", 0, &zeros).end());
    bench.refuses(&told, Code::RootfsInvalid, "too long");
    let dots = (0..17).fold(Archive::default(), |a, _| a.member(b'L', "n", "", 0, b"x"));
    bench.refuses(&dots.end(), Code::RootfsInvalid, "told twice");
}

#[test]
fn damaged_archives_are_refused_wherever_they_break() {
    let whole = Archive::default()
        .file("a", "content")
        .directory("b/")
        .file("b/c", &"x".repeat(2000))
        .cut();
    let bench = Bench::new();
    for cut in [1, 100, 511, 513, 700, 1100, 2000, whole.len() - 1] {
        bench.refuses(&whole[..cut], Code::RootfsInvalid, "it ");
    }
    let mut changed = whole.clone();
    changed[3] ^= 1;
    bench.refuses(&changed, Code::RootfsInvalid, "checksum");
    let packed = gzip(&whole);
    bench.refuses(&packed[..packed.len() / 2], Code::RootfsInvalid, "it ");
    bench.refuses(b"no archive", Code::RootfsInvalid, "it ");
    bench.refuses(&[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff], Code::RootfsInvalid, "it ");
    let kinds = [(b'S', "sparse"), (b'Z', "kind")];
    for (kind, word) in kinds {
        bench.refuses(
            &Archive::default().member(kind, "m", "", 0o644, b"").end(),
            Code::RootfsInvalid,
            word,
        );
    }
    let sizes = Archive::default()
        .member(b'x', "p", "", 0, b"9 size=9\n")
        .file("two", "sizes");
    bench.refuses(&sizes.end(), Code::RootfsInvalid, "two sizes");
}

#[test]
fn members_that_two_readers_would_read_differently_are_refused() {
    let bench = Bench::new();
    for kind in [b'1', b'2', b'5', b'6'] {
        let hidden = Archive::default().file("hidden", "x").cut();
        let archive = Archive::default()
            .file("a", "")
            .member(kind, "m", "a", 0o755, &hidden);
        bench.refuses(&archive.end(), Code::RootfsInvalid, "can have none");
    }
    let global = Archive::default()
        .member(b'g', "g", "", 0, b"14 path=other\n")
        .file("own", "x");
    bench.refuses(&global.end(), Code::RootfsInvalid, "all members");
}

#[test]
fn members_that_make_nothing_are_counted_all_the_same() {
    let mut bench = Bench::new();
    bench.limits.entries = 20;
    let pipes = (0..21).fold(Archive::default(), |a, n| {
        a.member(b'6', &format!("p{n}"), "", 0, b"")
    });
    bench.refuses(&pipes.end(), Code::LimitExceeded, "20 files");
    let roots = (0..21).fold(Archive::default(), |a, _| a.directory("./"));
    bench.refuses(&roots.end(), Code::LimitExceeded, "20 files");
}

#[test]
fn nobody_adds_to_the_store_of_another_user() {
    let bench = Bench::new();
    let path = bench.write(&Archive::default().file("a", "x").end());
    let give = |path: &std::path::Path, to| std::os::unix::fs::chown(path, Some(to), Some(to)).is_ok();
    if !give(bench.node.path(), 65_534) {
        return; // only root can be somebody else than the owner here
    }
    let error = bench.add_path(&path, None).expect_err("refused");
    assert!(error.to_string().contains("cannot use"), "{error}");
    assert!(!bench.store().dir().exists(), "nothing of root's is left");
    fs::create_dir(bench.store().dir()).expect("made");
    assert!(give(bench.store().dir(), 65_534));
    bench
        .add_path(&path, None)
        .expect_err("refused where the store is there, too");
    bench.is_empty();
}
