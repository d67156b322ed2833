//! Takes the values of secrets out of what a job says, before anybody keeps, hashes or sends it.
//!
//! ```text
//! pipe --bytes--> Stream: held back | given on, with [redacted:NAME] in place of values --> log, followers, receipt
//! ```
//!
//! A value is found as it is; as base64 in each of the three positions that it can have in what was encoded, in both
//! alphabets; as hexadecimal digits; and percent-encoded, however much of it is. Line breaks between its characters
//! hide it in none of these, so neither does the folding of long lines. Of what may still become a value only the part
//! that does is held back, until it has or the stream ends.
//!
//! # Invariants
//! - It does not matter where a stream is cut into pieces.
//! - No more is held back than a few times the longest pattern, whatever comes.

mod shapes;
#[cfg(test)]
mod tests;

use lictor_proto::Name;
use memchr::memmem::Finder;
use zeroize::Zeroize as _;

/// What is held back besides a few times the longest pattern: line breaks in between, above all.
const BETWEEN: usize = 64 * 1024;

/// What one job's secrets look like in its output.
#[derive(Default)]
pub(crate) struct Redactor {
    patterns: Vec<Pattern>,
    longest: usize,
}

struct Pattern {
    finder: Finder<'static>,
    /// Which of the words stands in its place.
    word: String,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} patterns)", self.patterns.len())
    }
}

impl Redactor {
    /// One more secret.
    pub(crate) fn add(&mut self, name: &Name, value: &[u8]) {
        for mut shape in shapes::of(value) {
            self.longest = self.longest.max(shape.len());
            self.patterns.push(Pattern {
                finder: Finder::new(&shape).into_owned(),
                word: format!("[redacted:{name}]"),
            });
            shape.zeroize();
        }
    }

    /// Whether there is nothing to take out.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What comes out of a whole text.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut stream = Stream::of(self);
        let mut out = Vec::new();
        stream.push(text.as_bytes(), &mut out);
        stream.end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// One stream of a job.
pub(crate) struct Stream<'a> {
    redactor: &'a Redactor,
    held: Vec<u8>,
}

/// A value in what is held, and what stands in its place.
struct Found<'a> {
    from: usize,
    to: usize,
    word: &'a str,
}

impl<'a> Stream<'a> {
    pub(crate) fn of(redactor: &'a Redactor) -> Self {
        let held = Vec::new();
        Self { redactor, held }
    }

    /// Takes more of it, and appends to `out` what can be given on.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.redactor.is_empty() {
            return out.extend_from_slice(bytes);
        }
        self.held.extend_from_slice(bytes);
        self.give(false, out);
    }

    /// Its end: what was held back is no value.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        self.give(true, out);
    }

    fn give(&mut self, is_last: bool, out: &mut Vec<u8>) {
        let plain = View::plain(&self.held);
        let decoded = View::decoded(&self.held, is_last);
        let mut found = Vec::new();
        let mut cut = self.held.len();
        for view in std::iter::once(&plain).chain(&decoded) {
            self.find(view, &mut found);
            if !is_last {
                cut = cut.min(self.opens(view));
            }
        }
        let found = merged(found);
        let cut = self.settle(cut, &found);
        let mut at = 0;
        for one in found.iter().filter(|f| f.to <= cut) {
            out.extend_from_slice(&self.held[at..one.from]);
            out.extend_from_slice(one.word.as_bytes());
            at = one.to;
        }
        out.extend_from_slice(&self.held[at..cut]);
        let rest = self.held.split_off(cut);
        std::mem::replace(&mut self.held, rest).zeroize();
    }

    /// Where to cut: not within a value, and not so early that more is held back than may be.
    fn settle(&self, cut: usize, found: &[Found<'_>]) -> usize {
        let most = 4 * self.redactor.longest + BETWEEN;
        let across = found.iter().find(|f| f.from < cut && cut < f.to);
        match across {
            Some(f) if self.held.len() - f.from <= most => f.from,
            Some(f) => f.to,
            None if self.held.len() - cut <= most => cut,
            None => found.last().map_or(0, |f| f.to).max(self.held.len() - most),
        }
    }

    fn find(&self, view: &View, found: &mut Vec<Found<'a>>) {
        for pattern in &self.redactor.patterns {
            let mut from = 0;
            let length = pattern.finder.needle().len();
            // Also those that overlap: a value may repeat into itself.
            while let Some(at) = pattern.finder.find(&view.bytes[from..]) {
                let (first, last) = (from + at, from + at + length - 1);
                found.push(Found {
                    from: view.at[first].0,
                    to: view.at[last].1,
                    word: &pattern.word,
                });
                from = first + 1;
            }
        }
    }

    /// From where on what is held may still become a value.
    fn opens(&self, view: &View) -> usize {
        let last = view.bytes.len();
        let first = last.saturating_sub(self.redactor.longest.saturating_sub(1));
        let mut starts: [Vec<&[u8]>; 256] = std::array::from_fn(|_| Vec::new());
        for pattern in &self.redactor.patterns {
            let needle = pattern.finder.needle();
            starts[usize::from(needle[0])].push(needle);
        }
        let is_open = |at: &usize| {
            let rest = &view.bytes[*at..];
            let may_be = &starts[usize::from(rest[0])];
            may_be.iter().any(|p| p.len() > rest.len() && p.starts_with(rest))
        };
        (first..last)
            .find(is_open)
            .map_or(view.open, |at| view.at[at].0.min(view.open))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

fn merged(mut found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    found.sort_by_key(|f| (f.from, std::cmp::Reverse(f.to)));
    let mut merged: Vec<Found<'_>> = Vec::new();
    for one in found {
        match merged.last_mut() {
            Some(before) if one.from < before.to => before.to = before.to.max(one.to),
            _ => merged.push(one),
        }
    }
    merged
}

/// A way to read what is held, without line breaks: its bytes, and where each begins and ends there.
struct View {
    bytes: Vec<u8>,
    at: Vec<(usize, usize)>,
    /// Where what is not read yet begins.
    open: usize,
}

impl View {
    fn empty(held: &[u8]) -> Self {
        Self {
            bytes: Vec::with_capacity(held.len()),
            at: Vec::with_capacity(held.len()),
            open: held.len(),
        }
    }

    fn put(&mut self, byte: u8, from: usize, to: usize) {
        if !matches!(byte, b'\r' | b'\n') {
            self.bytes.push(byte);
            self.at.push((from, to));
        }
    }

    fn plain(held: &[u8]) -> Self {
        let mut view = Self::empty(held);
        for (at, byte) in held.iter().enumerate() {
            view.put(*byte, at, at + 1);
        }
        view
    }

    /// With percent-encoding undone; `None` where there is none.
    fn decoded(held: &[u8], is_last: bool) -> Option<Self> {
        memchr::memchr(b'%', held)?;
        let digit = |at: usize| held.get(at).map(|b| char::from(*b).to_digit(16));
        let mut view = Self::empty(held);
        let mut at = 0;
        while let Some(byte) = held.get(at) {
            let escape = if *byte == b'%' {
                (digit(at + 1), digit(at + 2))
            } else {
                (Some(None), None)
            };
            match escape {
                (Some(Some(high)), Some(Some(low))) => {
                    view.put((high * 16 + low) as u8, at, at + 3);
                    at += 3;
                }
                // It ends within one.
                (None, _) | (Some(Some(_)), None) if !is_last => {
                    view.open = at;
                    break;
                }
                _ => {
                    view.put(*byte, at, at + 1);
                    at += 1;
                }
            }
        }
        Some(view)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
