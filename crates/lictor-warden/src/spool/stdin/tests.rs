//! The spool of inputs.

use std::io::Read as _;

use super::*;

fn piece(whole: &[u8], from: usize, to: usize) -> StdinPiece {
    StdinPiece {
        sha256: Digest::of(whole),
        at: from as u64,
        last: to == whole.len(),
        bytes: whole[from..to].to_vec(),
    }
}

fn wanted(whole: &[u8]) -> StdinBytes {
    StdinBytes {
        sha256: Digest::of(whole),
        size: whole.len() as u64,
    }
}

#[test]
fn gives_an_input_only_once_it_is_whole_and_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
    assert_eq!(
        code(spool.get(&wanted(b"hello")).map(|_| ())),
        Some(Code::StdinMissing)
    );
    assert_eq!(spool.take(&piece(b"hello", 0, 2)), Ok(()));
    assert_eq!(code(spool.take(&piece(b"hello", 3, 5))), Some(Code::BadRequest));
    assert_eq!(
        code(spool.get(&wanted(b"hello")).map(|_| ())),
        Some(Code::StdinMissing)
    );
    assert_eq!(spool.take(&piece(b"hello", 2, 5)), Ok(()));
    let mut text = String::new();
    spool
        .get(&wanted(b"hello"))
        .expect("is here")
        .read_to_string(&mut text)
        .expect("reads");
    assert_eq!(text, "hello");
    let mut other_size = wanted(b"hello");
    other_size.size = 4;
    assert_eq!(
        code(spool.get(&other_size).map(|_| ())),
        Some(Code::StdinMismatch)
    );
}

#[test]
fn two_senders_of_the_same_input_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    for (from, to) in [(0, 2), (0, 2), (2, 4), (0, 3), (2, 4), (4, 5), (4, 5)] {
        assert_eq!(spool.take(&piece(b"hello", from, to)), Ok(()), "{from}..{to}");
    }
    let mut text = String::new();
    let mut file = spool.get(&wanted(b"hello")).expect("is here");
    file.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "hello");
}

#[test]
fn whole_inputs_make_room_oldest_first_and_unfinished_ones_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    let inputs: Vec<String> = (0..=COUNT).map(|i| format!("input {i}")).collect();
    assert_eq!(spool.take(&piece(b"unfinished", 0, 2)), Ok(()));
    for input in &inputs {
        let bytes = input.as_bytes();
        assert_eq!(spool.take(&piece(bytes, 0, bytes.len())), Ok(()));
    }
    let mut here = |input: &str| spool.get(&wanted(input.as_bytes())).is_ok();
    assert!(!here(&inputs[0]) && !here(&inputs[1]), "the oldest made room");
    assert!(here(&inputs[2]) && here(&inputs[COUNT]));
    assert_eq!(spool.take(&piece(b"unfinished", 2, 10)), Ok(()));
}

#[test]
fn inputs_that_are_never_finished_fill_the_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    for i in 0..COUNT {
        assert_eq!(spool.take(&piece(format!("input {i}").as_bytes(), 0, 2)), Ok(()));
    }
    let refused = spool.take(&piece(b"one more", 0, 2));
    assert_eq!(refused.err().map(|r| r.code), Some(Code::LimitExceeded));
}

#[test]
fn a_larger_file_comes_only_for_a_job_that_waits_for_it_and_where_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    let whole = vec![7; 16];
    let large = StdinBytes {
        sha256: Digest::of(&whole),
        size: limits::STDIN + 1,
    };
    let mut beyond = piece(&whole, 0, 16);
    beyond.at = limits::STDIN - 15;
    let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
    assert_eq!(code(spool.take(&beyond)), Some(Code::LimitExceeded));
    assert_eq!(code(spool.expect(&large, || large.size)), Some(Code::DiskFull));
    assert_eq!(spool.expect(&large, || u64::MAX), Ok(()));
    // It may come now, from its beginning.
    assert_eq!(code(spool.take(&beyond)), Some(Code::BadRequest));
    let mut over = beyond.clone();
    over.at += 1;
    assert_eq!(code(spool.take(&over)), Some(Code::LimitExceeded));
}

#[test]
fn large_files_that_no_job_waits_for_make_room_oldest_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    let large = |n: usize| StdinBytes {
        sha256: Digest::of(format!("file {n}").as_bytes()),
        size: limits::STDIN + 1,
    };
    let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
    for n in 0..LARGE {
        assert_eq!(spool.expect(&large(n), || u64::MAX), Ok(()));
        let bytes = format!("file {n}");
        assert_eq!(spool.take(&piece(bytes.as_bytes(), 0, bytes.len())), Ok(()));
    }
    let next = spool.expect(&large(LARGE), || u64::MAX);
    assert_eq!(code(next), Some(Code::LimitExceeded), "jobs wait for all of them");
    for n in [3, 1, 2] {
        spool.spent(&large(n).sha256);
    }
    assert_eq!(spool.expect(&large(LARGE), || u64::MAX), Ok(()));
    let here = |spool: &StdinSpool, n: usize| spool.have(&large(n).sha256) > 0;
    assert!(here(&spool, 0), "a job waits for it");
    assert!(!here(&spool, 1) && here(&spool, 2) && here(&spool, 3));
    // Room on the disk is made in the same way, and no more of it than is needed.
    let dir = spool.dir.clone();
    let files = || std::fs::read_dir(&dir).expect("lists").count() as u64;
    let free = || if files() < LARGE as u64 - 1 { u64::MAX } else { 0 };
    assert_eq!(spool.expect(&large(LARGE + 1), free), Ok(()));
    assert!(!here(&spool, 2) && here(&spool, 3));
    assert_eq!(
        code(spool.expect(&large(LARGE + 2), || 0)),
        Some(Code::DiskFull),
        "nothing is left that may go"
    );
    assert!(here(&spool, 0));
}

#[test]
fn refuses_bytes_that_are_not_what_was_signed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
    let mut changed = piece(b"hello", 0, 5);
    changed.bytes[0] = b'j';
    assert_eq!(
        spool.take(&changed).err().map(|r| r.code),
        Some(Code::StdinMismatch)
    );
    let mut long = piece(b"hello", 0, 5);
    long.at = limits::STDIN;
    assert_eq!(spool.take(&long).err().map(|r| r.code), Some(Code::LimitExceeded));
    assert_eq!(
        std::fs::read_dir(dir.path().join("stdin"))
            .expect("lists")
            .count(),
        0
    );
}

#[test]
fn what_an_earlier_run_has_left_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("stdin");
    let mut spool = StdinSpool::open(&at).expect("opens");
    assert_eq!(spool.take(&piece(b"hello", 0, 2)), Ok(()));
    assert_eq!(spool.take(&piece(b"other", 0, 5)), Ok(()));
    std::fs::write(at.join("nonsense"), "x").expect("written");
    std::fs::create_dir(at.join("sha256-x")).expect("made");
    drop(spool);
    let mut spool = StdinSpool::open(&at).expect("opens");
    assert_eq!(std::fs::read_dir(&at).expect("lists").count(), 2);
    let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
    assert_eq!(
        code(spool.get(&wanted(b"hello")).map(|_| ())),
        Some(Code::StdinMissing),
        "nothing is known of it yet"
    );
    let left = spool.left_of(&wanted(b"hello")).expect("was left");
    assert!(spool.left_of(&wanted(b"hello")).is_none(), "only once");
    assert_eq!(code(spool.take(&piece(b"hello", 0, 2))), Some(Code::StdinMissing));
    spool.take_over(&wanted(b"hello"), left.read().ok());
    assert_eq!(spool.have(&Digest::of(b"hello")), 2);
    assert_eq!(spool.take(&piece(b"hello", 2, 5)), Ok(()));
    let mut text = String::new();
    let mut file = spool.get(&wanted(b"hello")).expect("is here");
    file.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "hello");
    // What was whole is so again, once it was read.
    let left = spool.left_of(&wanted(b"other")).expect("was left");
    spool.take_over(&wanted(b"other"), left.read().ok());
    assert!(spool.get(&wanted(b"other")).is_ok());
}

#[test]
fn what_was_changed_meanwhile_begins_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("stdin");
    let mut spool = StdinSpool::open(&at).expect("opens");
    for (whole, upto) in [(b"hello", 2), (b"other", 5), (b"third", 5)] {
        assert_eq!(spool.take(&piece(whole, 0, upto)), Ok(()));
    }
    let file = |spool: &StdinSpool, whole: &[u8]| spool.path(&Digest::of(whole));
    std::fs::write(file(&spool, b"hello"), "je").expect("written");
    std::fs::write(file(&spool, b"other"), "OTHER").expect("written");
    std::fs::write(file(&spool, b"third"), "third and more").expect("written");
    drop(spool);
    let mut spool = StdinSpool::open(&at).expect("opens");
    let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
    for whole in [b"hello", b"other", b"third"] {
        if let Some(left) = spool.left_of(&wanted(whole)) {
            spool.take_over(&wanted(whole), left.read().ok());
        }
    }
    assert_eq!(spool.have(&Digest::of(b"other")), 0);
    assert_eq!(spool.have(&Digest::of(b"third")), 0);
    // Only the whole says that its beginning was another.
    assert_eq!(
        code(spool.take(&piece(b"hello", 2, 5))),
        Some(Code::StdinMismatch)
    );
    assert_eq!(spool.have(&Digest::of(b"hello")), 0);
    for whole in [b"hello", b"other", b"third"] {
        assert_eq!(spool.take(&piece(whole, 0, 5)), Ok(()));
        assert!(spool.get(&wanted(whole)).is_ok());
    }
}

#[test]
fn what_was_left_makes_room_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("stdin");
    let mut spool = StdinSpool::open(&at).expect("opens");
    for n in 0..LARGE + 2 {
        assert_eq!(spool.take(&piece(format!("file {n}").as_bytes(), 0, 2)), Ok(()));
    }
    drop(spool);
    let mut spool = StdinSpool::open(&at).expect("opens");
    let files = || std::fs::read_dir(&at).expect("lists").count();
    assert_eq!(files(), LARGE, "no more of them are kept");
    let large = StdinBytes {
        sha256: Digest::of(b"large"),
        size: limits::STDIN + 1,
    };
    let free = || if files() < LARGE - 1 { u64::MAX } else { 0 };
    assert_eq!(spool.expect(&large, free), Ok(()));
    assert_eq!(files(), LARGE - 2, "and no more go than have to");
}
