//! What a value looks like when somebody has encoded it.

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

fn joined(value: &[u8]) -> Vec<u8> {
    let all = value.iter().filter(|b| !matches!(b, b'\n' | b'\r'));
    all.copied().collect()
}
