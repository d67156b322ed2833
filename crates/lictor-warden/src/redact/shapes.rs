//! What a value looks like when somebody has encoded it.

use std::fmt::Write as _;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use lictor_proto::limits;
use zeroize::Zeroize as _;

/// A line of a value that has several is looked for by itself from this length on.
const LINE: usize = 16;
/// Lines that are.
const LINES: usize = 64;

/// All of them, without line breaks and without white space around.
pub(super) fn of(value: &[u8]) -> Vec<Vec<u8>> {
    let value = value.trim_ascii();
    let mut shapes = vec![joined(value)];
    if value.contains(&b' ') {
        // As forms encode it.
        let plus = |b: &u8| if *b == b' ' { b'+' } else { *b };
        shapes.push(joined(value).iter().map(plus).collect());
    }
    shapes.extend(in_json(value));
    shapes.push(HEXLOWER.encode(value).into_bytes());
    shapes.push(HEXUPPER.encode(value).into_bytes());
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(value);
        // Each character is of six bits: those that are of the value's alone.
        let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for alphabet in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            let mut text = alphabet.encode(&padded).into_bytes();
            shapes.push(text[first..last].to_vec());
            text.zeroize();
        }
        padded.zeroize();
    }
    let lines = value
        .split(|b| matches!(b, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii);
    let lines = lines.filter(|l| l.len() >= LINE && l.len() < value.len());
    shapes.extend(lines.take(LINES).map(<[u8]>::to_vec));
    shapes.sort_unstable();
    shapes.dedup();
    // What is too short is not taken for a value; a secret of the least length has none that is.
    shapes.retain(|s| s.len() >= limits::SECRET_LEAST);
    shapes
}

/// As a string in JSON, by the ways in which encoders write it: only what has to be escaped; slashes too; and all that is not
/// ASCII.
fn in_json(value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(value) else {
        return Vec::new();
    };
    let escaped = |slashes: bool, ascii: bool| {
        let mut out = String::with_capacity(2 * text.len());
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '/' if slashes => out.push_str("\\/"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // To a string, which cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.into_bytes()
    };
    let ways = [(false, false), (true, false), (false, true), (true, true)];
    let ways = ways.map(|(slashes, ascii)| escaped(slashes, ascii));
    ways.into_iter().filter(|shape| shape != value).collect()
}

fn joined(value: &[u8]) -> Vec<u8> {
    let all = value.iter().filter(|b| !matches!(b, b'\n' | b'\r'));
    all.copied().collect()
}
