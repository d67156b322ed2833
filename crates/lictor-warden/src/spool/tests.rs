//! What a reader sees while a log is written, and what is kept of it.

use std::time::Duration;

use lictor_proto::doc::StreamSummary;
use lictor_proto::frame::FrameDecoder;
use lictor_proto::{Digest, Timestamp};

use super::*;

mod left;
mod notes;

struct Bench {
    dir: tempfile::TempDir,
    paths: Paths,
    spool: Arc<Spool>,
    writer: Writer,
    written: [Vec<u8>; 2],
}

fn bench(keep: u64, overflow: Overflow) -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let job = JobId::from_digest(&Digest::of(b"job"));
    let paths = Paths::of(dir.path(), &job);
    let (spool, writer) = Spool::new(
        paths.clone(),
        Keep {
            bytes: keep,
            overflow,
        },
    );
    Bench {
        dir,
        paths,
        spool,
        writer,
        written: [Vec::new(), Vec::new()],
    }
}

impl Bench {
    fn write(&mut self, kind: FrameKind, bytes: &[u8]) {
        let mut buffer = vec![0; HEADER];
        buffer.extend_from_slice(bytes);
        self.writer.write(kind, Timestamp::from_millis(1), &mut buffer);
        self.written[stream_of(kind).expect("a stream")].extend_from_slice(bytes);
    }

    /// `n` pieces of `size` bytes, every third on stderr, all different.
    fn write_many(&mut self, n: usize, size: usize) {
        for i in 0..n {
            let kind = if i % 3 == 2 {
                FrameKind::Stderr
            } else {
                FrameKind::Stdout
            };
            let bytes: Vec<u8> = (0..size).map(|k| (i * 31 + k * 7) as u8).collect();
            self.write(kind, &bytes);
        }
    }

    fn end(self) -> (Ended, Reader) {
        let ended = self.writer.end();
        self.paths.tidy(&ended.log);
        for (summary, written) in [&ended.stdout, &ended.stderr].into_iter().zip(&self.written) {
            check_summary(summary, written);
        }
        let reader = Reader {
            _dir: self.dir,
            path: self.paths.log,
            written: self.written,
            spool: self.spool,
        };
        (ended, reader)
    }
}

fn check_summary(summary: &StreamSummary, written: &[u8]) {
    assert_eq!(summary.bytes, written.len() as u64);
    assert_eq!(summary.sha256, Digest::of(written));
    for range in &summary.kept {
        let (from, to) = (range.from as usize, range.to as usize);
        assert_eq!(range.sha256, Digest::of(&written[from..to]));
    }
}

struct Reader {
    _dir: tempfile::TempDir,
    path: PathBuf,
    written: [Vec<u8>; 2],
    spool: Arc<Spool>,
}

/// Reads everything with `read`; checks each byte against what was written; gives the bytes missing per stream.
fn read_all(
    written: &[Vec<u8>; 2],
    from: u64,
    max: usize,
    mut read: impl FnMut(u64, usize) -> (OutputPart, Bytes),
) -> ([u64; 2], [u64; 2]) {
    let mut at = [0u64; 2];
    let mut missing = [0u64; 2];
    let mut pos = from;
    let mut decoder = FrameDecoder::default();
    loop {
        let (part, bytes) = read(pos, max);
        decoder.push(&bytes);
        while let Some(f) = decoder.next_frame().expect("frames") {
            if f.kind == FrameKind::Gap {
                let gap: Gap = serde_json::from_slice(&f.payload).expect("a gap");
                assert_eq!(gap.resume_at, part.from);
                for (s, resume) in [gap.stdout_at, gap.stderr_at].into_iter().enumerate() {
                    missing[s] += resume - at[s];
                    at[s] = resume;
                }
                continue;
            }
            let s = stream_of(f.kind).expect("a stream");
            assert_eq!(f.at, at[s], "no gap and no repeat but those that are said");
            let from = f.at as usize;
            assert_eq!(f.payload, written[s][from..from + f.payload.len()]);
            at[s] += f.payload.len() as u64;
        }
        assert_eq!(decoder.pending(), 0, "only whole frames");
        pos = part.to;
        if part.end || bytes.is_empty() {
            return (at, missing);
        }
    }
}

impl Reader {
    fn stored(&self, ended: &Ended, max: usize) -> [u64; 2] {
        let (at, missing) = read_all(&self.written, 0, max, |from, max| {
            stored::read(&ended.log, &self.path, from, max).expect("reads")
        });
        assert_eq!(at, [ended.stdout.bytes, ended.stderr.bytes]);
        missing
    }
}

#[test]
fn small_output_is_kept_inline_and_leaves_no_file() {
    let mut b = bench(1 << 20, Overflow::Drop);
    b.write_many(5, 100);
    let (ended, reader) = b.end();
    assert_eq!(ended.log.inline.len() as u64, ended.log.end);
    assert!(!ended.truncated());
    assert!(!reader.path.exists());
    for max in [1, 124, 200, 1 << 20] {
        assert_eq!(reader.stored(&ended, max), [0, 0]);
    }
    let live = read_all(&reader.written, 0, 64, |from, max| {
        reader.spool.read(from, max).expect("reads")
    });
    assert_eq!(live.1, [0, 0], "the live view still has it");
}

#[test]
fn output_up_to_the_limit_is_kept_whole() {
    let mut b = bench(1 << 20, Overflow::Drop);
    b.write_many(16, 1 << 16);
    let (ended, reader) = b.end();
    assert!(!ended.truncated());
    assert_eq!(ended.log.kept.len(), 1);
    for max in [1, 100_000, 1 << 22] {
        assert_eq!(reader.stored(&ended, max), [0, 0]);
    }
}

#[test]
fn beyond_the_limit_head_and_tail_are_kept_and_the_gap_is_said() {
    for (keep, n, size) in [
        (1u64 << 20, 400, 1 << 16),
        (1 << 16, 300, 1 << 16),
        (100_000, 40_000, 17),
        (1 << 20, 1000, 10_007),
    ] {
        let mut b = bench(keep, Overflow::Drop);
        b.write_many(n, size);
        let (ended, reader) = b.end();
        let kept: u64 = [&ended.stdout, &ended.stderr]
            .iter()
            .flat_map(|s| &s.kept)
            .map(|r| r.to - r.from)
            .sum();
        assert!(kept <= keep, "{kept} of {keep}");
        assert!(kept + (size as u64) > keep - keep / 4, "{kept} of {keep}");
        let missing = reader.stored(&ended, 1 << 18);
        assert_eq!(missing[0] + missing[1] + kept, (n * size) as u64);
    }
}

#[test]
fn nothing_is_kept_when_nothing_may_be() {
    let mut b = bench(0, Overflow::Drop);
    b.write_many(100, 1000);
    let (ended, reader) = b.end();
    assert!(ended.log.kept.is_empty() && ended.stdout.kept.is_empty());
    assert!(!reader.path.exists());
    let missing = reader.stored(&ended, 1 << 18);
    assert_eq!(missing[0] + missing[1], 100_000);
}

#[test]
fn a_reader_that_keeps_up_gets_everything_and_one_that_falls_behind_a_gap() {
    let mut b = bench(1 << 18, Overflow::Drop);
    let mut pos = 0;
    let mut decoder = FrameDecoder::default();
    let mut got = [0usize; 2];
    for _ in 0..200 {
        b.write_many(3, 1 << 16);
        let (part, bytes) = b.spool.read(pos, 1 << 20).expect("reads");
        assert_eq!(part.from, pos);
        decoder.push(&bytes);
        pos = part.to;
        while let Some(f) = decoder.next_frame().expect("frames") {
            assert_ne!(f.kind, FrameKind::Gap);
            got[stream_of(f.kind).expect("a stream")] += f.payload.len();
        }
    }
    assert_eq!(got[0], 200 * 2 * (1 << 16));
    b.write_many(300, 1 << 16);
    let (part, bytes) = b.spool.read(pos, 1 << 20).expect("reads");
    assert!(part.from > pos);
    decoder.push(&bytes);
    let first = decoder.next_frame().expect("frames").expect("one");
    let gap: Gap = serde_json::from_slice(&first.payload).expect("a gap");
    let next = decoder.next_frame().expect("frames").expect("one");
    let s = stream_of(next.kind).expect("a stream");
    assert_eq!(
        next.at,
        [gap.stdout_at, gap.stderr_at][s],
        "it says exactly where the stream goes on"
    );
    assert!(next.at as usize > got[s]);
    // And a second one after it, from a frame border in the middle of what the first reading gave.
    b.write_many(300, 1 << 16);
    let border = part.from + (HEADER + next.payload.len()) as u64;
    let (again, bytes) = b.spool.read(border, 1 << 20).expect("reads");
    assert!(again.from > part.to);
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    let first = decoder.next_frame().expect("frames").expect("one");
    let gap: Gap = serde_json::from_slice(&first.payload).expect("a gap");
    let next = decoder.next_frame().expect("frames").expect("one");
    let s = stream_of(next.kind).expect("a stream");
    assert_eq!(next.at, [gap.stdout_at, gap.stderr_at][s]);
}

#[test]
fn a_position_that_is_none_is_refused() {
    let mut b = bench(1 << 20, Overflow::Drop);
    b.write_many(3, 100);
    assert!(matches!(b.spool.read(1, 1000), Err(ReadError::Position(1))));
    assert!(matches!(b.spool.read(1 << 40, 1000), Err(ReadError::Position(_))));
}

#[test]
fn throttling_waits_until_what_was_written_is_read() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    rt.block_on(async {
        let mut b = bench(1 << 18, Overflow::Throttle);
        let mut pieces = 0;
        while tokio::time::timeout(Duration::from_secs(1), b.writer.wait_room())
            .await
            .is_ok()
        {
            b.write_many(1, 1 << 16);
            pieces += 1;
            assert!(pieces < 100, "it must wait: nothing was read yet");
        }
        let spool = b.spool.clone();
        let mut pos = 0;
        let missing = read_all(&b.written, 0, 1 << 20, |from, max| {
            let r = spool.read(from, max).expect("reads");
            pos = r.0.to;
            r
        });
        assert_eq!(missing.1, [0, 0], "nothing was dropped");
        b.writer.wait_room().await;
    });
}

#[test]
fn what_a_throttled_job_leaves_in_its_pipes_pushes_nothing_out_that_was_not_read() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    rt.block_on(async {
        let mut b = bench(1 << 18, Overflow::Throttle);
        while tokio::time::timeout(Duration::from_secs(1), b.writer.wait_room())
            .await
            .is_ok()
        {
            b.write_many(1, 1 << 16);
        }
        b.spool.stop_throttling();
        // Two pipes of a mebibyte each, full.
        for _ in 0..32 {
            b.writer.wait_room().await;
            b.write_many(1, 1 << 16);
        }
        let (ended, reader) = b.end();
        let (at, missing) = read_all(&reader.written, 0, 1 << 20, |from, max| {
            reader.spool.read(from, max).expect("reads")
        });
        assert_eq!(missing, [0, 0], "a live reader that was behind gets all of it");
        assert_eq!(at, [ended.stdout.bytes, ended.stderr.bytes]);
        assert!(ended.truncated(), "and what is kept is bounded all the same");
    });
}

#[test]
fn waits_for_output_and_for_the_end() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    rt.block_on(async {
        let mut b = bench(1 << 20, Overflow::Drop);
        let spool = b.spool.clone();
        let (_, end) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                b.write(FrameKind::Stdout, b"x");
                tokio::task::yield_now().await;
                b.writer.end()
            },
            async {
                spool.wait_readable(0).await;
                let (part, _) = spool.read(0, 100).expect("reads");
                spool.wait_readable(part.to).await;
                spool.read(part.to, 100).expect("reads").0
            }
        );
        assert!(end.end);
    });
}
