//! What is left of a log when its writer was killed, or when the disk did not take all of it.

use super::*;

/// Amounts of output: (keep, pieces, size of each).
const AMOUNTS: [(u64, usize, usize); 8] = [
    (1 << 20, 5, 100),
    (1 << 20, 10, 1000),
    (1 << 20, 16, 1 << 16),
    (1 << 20, 400, 1 << 16),
    (1 << 16, 300, 1 << 16),
    (100_000, 40_000, 17),
    (1 << 20, 1000, 10_007),
    (0, 100, 1000),
];

fn filled(keep: u64, n: usize, size: usize) -> Bench {
    let mut b = bench(keep, Overflow::Drop);
    b.write_many(n, size);
    b
}

#[test]
fn a_killed_writer_leaves_counts_hashes_and_kept_parts_as_an_end_gives_them() {
    for (keep, n, size) in AMOUNTS {
        let (ended, _reader) = filled(keep, n, size).end();
        let killed = filled(keep, n, size);
        let recovered = recover(&killed.paths).expect("recovers");
        assert_eq!(recovered, ended, "{keep} {n} {size}");
        let again = recover(&killed.paths).expect("recovers");
        assert_eq!(again, ended, "killed while it recovered: {keep} {n} {size}");
    }
}

#[test]
fn a_log_that_has_ended_is_there_until_the_journal_has_its_end() {
    for (keep, n, size) in AMOUNTS {
        let b = filled(keep, n, size);
        let ended = b.writer.end();
        assert_eq!(recover(&b.paths).expect("recovers"), ended, "{keep} {n} {size}");
        b.paths.tidy(&ended.log);
        assert!(!b.paths.tail.exists());
        assert_eq!(b.paths.log.exists(), ended.log.inline.is_empty() && keep > 0);
    }
}

#[test]
fn what_a_crash_has_left_is_cut_at_the_first_torn_frame() {
    let b = filled(1 << 20, 10, 1000);
    let bytes = std::fs::read(&b.paths.log).expect("the head is there while it runs");
    for cut in [0, 10, 24, 1024, 1500, bytes.len()] {
        std::fs::write(&b.paths.log, &bytes[..cut]).expect("writes");
        let ended = recover(&b.paths).expect("recovers");
        assert_eq!(ended.log.end as usize, cut / 1024 * 1024);
        let kept = ended.stdout.bytes as usize;
        assert_eq!(ended.stdout.sha256, Digest::of(&b.written[0][..kept]));
    }
}

#[test]
fn a_torn_frame_at_the_end_of_the_window_is_left_out_and_nothing_else() {
    // A window in its first use, and one whose slots have been used again.
    for n in [40, 400] {
        let b = filled(1 << 20, n, 1 << 16);
        let tail = std::fs::read(&b.paths.tail).expect("the window");
        let last = Header {
            kind: if (n - 1) % 3 == 2 {
                FrameKind::Stderr
            } else {
                FrameKind::Stdout
            },
            len: 1 << 16,
            time: Timestamp::from_millis(1),
            at: (b.written[usize::from((n - 1) % 3 == 2)].len() - (1 << 16)) as u64,
        };
        let at = tail
            .windows(HEADER)
            .position(|w| w == last.encode())
            .expect("the last frame");
        // Its header is what is written last.
        let mut torn = tail.clone();
        torn[at..at + HEADER].fill(0xaa);
        std::fs::write(&b.paths.tail, &torn).expect("writes");
        let ended = recover(&b.paths).expect("recovers");
        let total = ended.stdout.bytes + ended.stderr.bytes;
        assert_eq!(total, ((n - 1) << 16) as u64);
        for (summary, written) in [&ended.stdout, &ended.stderr].into_iter().zip(&b.written) {
            check_summary(summary, &written[..summary.bytes as usize]);
        }
    }
}

#[test]
fn a_disk_that_is_full_within_the_head_leaves_what_was_written_before_rightly_hashed() {
    let mut b = filled(1 << 20, 10, 10_000);
    b.spool.lock().head.refuse_writes();
    b.write_many(30, 10_000);
    // Checks counts, hashes and the kept ranges.
    let (ended, reader) = b.end();
    assert_eq!(ended.log.kept.len(), 1);
    assert_eq!(ended.log.kept[0].to, 10 * 10_024);
    let missing = reader.stored(&ended, 1 << 18);
    assert_eq!(missing[0] + missing[1], 300_000);
}

#[test]
fn a_tail_that_cannot_be_moved_costs_the_tail_and_not_the_head() {
    let b = filled(1 << 20, 100, 1 << 16);
    std::fs::write(&b.paths.tail, b"").expect("cuts the window");
    let (ended, reader) = b.end();
    assert_eq!(ended.log.kept.len(), 1);
    assert_eq!((ended.log.kept[0].stdout_at, ended.log.kept[0].from), (0, 0));
    let kept: u64 = [&ended.stdout, &ended.stderr]
        .iter()
        .flat_map(|s| &s.kept)
        .map(|r| r.to - r.from)
        .sum();
    assert_eq!(kept, 1 << 19);
    let missing = reader.stored(&ended, 1 << 18);
    assert_eq!(missing[0] + missing[1] + kept, 100 << 16);
}
