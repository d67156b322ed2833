//! Values in every shape and every cut.

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use proptest::prelude::*;

use super::*;

const VALUE: &str = "pa55?wörd>/~ +\"x";
const WORD: &str = "[redacted:db]";

fn redactor(value: &[u8]) -> Redactor {
    let mut redactor = Redactor::default();
    redactor.add(&"db".parse().expect("a name"), value);
    redactor
}

fn in_pieces(redactor: &Redactor, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut stream = Stream::of(redactor);
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        stream.push(piece, &mut out);
    }
    stream.end(&mut out);
    out
}

/// Whatever its pieces.
fn assert_becomes(value: &[u8], said: &[u8], wanted: &str) {
    let redactor = redactor(value);
    for piece in 1..=said.len() {
        let out = in_pieces(&redactor, said, piece);
        assert_eq!(String::from_utf8_lossy(&out), wanted, "in pieces of {piece}");
    }
}

#[test]
fn a_value_is_taken_out_as_it_is_however_the_stream_is_cut() {
    assert_becomes(
        VALUE.as_bytes(),
        format!("a {VALUE}{VALUE} b").as_bytes(),
        &format!("a {WORD}{WORD} b"),
    );
    let without = format!("a {} b", &VALUE[..9]);
    assert_becomes(VALUE.as_bytes(), without.as_bytes(), &without);
}

#[test]
fn a_value_is_taken_out_of_json_however_that_is_escaped() {
    let value = "pa55\"w\u{f6}rd/\\ \u{1f512}\tx";
    let escaped = serde_json::to_string(value).expect("JSON");
    let escaped = escaped.trim_matches('"').to_owned();
    let ascii = escaped
        .replace('\u{f6}', "\\u00f6")
        .replace('\u{1f512}', "\\ud83d\\udd12");
    for said in [
        value.to_owned(),
        escaped.clone(),
        escaped.replace('/', "\\/"),
        ascii.clone(),
        ascii.replace('/', "\\/"),
    ] {
        assert_becomes(
            value.as_bytes(),
            format!("{{\"p\":\"{said}\"}}").as_bytes(),
            "{\"p\":\"[redacted:db]\"}",
        );
    }
}

#[test]
fn a_value_is_taken_out_of_base64_at_each_position_and_of_both_alphabets() {
    for before in ["", "x", "xy", "xyz"] {
        for after in ["", "1", "12", "123"] {
            for alphabet in [&BASE64, &BASE64URL] {
                let whole = format!("{before}{VALUE}{after}");
                let said = format!("<{}>", alphabet.encode(whole.as_bytes()));
                let out = in_pieces(&redactor(VALUE.as_bytes()), said.as_bytes(), 3);
                let out = String::from_utf8(out).expect("text");
                assert!(out.contains(WORD), "{said} -> {out}");
                // Of its characters only those are left that are of its neighbours as well.
                let left = out.replace(WORD, "").len();
                assert!(left <= 2 + before.len() * 2 + after.len() * 2 + 6, "{out}");
            }
        }
    }
}

#[test]
fn a_value_is_taken_out_of_folded_base64_and_hexadecimal_digits() {
    let long = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(4);
    for text in [BASE64.encode(long.as_bytes()), HEXLOWER.encode(long.as_bytes())] {
        let folded: Vec<&str> = text
            .as_bytes()
            .chunks(76)
            .map(|l| std::str::from_utf8(l).expect("text"))
            .collect();
        let said = format!("{}\n", folded.join("\r\n"));
        let out = redactor(long.as_bytes()).text(&said);
        assert!(out.starts_with(WORD) && out.len() < WORD.len() + 6, "{out}");
    }
}

#[test]
fn a_value_is_taken_out_percent_encoded_however_much_of_it_is() {
    let all: String = VALUE.bytes().map(|b| format!("%{b:02X}")).collect();
    let some: String = VALUE
        .bytes()
        .map(|b| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => format!("%{b:02x}"),
        })
        .collect();
    let form = some.replace("%20", "+");
    for shape in [all, some, form] {
        assert_becomes(
            VALUE.as_bytes(),
            format!("q={shape}&r=100%").as_bytes(),
            &format!("q={WORD}&r=100%"),
        );
    }
}

#[test]
fn lines_of_a_value_are_taken_out_one_by_one_and_with_other_line_ends() {
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n";
    let out = redactor(key.as_bytes()).text(&key.replace('\n', "\r\n"));
    assert_eq!(out, format!("{WORD}\r\n"));
    let one = redactor(key.as_bytes()).text("key: MIIEvQIBADANBgkqhkiG9w0B;");
    assert_eq!(one, format!("key: {WORD};"));
}

#[test]
fn nothing_is_held_back_that_cannot_become_a_value() {
    let redactor = redactor(b"correct horse");
    let mut stream = Stream::of(&redactor);
    let mut out = Vec::new();
    stream.push(b"Password: ", &mut out);
    assert_eq!(out, b"Password: ");
    stream.push(b"corr", &mut out);
    assert_eq!(out, b"Password: ");
    stream.push(b"al", &mut out);
    assert_eq!(out, b"Password: corral");
}

#[test]
fn no_more_is_held_back_than_a_bound_whatever_comes() {
    let redactor = redactor(b"abababab");
    let most = 4 * redactor.longest + BETWEEN;
    let mut stream = Stream::of(&redactor);
    let mut out = Vec::new();
    for _ in 0..64 {
        stream.push(&b"ab".repeat(4096), &mut out);
        assert!(stream.held.len() <= most);
    }
    stream.push(b"c", &mut out);
    assert!(!out.windows(8).any(|w| w == b"abababab"));
    for _ in 0..64 {
        stream.push(b"a", &mut out);
        stream.push(&b"\n".repeat(8192), &mut out);
        assert!(stream.held.len() <= most);
    }
}

#[test]
fn values_of_two_secrets_are_both_taken_out() {
    let mut redactor = redactor(b"correct horse");
    redactor.add(&"api".parse().expect("a name"), b"horse battery");
    assert_eq!(redactor.text("x correct horse battery y"), format!("x {WORD} y"));
    assert_eq!(redactor.text("horse battery"), "[redacted:api]");
}

proptest! {
    #[test]
    fn what_holds_no_value_comes_out_as_it_was(said in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..40) {
        let redactor = redactor(b"never said, not once");
        prop_assert_eq!(in_pieces(&redactor, &said, piece), said);
    }

    #[test]
    fn where_a_stream_is_cut_does_not_matter(said in "[ab%6\n]{0,60}", piece in 1_usize..10) {
        let redactor = redactor(b"ababbaba");
        let whole = in_pieces(&redactor, said.as_bytes(), said.len().max(1));
        prop_assert_eq!(in_pieces(&redactor, said.as_bytes(), piece), whole);
    }
}
