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
    /// Goes over a frame of output.
    pub(crate) fn pass(&mut self, header: &Header) {
        self.at += (HEADER + header.len) as u64;
        let after = header.at + header.len as u64;
        match header.kind {
            FrameKind::Stdout => self.stdout = after,
            _ => self.stderr = after,
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
