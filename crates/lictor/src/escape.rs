//! Makes untrusted text safe to show: control, bidi and invisible characters are written out.
//!
//! Names, reasons, commands and messages come from other people and other machines. A terminal obeys control
//! characters, and a reader believes what bidi overrides and zero-width characters make a line look like; an
//! approval of one thing could be shown as another. The bytes that a job itself prints are not touched: they are
//! the job's, and pass as they are.

use std::fmt::Write as _;

/// `text` with everything that does not show as itself written as `\n`, `\t` or `\u{...}`, and `\` doubled, so
/// that what is shown can be read back in one way only.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// An argument vector as one line: quoted where a shell would split it.
pub(crate) fn command_line(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|a| quote(a)).collect();
    words.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", escape(word).replace('\'', "\\'"))
}

/// Characters that a terminal obeys or a reader does not see.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0x00AD | 0x034F | 0x061C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x3164 | 0xFEFF | 0xFFA0
            | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F
            | 0xFE00..=0xFE0F | 0xFFF0..=0xFFFB
            | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_obeyed_characters_are_written_out() {
        assert_eq!(escape("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(escape("rm \u{202e}gpj.exe"), "rm \\u{202e}gpj.exe");
        assert_eq!(escape("pay\u{200b}pal\u{feff}"), "pay\\u{200b}pal\\u{feff}");
        assert_eq!(escape("a\nb\tc\r\u{85}"), "a\\nb\\tc\\r\\u{85}");
        assert_eq!(
            escape("\u{2066}x\u{2069}\u{e0041}"),
            "\\u{2066}x\\u{2069}\\u{e0041}"
        );
    }

    #[test]
    fn ordinary_text_of_any_language_stays() {
        for text in ["Grüße, 世界", "עברית", "emoji 🙂"] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn a_written_out_character_cannot_be_faked() {
        assert_ne!(escape("\\u{202e}"), escape("\u{202e}"));
    }

    #[test]
    fn a_command_line_shows_its_words() {
        let argv = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(command_line(&argv), r"sh -c 'echo \'a b\'' ''");
    }
}
