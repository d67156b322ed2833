//! Files on their way, with everything that may be in theirs.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use lictor_proto::{Code, Digest};

use super::{Put, Temporary, temporary_name};
use crate::carry::CarryError;
use crate::linux::files::Closed;

fn put(to: &Path, content: &[u8]) -> Put {
    Put {
        to: to.to_str().expect("text").to_owned(),
        sha256: Digest::of(content),
        size: content.len() as u64,
        mode: 0o640,
        owner: None,
        group: None,
        replace: false,
        closed: Vec::new(),
    }
}

fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    // Whatever leads to the temporary directory is not what this is about.
    let real = dir.path().canonicalize().expect("a real path");
    (dir, real)
}

fn code(done: Result<(), CarryError>) -> Option<Code> {
    done.err().map(|e| e.code())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_there_whole_with_its_mode_and_nothing_else_is() {
    let (_dir, at) = place();
    let to = at.join("file");
    put(&to, b"content").carry_out(&b"content"[..]).expect("put");
    assert_eq!(fs::read(&to).expect("read"), b"content");
    assert_eq!(
        fs::metadata(&to).expect("there").permissions().mode() & 0o7777,
        0o640
    );
    assert_eq!(names(&at), ["file"]);
}

#[test]
fn one_that_is_there_stays_unless_it_is_to_be_replaced() {
    let (_dir, at) = place();
    let to = at.join("file");
    fs::write(&to, "old").expect("written");
    let new = put(&to, b"new");
    assert_eq!(code(new.carry_out(&b"new"[..])), Some(Code::DestinationExists));
    assert_eq!(fs::read(&to).expect("read"), b"old");
    let before = fs::metadata(&to).expect("there").ino();
    let new = Put { replace: true, ..new };
    new.carry_out(&b"new"[..]).expect("replaced");
    assert_eq!(fs::read(&to).expect("read"), b"new");
    assert_ne!(
        fs::metadata(&to).expect("there").ino(),
        before,
        "another file, at once"
    );
    assert_eq!(names(&at), ["file"]);
}

#[test]
fn other_bytes_leave_everything_as_it_was() {
    let (_dir, at) = place();
    let to = at.join("file");
    fs::write(&to, "old").expect("written");
    let new = Put {
        replace: true,
        ..put(&to, b"content")
    };
    for other in [&b"contenT"[..], b"conten", b"content and more", b""] {
        assert_eq!(
            code(new.carry_out(other)),
            Some(Code::ContentMismatch),
            "{other:?}"
        );
        assert_eq!(fs::read(&to).expect("read"), b"old");
        assert_eq!(names(&at), ["file"]);
    }
    new.carry_out(&b"content"[..]).expect("put");
}

#[test]
fn no_link_is_followed_and_nothing_special_is_replaced() {
    let (_dir, at) = place();
    fs::create_dir(at.join("real")).expect("made");
    symlink(at.join("real"), at.join("linked")).expect("made");
    symlink(at.join("real/target"), at.join("real/link")).expect("made");
    fs::write(at.join("real/plain"), "").expect("written");
    let fifo = at.join("real/fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("made");
    put(&at.join("real/file"), b"x")
        .carry_out(&b"x"[..])
        .expect("by its real path");
    for refused in [
        "linked/file2",
        "real/link",
        "real/fifo",
        "real",
        "missing/file",
        "real/plain/file",
    ] {
        let order = Put {
            replace: true,
            ..put(&at.join(refused), b"x")
        };
        assert_eq!(
            code(order.carry_out(&b"x"[..])),
            Some(Code::DestinationRefused),
            "{refused}"
        );
    }
    assert!(!at.join("real/target").exists() && !at.join("real/file2").exists());
}

#[test]
fn the_agents_own_directory_takes_no_file_however_deep() {
    let (_dir, at) = place();
    fs::create_dir_all(at.join("agent/spool")).expect("made");
    let closed = Closed::all(&[at.join("agent")]).expect("told");
    for inside in ["agent/file", "agent/spool/file"] {
        let open = put(&at.join(inside), b"x");
        open.carry_out(&b"x"[..]).expect("where nothing is closed");
        fs::remove_file(at.join(inside)).expect("removed");
        let order = Put {
            closed: closed.clone(),
            ..open
        };
        assert_eq!(
            code(order.carry_out(&b"x"[..])),
            Some(Code::DestinationRefused),
            "{inside}"
        );
    }
    assert_eq!(names(&at.join("agent/spool")).len(), 0);
}

#[test]
fn what_a_killed_process_left_is_removed_and_that_of_a_living_one_is_not() {
    let (_dir, at) = place();
    let to = at.join("file");
    let left = at.join(temporary_name("file"));
    fs::write(&left, "half").expect("written");
    put(&to, b"whole").carry_out(&b"whole"[..]).expect("put");
    assert_eq!(names(&at), ["file"]);
    let dir: OwnedFd = fs::File::open(&at).expect("opened").into();
    let mut living = Temporary::make(&dir, "file").expect("made");
    let other = living.name.clone();
    living.link(&other).expect("named");
    living.is_named = true;
    let order = Put {
        replace: true,
        ..put(&to, b"again")
    };
    assert_eq!(code(order.carry_out(&b"again"[..])), Some(Code::TransferFailed));
    assert_eq!(names(&at).len(), 2, "both are there");
    drop(living);
    order.carry_out(&b"again"[..]).expect("put");
    assert_eq!(names(&at), ["file"]);
}
