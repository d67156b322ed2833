//! Refuses shell text by its characters, before a parser sees it.
//!
//! Shells differ in small ways, and one parser stands here for several. Whatever is known to be read differently
//! (`$'...'`, here-documents, odd white space), or could run a command from inside a string, is refused wherever it
//! occurs, quoted or not: being too strict costs a word in a policy, being too lax costs the meaning of `commands`.

/// Longest code that is read.
const MAX_CODE: usize = 16 * 1024;
/// Most openings of anything that nests; a parser recurses at these.
const MAX_NESTING: usize = 24;
/// Most openings at which the parser may have to look twice, so that time doubles with each: `(` counts one, `case` two.
const MAX_RETRIES: usize = 10;

/// Longest number of a descriptor in a redirection: `999>f`.
const MAX_FD_DIGITS: usize = 3;

/// Checks the text.
///
/// # Errors
/// Why it is opaque.
pub(super) fn check(code: &str) -> Result<(), &'static str> {
    if code.len() > MAX_CODE {
        return Err("the code is too long to be read");
    }
    if !code.chars().all(is_plain) {
        return Err("the code has characters that shells read differently");
    }
    if swallowed(code) {
        return Err("a sign after a letter beyond ASCII may be part of that letter in some locales");
    }
    // Shells take these two away before they read words, so that what stands on either side becomes one: `$\<newline>(`.
    if code.contains("\\\n") {
        return Err("a backslash before a line's end joins what stands apart here");
    }
    if code.contains('`') || ["$(", "<(", ">(", "$["].iter().any(|s| code.contains(s)) {
        return Err("a substitution runs commands that are not command words");
    }
    // `aa &>f bb` runs only aa in bash, and bb too in dash.
    if ["&>", "|&", ";&"].iter().any(|s| code.contains(s)) {
        return Err("the code has operators that shells read differently");
    }
    // `{name[subscript]}>f` picks a descriptor in bash, and evaluates the subscript for it.
    if code.contains("}<") || code.contains("}>") {
        return Err("a redirection whose descriptor is named by a variable");
    }
    if code.contains("<<") {
        return Err("here-documents are not read");
    }
    if code.contains("((") || code.contains("[[") {
        return Err("arithmetic and extended tests evaluate strings again");
    }
    if descriptor_digits(code) > MAX_FD_DIGITS {
        return Err("a redirection's descriptor is no descriptor");
    }
    if nesting(code) > MAX_NESTING || retries(code) > MAX_RETRIES {
        return Err("the code is nested too deeply to be read");
    }
    expansions(code)
}

fn is_plain(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n') || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric())
}

/// Whether a sign follows a letter that is not ASCII. In locales such as GBK, SJIS and Big5, which a job can ask for
/// by `LC_ALL`, the last byte of that letter begins a character whose second byte may be a backslash or a bar: bash
/// then does not see these. Second bytes are 0x40 and above, and of those only signs mean something to a shell.
fn swallowed(code: &str) -> bool {
    let sign = |c: char| c.is_ascii_graphic() && c >= '@' && !c.is_ascii_alphanumeric();
    let mut pairs = code.chars().zip(code.chars().skip(1));
    pairs.any(|(before, c)| !before.is_ascii() && sign(c))
}

/// The most digits that stand right before a `<` or `>`.
fn descriptor_digits(code: &str) -> usize {
    let before = code.match_indices(['<', '>']).map(|(at, _)| &code[..at]);
    let digits = before.map(|b| b.bytes().rev().take_while(u8::is_ascii_digit).count());
    digits.max().unwrap_or_default()
}

fn nesting(code: &str) -> usize {
    let openings = code.bytes().filter(|b| matches!(b, b'(' | b'{' | b'!')).count();
    openings
        + count(
            code,
            &[
                "if", "elif", "while", "until", "for", "case", "select", "coproc", "time",
            ],
        )
}

fn retries(code: &str) -> usize {
    code.bytes().filter(|b| *b == b'(').count() + 2 * count(code, &["case"])
}

fn count(code: &str, words: &[&str]) -> usize {
    code.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| words.contains(w))
        .count()
}

/// Only `$name`, `${name}` and the special parameters: what a value is, never an operation on it.
fn expansions(code: &str) -> Result<(), &'static str> {
    for (at, _) in code.match_indices('$') {
        let rest = &code[at + 1..];
        let simple = match rest.chars().next() {
            Some('{') => rest[1..]
                .split_once('}')
                .is_some_and(|(name, _)| is_parameter(name)),
            Some('\'' | '"') => false,
            _ => true,
        };
        if !simple {
            return Err("an expansion does more than name a variable");
        }
    }
    Ok(())
}

fn is_parameter(name: &str) -> bool {
    let name = name.strip_prefix('#').unwrap_or(name);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
