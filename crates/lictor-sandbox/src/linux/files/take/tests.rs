//! What is brought from trees that have everything in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lictor_proto::files::{MAGIC, Record, Skip};
use lictor_proto::{Code, Digest, limits};

use super::Take;
use crate::carry::CarryError;
use crate::linux::files::Closed;

fn take(from: &Path, max_bytes: u64) -> Take {
    Take {
        from: from.to_str().expect("text").to_owned(),
        max_bytes,
        closed: Vec::new(),
    }
}

fn run(take: &Take) -> Result<Vec<u8>, CarryError> {
    let mut out = Vec::new();
    take.carry_out(&mut out).map(|()| out)
}

/// The records of a stream, and the bytes of its chunks.
fn read(stream: &[u8]) -> (Vec<Record>, Vec<u8>) {
    let mut rest = stream.strip_prefix(MAGIC).expect("the beginning");
    let (mut records, mut content) = (Vec::new(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (text, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        let record: Record = serde_json::from_slice(text).expect("a record");
        rest = after;
        if let Record::Chunk { size, sha256 } = &record {
            let (bytes, after) = rest.split_at(*size as usize);
            assert_eq!(Digest::of(bytes), *sha256);
            content.extend_from_slice(bytes);
            rest = after;
        }
        records.push(record);
    }
    (records, content)
}

fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let real = dir.path().canonicalize().expect("a real path");
    (dir, real)
}

#[test]
fn a_file_comes_in_chunks_with_their_digests_and_its_own() {
    let (_dir, at) = place();
    let content: Vec<u8> = (0..limits::CHUNK + 7).map(|n| (n % 251) as u8).collect();
    fs::write(at.join("file"), &content).expect("written");
    let (records, came) = read(&run(&take(&at.join("file"), 1 << 30)).expect("taken"));
    assert!(came == content);
    let sizes: Vec<u32> = records
        .iter()
        .filter_map(|r| match r {
            Record::Chunk { size, .. } => Some(*size),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [u32::try_from(limits::CHUNK).expect("small"), 7]);
    let size = content.len() as u64;
    let sha256 = Digest::of(&content);
    assert!(records.contains(&Record::FileEnd { size, sha256 }));
    assert_eq!(
        records.last(),
        Some(&Record::End {
            files: 1,
            bytes: size
        })
    );
}

#[test]
fn links_are_said_and_not_followed_and_nothing_special_is_read() {
    let (_dir, at) = place();
    let tree = at.join("tree");
    fs::create_dir_all(tree.join("inner")).expect("made");
    fs::create_dir(tree.join("agent")).expect("made");
    fs::write(tree.join("agent/key"), "secret").expect("written");
    fs::write(at.join("outside"), "outside").expect("written");
    fs::write(tree.join("inner/file"), "inside").expect("written");
    symlink("../outside", tree.join("link")).expect("made");
    symlink(&at, tree.join("up")).expect("made");
    let fifo = tree.join("fifo");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).expect("made");
    let order = Take {
        closed: Closed::all(&[tree.join("agent")]).expect("told"),
        ..take(&tree, 1 << 20)
    };
    let (records, came) = read(&run(&order).expect("taken"));
    assert_eq!(came, b"inside");
    let link = |path: &str, target: &str| Record::Link {
        path: path.to_owned(),
        target: target.to_owned(),
    };
    let skipped = |path: &str, why| Record::Skipped {
        path: path.to_owned(),
        why,
    };
    for wanted in [
        link("link", "../outside"),
        link("up", at.to_str().expect("text")),
        skipped("fifo", Skip::Special),
        skipped("agent", Skip::AgentsOwn),
        Record::End { files: 1, bytes: 6 },
    ] {
        assert!(records.contains(&wanted), "{wanted:?} in {records:?}");
    }
    for refused in ["up", "link", "fifo", "up/outside"] {
        let code = run(&take(&tree.join(refused), 10)).expect_err(refused).code();
        assert_eq!(code, Code::SourceRefused, "{refused}");
    }
    let own = Take {
        from: tree.join("agent/key").to_str().expect("text").to_owned(),
        ..order
    };
    assert_eq!(run(&own).expect_err("the agent's").code(), Code::SourceRefused);
    let missing = run(&take(&tree.join("nothing"), 10)).expect_err("nothing").code();
    assert_eq!(missing, Code::SourceMissing);
}

#[test]
fn the_cap_counts_all_files_and_a_file_without_an_end_is_cut_off_by_it() {
    let (_dir, at) = place();
    for name in ["a", "b"] {
        fs::write(at.join(name), [0; 600]).expect("written");
    }
    assert!(run(&take(&at, 1200)).is_ok());
    assert_eq!(
        run(&take(&at, 1199)).expect_err("too much").code(),
        Code::SourceTooLarge
    );
    // It says that it has no bytes, and has some.
    let (_, came) = read(&run(&take(Path::new("/proc/version"), 1 << 20)).expect("taken"));
    assert_eq!(came, fs::read("/proc/version").expect("read"));
}
