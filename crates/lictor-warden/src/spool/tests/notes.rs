//! Words about a job's way out between its output: they have a place in the log, and change nothing else.

use super::*;

/// Amounts of output: (keep, pieces, size of each).
const AMOUNTS: [(u64, usize, usize); 5] = [
    (1 << 20, 5, 100),
    (1 << 20, 400, 1 << 16),
    (100_000, 40_000, 17),
    (1 << 20, 1000, 10_007),
    (0, 100, 1000),
];
/// No more than there may be bytes of: see `egress::SHOWN`.
const NOTES: usize = 1000;

/// The same output, with words in between.
fn with_notes(keep: u64, n: usize, size: usize) -> Bench {
    let mut b = bench(keep, Overflow::Drop);
    let every = n.div_ceil(NOTES);
    for i in 0..n {
        if i % every == 0 {
            b.writer.note(Timestamp::from_millis(1), &[b'x'; 200]);
        }
        let kind = if i % 3 == 2 {
            FrameKind::Stderr
        } else {
            FrameKind::Stdout
        };
        let bytes: Vec<u8> = (0..size).map(|k| (i * 31 + k * 7) as u8).collect();
        b.write(kind, &bytes);
    }
    b
}

#[test]
fn they_change_neither_digests_nor_what_is_kept_of_the_output() {
    for (keep, n, size) in AMOUNTS {
        let mut plain = bench(keep, Overflow::Drop);
        plain.write_many(n, size);
        let (plain, _) = plain.end();
        let (noted, _) = with_notes(keep, n, size).end();
        assert_eq!(
            (noted.stdout, noted.stderr),
            (plain.stdout, plain.stderr),
            "{keep} {n} {size}"
        );
        assert!(noted.log.end > plain.log.end);
    }
}

#[test]
fn a_killed_writer_leaves_them_as_an_end_gives_them() {
    for (keep, n, size) in AMOUNTS {
        let (ended, _reader) = with_notes(keep, n, size).end();
        let killed = with_notes(keep, n, size);
        let recovered = recover(&killed.paths).expect("recovers");
        assert_eq!(recovered, ended, "{keep} {n} {size}");
    }
}

#[test]
fn a_reader_gets_them_in_their_place() {
    let mut b = bench(1 << 20, Overflow::Drop);
    b.writer.note(Timestamp::from_millis(1), b"first");
    b.write(FrameKind::Stdout, b"abc");
    b.write(FrameKind::Stderr, b"de");
    b.writer.note(Timestamp::from_millis(2), b"second");
    let (_, bytes) = b.spool.read(0, 1 << 20).expect("reads");
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().expect("frames") {
        frames.push((frame.kind, frame.at, frame.payload.to_vec()));
    }
    let frame = |kind, at, payload: &[u8]| (kind, at, payload.to_vec());
    assert_eq!(
        frames,
        [
            frame(FrameKind::Egress, 0, b"first"),
            frame(FrameKind::Stdout, 0, b"abc"),
            frame(FrameKind::Stderr, 0, b"de"),
            frame(FrameKind::Egress, 5, b"second"),
        ]
    );
}
