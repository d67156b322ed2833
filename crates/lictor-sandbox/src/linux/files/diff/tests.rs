//! What differs is told whole, by nothing that a job could have written.

#![expect(clippy::disallowed_methods, reason = "git makes what is compared")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use lictor_proto::Code;
use tempfile::TempDir;

use super::{Diff, quoted};
use crate::carry::CarryError;

fn git(at: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .arg("-C")
        .arg(at)
        .args(words)
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A clone with one commit, and the commit.
fn clone() -> (TempDir, String) {
    let place = tempfile::tempdir().expect("a directory");
    let at = place.path();
    git(at, &["init", "-q", "."]);
    fs::write(at.join("text"), "one\ntwo\n").expect("written");
    fs::write(at.join("gone"), "gone\n").expect("written");
    fs::write(at.join("crlf"), "a\r\nb\r\n").expect("written");
    fs::write(at.join(".gitignore"), "target/\n*.o\n").expect("written");
    fs::write(
        at.join(".gitattributes"),
        "* text=auto filter=evil diff=evil ident\n",
    )
    .expect("written");
    fs::create_dir(at.join("dir")).expect("made");
    fs::write(at.join("dir/inner"), "inner\n").expect("written");
    symlink("text", at.join("link")).expect("linked");
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "-m", "first"]);
    // As they are: what the attributes would have changed at a checkout is as in the commit.
    fs::write(at.join("crlf"), git_bytes(at, "HEAD:crlf")).expect("written");
    let commit = git(at, &["rev-parse", "HEAD"]);
    (place, commit)
}

fn git_bytes(at: &Path, what: &str) -> Vec<u8> {
    let output = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(["cat-file", "blob", what])
        .output();
    output.expect("git runs").stdout
}

fn diff(at: &Path, commit: &str) -> Result<Vec<u8>, CarryError> {
    with(at, commit, false, 1 << 20)
}

fn with(at: &Path, commit: &str, ignored: bool, max_bytes: u64) -> Result<Vec<u8>, CarryError> {
    let order = Diff {
        at: at.to_str().expect("UTF-8").to_owned(),
        against: commit.to_owned(),
        ignored,
        max_bytes,
    };
    let mut out = Vec::new();
    order.carry_out(&mut out).map(|()| out)
}

#[test]
fn a_patch_makes_of_the_commit_what_is_there_whatever_bytes_it_has() {
    let (place, commit) = clone();
    let at = place.path();
    assert_eq!(diff(at, &commit).expect("compared"), b"", "nothing has changed");
    let name = OsStr::from_bytes(b"not \xff utf-8\n\"\\");
    fs::write(at.join(name), [0, 1, 2, 255, 10, 0]).expect("written");
    fs::write(at.join("text"), "one\nthree\r\n").expect("written");
    fs::write(at.join(":(top)magic"), "literal\n").expect("written");
    fs::remove_file(at.join("gone")).expect("removed");
    fs::remove_dir_all(at.join("dir")).expect("removed");
    fs::write(at.join("dir"), "a file now\n").expect("written");
    fs::remove_file(at.join("link")).expect("removed");
    symlink("/etc/passwd", at.join("link")).expect("linked");
    fs::set_permissions(at.join("crlf"), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::create_dir(at.join("target")).expect("made");
    fs::write(at.join("target/built"), "left out\n").expect("written");
    let patch = diff(at, &commit).expect("compared");
    assert!(!patch.windows(8).any(|w| w == b"left out"), "what is ignored");

    let other = tempfile::tempdir().expect("a directory");
    git(
        other.path(),
        &[
            "clone",
            "-q",
            "--no-checkout",
            at.to_str().expect("UTF-8"),
            "copy",
        ],
    );
    let copy = other.path().join("copy");
    fs::write(
        copy.join(".git/info/attributes"),
        crate::linux::files::git::AS_THEY_ARE,
    )
    .expect("written");
    git(&copy, &["checkout", "-q", &commit]);
    fs::write(other.path().join("patch"), &patch).expect("written");
    git(&copy, &["apply", "--binary", "../patch"]);
    assert_eq!(fs::read(copy.join(name)).expect("there"), [0, 1, 2, 255, 10, 0]);
    assert_eq!(fs::read(copy.join("text")).expect("there"), b"one\nthree\r\n");
    assert_eq!(fs::read(copy.join("dir")).expect("there"), b"a file now\n");
    assert!(copy.join(":(top)magic").exists() && !copy.join("gone").exists());
    assert_eq!(
        fs::read_link(copy.join("link")).expect("a link"),
        Path::new("/etc/passwd")
    );
    let mode = copy.join("crlf").metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o100, 0o100);

    // Asked for, what is ignored is there too; and nothing lies about afterwards.
    let all = with(at, &commit, true, 1 << 20).expect("compared");
    assert!(all.windows(8).any(|w| w == b"left out"));
    let own = fs::read_dir(at.join(".git")).expect("readable").flatten();
    assert!(
        own.into_iter()
            .all(|e| !e.file_name().to_string_lossy().contains("lictor"))
    );
}

#[test]
fn nothing_that_a_job_wrote_into_its_clone_is_started_or_believed() {
    let (place, commit) = clone();
    let at = place.path();
    let trace = at.join("started");
    let program = at.join("evil");
    let text = format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", trace.display());
    fs::write(&program, text).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
    let evil = program.to_str().expect("UTF-8");
    for (key, value) in [
        ("core.fsmonitor", evil),
        ("diff.external", evil),
        ("diff.evil.command", evil),
        ("diff.evil.textconv", evil),
        ("filter.evil.clean", evil),
        ("filter.evil.smudge", evil),
        ("core.sshCommand", evil),
        ("core.pager", evil),
        ("core.hooksPath", at.to_str().expect("UTF-8")),
    ] {
        git(at, &["config", key, value]);
    }
    fs::write(at.join(".git/info/attributes"), "* filter=evil diff=evil\n").expect("written");
    fs::write(at.join(".git/info/exclude"), "*\n").expect("written");
    fs::write(at.join("text"), "changed\n").expect("written");
    fs::write(at.join("new"), "new\n").expect("written");
    // Another repository in it, with settings of its own.
    fs::create_dir(at.join("nested")).expect("made");
    git(&at.join("nested"), &["init", "-q", "."]);
    git(&at.join("nested"), &["config", "core.fsmonitor", evil]);
    fs::write(at.join("nested/file"), "nested\n").expect("written");
    // Without the control it is started.
    let _ = Command::new("git").arg("-C").arg(at).args(["diff"]).output();
    assert!(trace.exists(), "git would have started it");
    fs::remove_file(&trace).expect("removed");

    let patch = diff(at, &commit).expect("compared");
    assert!(
        !trace.exists(),
        "{}",
        fs::read_to_string(&trace).unwrap_or_default()
    );
    let patch = String::from_utf8_lossy(&patch);
    for shown in ["+changed", "+new", "+nested", "b/nested/file"] {
        assert!(patch.contains(shown), "{shown}: {patch}");
    }
}

#[test]
fn objects_that_are_not_what_their_ids_say_are_refused() {
    let (place, commit) = clone();
    let at = place.path();
    fs::write(at.join("text"), "hidden\n").expect("written");
    let patch = diff(at, &commit).expect("compared");
    assert!(String::from_utf8_lossy(&patch).contains("+hidden"));
    // A job puts the tree of its own choice in the place of the commit's.
    git(at, &["add", "-A"]);
    let forged = git(at, &["write-tree"]);
    let honest = git(at, &["rev-parse", &format!("{commit}^{{tree}}")]);
    let object = |id: &str| at.join(".git/objects").join(&id[..2]).join(&id[2..]);
    fs::remove_file(object(&honest)).expect("loose");
    fs::copy(object(&forged), object(&honest)).expect("copied");
    let error = diff(at, &commit).expect_err("another tree");
    assert!(
        matches!(error.code(), Code::ContentMismatch | Code::GitFailed),
        "{error}"
    );
    // Or an object that stands for another one, in git's eyes.
    let (place, commit) = clone();
    let at = place.path();
    fs::write(at.join("text"), "hidden\n").expect("written");
    git(at, &["commit", "-q", "-a", "-m", "mine"]);
    let mine = git(at, &["rev-parse", "HEAD"]);
    git(at, &["replace", &commit, &mine]);
    let patch = diff(at, &commit).expect("compared");
    assert!(String::from_utf8_lossy(&patch).contains("+hidden"));
}

#[test]
fn a_patch_that_is_too_long_is_none() {
    let (place, commit) = clone();
    let at = place.path();
    fs::write(at.join("new"), "x\n".repeat(10_000)).expect("written");
    let whole = diff(at, &commit).expect("compared");
    let exact = with(at, &commit, false, whole.len() as u64).expect("as long as it may be");
    assert_eq!(exact, whole);
    let error = with(at, &commit, false, whole.len() as u64 - 1).expect_err("too long");
    assert_eq!(error.code(), Code::SourceTooLarge);
    fs::remove_dir_all(at.join(".git")).expect("removed");
    assert_eq!(diff(at, &commit).expect_err("no clone").code(), Code::GitFailed);
}

#[test]
fn a_path_is_quoted_whatever_bytes_it_has() {
    assert_eq!(quoted(b"a b/c\"d\\e\n\xff"), "\"a b/c\\\"d\\\\e\\012\\377\"");
}
