//! Cuts the pieces that a link delivers into chunks that start and end at frame borders, without copying.
//!
//! # Invariants
//! - A chunk holds whole frames only, and at least one.
//! - Nothing is buffered beyond the one frame that is not complete yet.

use bytes::{Buf as _, Bytes};
use lictor_proto::frame::{FrameError, FrameKind, Gap, HEADER, Header};

use super::chunk::Chunk;

/// Where a log stands: position, and offset in each of its streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Log position.
    pub at: u64,
    /// Offset in standard output.
    pub stdout: u64,
    /// Offset in standard error.
    pub stderr: u64,
}

/// Reads one log from one source, in order.
#[derive(Debug)]
pub struct Splitter {
    /// Before the first byte of `parts`.
    start: Place,
    /// After the last whole frame in `parts`.
    border: Place,
    /// Bytes in hand: whole frames, then the beginning of the next.
    parts: Vec<Bytes>,
    /// The header under way, while it is not complete.
    head: [u8; HEADER],
    head_len: usize,
    /// Payload bytes of the frame under way that are still to come.
    missing: usize,
    /// Payload of a gap frame under way.
    gap: Option<Vec<u8>>,
}

impl Splitter {
    /// Reads on from this log position.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self {
            start: place,
            border: place,
            parts: Vec::new(),
            head: [0; HEADER],
            head_len: 0,
            missing: 0,
            gap: None,
        }
    }

    /// Where the last whole frame ended.
    #[must_use]
    pub fn place(&self) -> Place {
        self.border
    }

    /// Takes a piece; gives what is whole now, as one chunk or, around gaps, several.
    ///
    /// # Errors
    /// When the bytes are no frames of a log; the source is then of no more use.
    pub fn push(&mut self, mut piece: Bytes) -> Result<Vec<Chunk>, FrameError> {
        let mut chunks = Vec::new();
        // Bytes of `piece` that belong to frames that began in it or before, up to the last border.
        let mut scanned = 0;
        while scanned < piece.len() {
            if self.missing > 0 {
                let n = self.missing.min(piece.len() - scanned);
                if let Some(gap) = &mut self.gap {
                    gap.extend_from_slice(&piece[scanned..scanned + n]);
                }
                self.missing -= n;
                scanned += n;
            } else {
                let n = (HEADER - self.head_len).min(piece.len() - scanned);
                self.head[self.head_len..self.head_len + n].copy_from_slice(&piece[scanned..scanned + n]);
                self.head_len += n;
                scanned += n;
                if self.head_len < HEADER {
                    break;
                }
                let header = self.begin()?;
                if header.kind == FrameKind::Gap {
                    // What is in hand before the gap's header goes out; the gap itself is a jump, not bytes.
                    self.flush_before_gap(&mut piece, &mut scanned, &mut chunks);
                }
            }
            if self.head_len == HEADER && self.missing == 0 {
                self.finish_frame(&mut piece, &mut scanned)?;
            }
        }
        self.keep(piece, scanned, &mut chunks);
        Ok(chunks)
    }

    fn begin(&mut self) -> Result<Header, FrameError> {
        let header = Header::decode(&self.head)?;
        match header.kind {
            FrameKind::Stdout | FrameKind::Stderr | FrameKind::Egress => {}
            FrameKind::Gap if header.len <= 512 => self.gap = Some(Vec::with_capacity(header.len)),
            // Events and keep-alives are the hub's own words to its followers; a node cannot put them in.
            FrameKind::Gap | FrameKind::Event | FrameKind::KeepAlive => return Err(FrameError::Kind),
        }
        self.missing = header.len;
        Ok(header)
    }

    fn flush_before_gap(&mut self, piece: &mut Bytes, scanned: &mut usize, chunks: &mut Vec<Chunk>) {
        let whole = (self.border.at - self.start.at) as usize;
        self.parts.push(piece.split_to(*scanned));
        *scanned = 0;
        if whole > 0 {
            let parts = take(&mut self.parts, whole);
            chunks.push(self.chunk(parts));
        }
        self.parts.clear();
        self.start = self.border;
    }

    fn finish_frame(&mut self, piece: &mut Bytes, scanned: &mut usize) -> Result<(), FrameError> {
        self.head_len = 0;
        if let Some(gap) = self.gap.take() {
            let gap: Gap = serde_json::from_slice(&gap).map_err(|_| FrameError::Kind)?;
            if gap.resume_at < self.border.at {
                return Err(FrameError::Kind);
            }
            piece.advance(*scanned);
            *scanned = 0;
            self.border.at = gap.resume_at;
            self.border.stdout = self.border.stdout.max(gap.stdout_at);
            self.border.stderr = self.border.stderr.max(gap.stderr_at);
            self.start = self.border;
            return Ok(());
        }
        let header = Header::decode(&self.head)?;
        self.jump(&header);
        self.border.pass(&header);
        Ok(())
    }

    /// A node may go on later than it stopped without a gap frame. The first frame of each stream then says where
    /// that stream stands, and so how much of it is missing.
    fn jump(&mut self, header: &Header) {
        let (start, border) = match header.kind {
            FrameKind::Stdout => (&mut self.start.stdout, &mut self.border.stdout),
            FrameKind::Stderr => (&mut self.start.stderr, &mut self.border.stderr),
            _ => return,
        };
        if *start == *border && header.at > *start {
            *start = header.at;
            *border = header.at;
        }
    }

    /// Everything up to the border is a chunk; the rest waits for its frame's end.
    fn keep(&mut self, piece: Bytes, scanned: usize, chunks: &mut Vec<Chunk>) {
        debug_assert_eq!(scanned, piece.len());
        // A gap frame's bytes are never relayed.
        if self.gap.is_none() && !piece.is_empty() {
            self.parts.push(piece);
        }
        let whole = (self.border.at - self.start.at) as usize;
        if whole > 0 {
            let parts = take(&mut self.parts, whole);
            chunks.push(self.chunk(parts));
        }
    }

    fn chunk(&mut self, parts: Vec<Bytes>) -> Chunk {
        let chunk = Chunk {
            start: self.start,
            after: self.border,
            parts: parts.into(),
        };
        self.start = self.border;
        chunk
    }
}

/// The first `n` bytes of `parts`, as slices; the rest stays.
fn take(parts: &mut Vec<Bytes>, n: usize) -> Vec<Bytes> {
    let mut taken = Vec::with_capacity(parts.len());
    let mut left = n;
    let mut used = 0;
    for part in parts.iter_mut() {
        if left == 0 {
            break;
        }
        if part.len() <= left {
            left -= part.len();
            used += 1;
            taken.push(std::mem::take(part));
        } else {
            taken.push(part.split_to(left));
            left = 0;
        }
    }
    parts.drain(..used);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::Timestamp;
    use lictor_proto::frame::Frame;

    fn frame(kind: FrameKind, at: u64, payload: &[u8]) -> Vec<u8> {
        let frame = Frame {
            kind,
            time: Timestamp::from_millis(7),
            at,
            payload: Bytes::copy_from_slice(payload),
        };
        frame.encode()
    }

    fn log() -> Vec<u8> {
        let mut bytes = frame(FrameKind::Stdout, 0, b"hello");
        bytes.extend(frame(FrameKind::Stderr, 0, &[b'e'; 300]));
        bytes.extend(frame(FrameKind::Stdout, 5, b""));
        bytes.extend(frame(FrameKind::Stdout, 5, &[b'x'; 1000]));
        bytes
    }

    #[test]
    fn any_split_gives_the_same_bytes_in_whole_frames() {
        let log = log();
        for step in [1, 2, 23, 24, 25, 100, log.len()] {
            let mut s = Splitter::at(Place::default());
            let mut got = Vec::new();
            let mut at = 0;
            for piece in log.chunks(step) {
                for c in s.push(Bytes::copy_from_slice(piece)).unwrap() {
                    assert_eq!(c.start.at, at);
                    let bytes: Vec<u8> = c.parts.concat();
                    assert_eq!(bytes.len() as u64, c.after.at - c.start.at);
                    at = c.after.at;
                    got.extend(bytes);
                }
            }
            assert_eq!(got, log, "step {step}");
            let end = Place {
                at: log.len() as u64,
                stdout: 1005,
                stderr: 300,
            };
            assert_eq!(s.place(), end);
        }
    }

    #[test]
    fn a_gap_is_a_jump_and_its_bytes_are_not_relayed() {
        let gap = Gap {
            resume_at: 5000,
            stdout_at: 73,
            stderr_at: 3,
        };
        let mut bytes = frame(FrameKind::Stdout, 0, b"abc");
        bytes.extend(frame(FrameKind::Gap, 0, &serde_json::to_vec(&gap).unwrap()));
        bytes.extend(frame(FrameKind::Stdout, 73, b"def"));
        for step in [1, 7, 30, bytes.len()] {
            let mut s = Splitter::at(Place::default());
            let chunks: Vec<Chunk> = bytes
                .chunks(step)
                .flat_map(|p| s.push(Bytes::copy_from_slice(p)).unwrap())
                .collect();
            assert_eq!(chunks.len(), 2, "step {step}");
            assert_eq!((chunks[0].start.at, chunks[0].after.at), (0, 27));
            assert_eq!((chunks[1].start.at, chunks[1].after.at), (5000, 5027));
            assert_eq!((chunks[1].start.stdout, chunks[1].start.stderr), (73, 3));
            assert_eq!(chunks[1].parts.concat(), frame(FrameKind::Stdout, 73, b"def"));
        }
    }

    #[test]
    fn what_is_said_about_a_way_out_has_a_place_in_the_log_and_moves_no_stream() {
        let mut bytes = frame(FrameKind::Egress, 0, b"{}");
        bytes.extend(frame(FrameKind::Stdout, 0, b"abc"));
        bytes.extend(frame(FrameKind::Egress, 3, b"{}"));
        let mut s = Splitter::at(Place::default());
        let chunks = s.push(Bytes::from(bytes.clone())).unwrap();
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].parts.concat(), bytes);
        let end = Place {
            at: bytes.len() as u64,
            stdout: 3,
            stderr: 0,
        };
        assert_eq!((s.place(), chunks[0].after), (end, end));
        let again = Chunk::whole(chunks[0].start, chunks[0].parts.clone());
        assert_eq!(again.after, end);
    }

    #[test]
    fn refuses_frames_that_only_the_hub_makes() {
        let mut s = Splitter::at(Place::default());
        let event = frame(FrameKind::Event, 0, b"{}");
        assert!(s.push(Bytes::from(event)).is_err());
    }
}
