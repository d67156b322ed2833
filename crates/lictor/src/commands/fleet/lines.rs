//! One node's output among that of others: whole lines, each with the node's name before it.
//!
//! # Invariants
//! - Of each stream at most [`LONGEST`] bytes wait for their end of line, however much is printed.

use bytes::Bytes;
use lictor_client::Stream;

/// A line that is longer is shown in pieces.
const LONGEST: usize = 16 * 1024;
/// What a terminal shows names in, one after the other: cyan, green, yellow, blue, magenta.
const COLOURS: [u8; 5] = [36, 32, 33, 34, 35];

/// One node's output.
#[derive(Debug)]
pub(crate) struct Lines {
    prefix: Vec<u8>,
    begun: [Vec<u8>; 2],
}

impl Lines {
    /// Of the `number`th node, whose name is padded to `width`.
    pub(crate) fn of(name: &str, number: usize, width: usize, colour: bool) -> Self {
        let padded = format!("{name:width$} | ");
        let prefix = if colour {
            format!("\u{1b}[{}m{padded}\u{1b}[0m", COLOURS[number % COLOURS.len()])
        } else {
            padded
        };
        Self {
            prefix: prefix.into_bytes(),
            begun: Default::default(),
        }
    }

    /// Takes output; gives the lines that are whole now.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) -> Bytes {
        let begun = &mut self.begun[usize::from(stream == Stream::Stderr)];
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            for part in piece.chunks(LONGEST) {
                begun.extend_from_slice(part);
                if begun.ends_with(b"\n") || begun.len() >= LONGEST {
                    finish(&self.prefix, begun, &mut out);
                }
            }
        }
        out.into()
    }

    /// What was begun and has no end of line.
    pub(crate) fn rest(&mut self, stream: Stream) -> Bytes {
        let begun = &mut self.begun[usize::from(stream == Stream::Stderr)];
        let mut out = Vec::new();
        if !begun.is_empty() {
            finish(&self.prefix, begun, &mut out);
        }
        out.into()
    }

    /// A remark about the node, as a line of its own.
    pub(crate) fn remark(&self, text: &str) -> Bytes {
        [&self.prefix[..], text.as_bytes(), b"\n"].concat().into()
    }
}

fn finish(prefix: &[u8], line: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.append(line);
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_line_is_shown_once_it_is_whole_and_the_rest_at_the_end() {
        let mut lines = Lines::of("a", 0, 3, false);
        assert_eq!(text(&lines.push(Stream::Stdout, b"one\ntw")), "a   | one\n");
        assert_eq!(text(&lines.push(Stream::Stderr, b"err\n")), "a   | err\n");
        assert_eq!(text(&lines.push(Stream::Stdout, b"o\n\n")), "a   | two\na   | \n");
        assert_eq!(text(&lines.rest(Stream::Stdout)), "");
        lines.push(Stream::Stdout, b"end");
        assert_eq!(text(&lines.rest(Stream::Stdout)), "a   | end\n");
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut lines = Lines::of("a", 0, 1, false);
        let mut shown = 0;
        for _ in 0..100 {
            shown += lines.push(Stream::Stdout, &[b'x'; 10_000]).len();
            assert!(lines.begun[0].len() < LONGEST);
        }
        assert!(shown > 900_000);
    }

    #[test]
    fn names_have_colours_only_where_they_may() {
        let mut lines = Lines::of("a", 1, 1, true);
        assert_eq!(
            text(&lines.push(Stream::Stdout, b"x\n")),
            "\u{1b}[32ma | \u{1b}[0mx\n"
        );
    }
}
