//! Whole frames of one log, as slices of what the link delivered.

use std::sync::Arc;

use bytes::Bytes;
use lictor_proto::frame::{FrameKind, HEADER, Header};

use super::splitter::Place;

/// Whole frames of one log, with where they stand.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Where its first byte stands.
    pub start: Place,
    /// Where the log goes on after it.
    pub after: Place,
    /// The bytes.
    pub parts: Arc<[Bytes]>,
}

impl Chunk {
    /// A chunk that starts there; its end is found by walking over its headers.
    #[must_use]
    pub fn whole(start: Place, parts: Arc<[Bytes]>) -> Self {
        let mut after = start;
        let mut reader = Reader::new(&parts);
        while let Some(header) = reader.header() {
            after.pass(&header);
            reader.skip(header.len);
        }
        Self { start, after, parts }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.after.at - self.start.at) as usize
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.after.at == self.start.at
    }

    /// Its bytes from the `n`th on.
    #[must_use]
    pub fn parts_after(&self, n: u64) -> Arc<[Bytes]> {
        if n == 0 {
            return self.parts.clone();
        }
        let mut left = n as usize;
        let mut rest = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter() {
            if left >= part.len() {
                left -= part.len();
            } else {
                rest.push(part.slice(left..));
                left = 0;
            }
        }
        rest.into()
    }

    /// The chunk without the frames before this log position; `None` when nothing is left.
    #[must_use]
    pub fn from_position(&self, at: u64) -> Option<Self> {
        if at <= self.start.at {
            return Some(self.clone());
        }
        let mut start = self.start;
        let mut reader = Reader::new(&self.parts);
        while start.at < at {
            let header = reader.header()?;
            start.pass(&header);
            reader.skip(header.len);
        }
        (start.at < self.after.at).then(|| Self {
            start,
            after: self.after,
            parts: self.parts_after(start.at - self.start.at),
        })
    }

    /// The unbroken runs of frames that `keeps` says yes to.
    #[must_use]
    pub fn runs(&self, keeps: impl Fn(&Header) -> bool) -> Vec<Self> {
        let (mut runs, mut begun, mut place) = (Vec::new(), None, self.start);
        let mut reader = Reader::new(&self.parts);
        loop {
            let header = reader.header();
            let kept = header.as_ref().is_some_and(&keeps);
            match begun {
                None if kept => begun = Some(place),
                Some(start) if !kept => {
                    runs.push(self.between(start, place));
                    begun = None;
                }
                _ => {}
            }
            let Some(header) = header else { return runs };
            place.pass(&header);
            reader.skip(header.len);
        }
    }

    fn between(&self, start: Place, after: Place) -> Self {
        let mut left = (after.at - start.at) as usize;
        let from_start = self.parts_after(start.at - self.start.at);
        let mut parts = Vec::with_capacity(from_start.len());
        for part in from_start.iter().filter(|p| !p.is_empty()) {
            let taken = left.min(part.len());
            if taken > 0 {
                parts.push(part.slice(..taken));
            }
            left -= taken;
        }
        let parts = parts.into();
        Self { start, after, parts }
    }
}

impl Place {
    /// Goes over a frame of the log.
    pub(crate) fn pass(&mut self, header: &Header) {
        self.at += (HEADER + header.len) as u64;
        let after = header.at + header.len as u64;
        match header.kind {
            FrameKind::Stdout => self.stdout = after,
            FrameKind::Stderr => self.stderr = after,
            // What is said about a way out is part of the log, and of no stream.
            FrameKind::Egress | FrameKind::Gap | FrameKind::Event | FrameKind::KeepAlive => {}
        }
    }
}

/// Walks over the headers of whole frames that are spread over parts.
struct Reader<'a> {
    parts: &'a [Bytes],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(parts: &'a [Bytes]) -> Self {
        Self { parts, at: 0 }
    }

    fn header(&mut self) -> Option<Header> {
        let mut head = [0; HEADER];
        for byte in &mut head {
            while self.at >= self.parts.first()?.len() {
                self.at -= self.parts[0].len();
                self.parts = &self.parts[1..];
            }
            *byte = self.parts[0][self.at];
            self.at += 1;
        }
        Header::decode(&head).ok()
    }

    fn skip(&mut self, n: usize) {
        self.at += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::Timestamp;
    use lictor_proto::frame::Frame;

    const OUT: FrameKind = FrameKind::Stdout;
    const ERR: FrameKind = FrameKind::Stderr;

    fn frame(kind: FrameKind, at: u64, payload: &[u8]) -> Vec<u8> {
        let frame = Frame {
            kind,
            time: Timestamp::from_millis(7),
            at,
            payload: Bytes::copy_from_slice(payload),
        };
        frame.encode()
    }

    /// Five frames, and the place behind each, after one that is not there any more.
    fn frames() -> (Place, Vec<(Vec<u8>, Place)>) {
        let start = Place {
            at: 1000,
            stdout: 10,
            stderr: 20,
        };
        let all: [(FrameKind, u64, &[u8]); 5] = [
            (OUT, 10, b"one"),
            (ERR, 20, b"two"),
            (ERR, 23, b""),
            (OUT, 13, b"three"),
            (OUT, 18, b"four"),
        ];
        let mut place = start;
        let frames = all.map(|(kind, at, payload)| {
            let bytes = frame(kind, at, payload);
            place.at += bytes.len() as u64;
            let end = at + payload.len() as u64;
            *(if kind == OUT {
                &mut place.stdout
            } else {
                &mut place.stderr
            }) = end;
            (bytes, place)
        });
        (start, frames.into())
    }

    /// The frames as one chunk, its bytes in parts of this length.
    fn chunk(step: usize) -> Chunk {
        let (start, frames) = frames();
        let bytes: Vec<u8> = frames.into_iter().flat_map(|(bytes, _)| bytes).collect();
        let parts: Vec<Bytes> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
        Chunk::whole(start, parts.into())
    }

    #[test]
    fn runs_are_what_is_kept_whole_and_in_its_place_whatever_is_kept() {
        let (start, frames) = frames();
        for (kept, step) in (0..32_u32).flat_map(|kept| [1, 7, 24, 25, 1000].map(|step| (kept, step))) {
            let is_kept = |n: usize| kept & (1 << n) != 0;
            let mut expected: Vec<(Place, Vec<u8>, Place)> = Vec::new();
            for (n, (bytes, after)) in frames.iter().enumerate() {
                let before = n.checked_sub(1).map_or(start, |n| frames[n].1);
                match expected.last_mut() {
                    Some(run) if is_kept(n) && run.2 == before => {
                        run.1.extend(bytes);
                        run.2 = *after;
                    }
                    _ if is_kept(n) => expected.push((before, bytes.clone(), *after)),
                    _ => {}
                }
            }
            let number = std::cell::Cell::new(0);
            let runs = chunk(step).runs(|_| is_kept(number.replace(number.get() + 1)));
            let got: Vec<_> = runs
                .iter()
                .map(|run| (run.start, run.parts.concat(), run.after))
                .collect();
            assert_eq!(got, expected, "kept {kept:05b}, parts of {step}");
            assert!(
                runs.iter()
                    .flat_map(|run| &*run.parts)
                    .all(|part| !part.is_empty())
            );
            for run in &runs {
                let again = Chunk::whole(run.start, run.parts.clone());
                assert_eq!((again.after, again.len()), (run.after, run.len()));
            }
        }
    }

    #[test]
    fn a_chunk_without_frames_has_no_runs() {
        let empty = Chunk::whole(Place::default(), Arc::new([]));
        assert!(empty.is_empty());
        assert!(empty.runs(|_| true).is_empty());
    }

    #[test]
    fn a_chunk_goes_on_from_any_position_at_the_next_frame() {
        let (start, frames) = frames();
        for at in 0..=start.at + 200 {
            let rest = chunk(7).from_position(at);
            let expected = frames
                .iter()
                .enumerate()
                .map(|(n, _)| n.checked_sub(1).map_or(start, |n| frames[n].1))
                .find(|before| before.at >= at);
            assert_eq!(rest.as_ref().map(|r| r.start), expected, "from {at}");
            if let Some(rest) = rest {
                assert_eq!(rest.parts.concat().len(), rest.len());
                assert_eq!(Chunk::whole(rest.start, rest.parts).after, rest.after);
            }
        }
    }
}
