//! The literal value of a shell word, if it has one.

/// What the shell makes of `raw` when nothing in it expands: quotes removed. `None` when anything could expand, split
/// or match: then only the shell knows.
pub(super) fn literal(raw: &str) -> Option<String> {
    let mut value = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => value.push_str(&quoted(&mut chars, '\'')?),
            '"' => {
                let part = quoted(&mut chars, '"')?;
                if part.contains(['$', '`', '\\']) {
                    return None;
                }
                value.push_str(&part);
            }
            '\\' | '$' | '`' | '*' | '?' | '[' | ']' | '{' | '}' | '~' | '!' | '(' | ')'
                if raw != "[" && raw != "]" =>
            {
                return None;
            }
            _ => value.push(c),
        }
    }
    Some(value)
}

fn quoted(chars: &mut std::str::Chars<'_>, end: char) -> Option<String> {
    let rest = chars.as_str();
    let (inside, after) = rest.split_once(end)?;
    *chars = after.chars();
    Some(inside.to_owned())
}

/// Where the first `[` of a word stands that could begin a subscript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    /// Outside quotes.
    Bare,
    /// Inside double quotes.
    Quoted,
}

/// Looks for a `[` outside single quotes; the word `[` itself has none.
pub(super) fn bracket(raw: &str) -> Option<Bracket> {
    if raw == "[" || raw == "]" {
        return None;
    }
    let (mut found, mut in_double) = (None, false);
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                // An escaped bracket counts: an escape does not keep it from being a subscript's.
                let escaped = chars.next();
                if escaped == Some('[') {
                    found = Some(Bracket::Quoted);
                }
            }
            '"' => in_double = !in_double,
            '\'' if !in_double => {
                quoted(&mut chars, '\'');
            }
            '[' if in_double => found = Some(Bracket::Quoted),
            '[' => return Some(Bracket::Bare),
            _ => {}
        }
    }
    found
}

/// A literal command word: the name or path of a program, as written.
pub(super) fn command(raw: &str) -> Option<String> {
    let word = literal(raw)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_./+:@%,-".contains(&b);
    (word == "[" || (!word.is_empty() && word.bytes().all(plain))).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_wherever_they_could_become_subscripts() {
        for (raw, want) in [
            ("[", None),
            ("'a[x]'", None),
            ("\"it's\"'[x]'", None),
            ("a[x]", Some(Bracket::Bare)),
            ("{b[x]}", Some(Bracket::Bare)),
            ("\"it's [x]\"", Some(Bracket::Quoted)),
            ("\"\\\"[x]\"", Some(Bracket::Quoted)),
            ("a\\[x", Some(Bracket::Quoted)),
            ("'a'[x]", Some(Bracket::Bare)),
            ("\\'[x]\\'", Some(Bracket::Bare)),
        ] {
            assert_eq!(bracket(raw), want, "{raw}");
        }
    }

    #[test]
    fn quotes_are_removed_and_nothing_else_is_guessed() {
        assert_eq!(literal("ls").as_deref(), Some("ls"));
        assert_eq!(literal("'l's\"-x\"").as_deref(), Some("ls-x"));
        assert_eq!(literal("\"a b\"").as_deref(), Some("a b"));
        for dynamic in ["$x", "\"$x\"", "l\\s", "l*", "~/x", "{a,b}", "a?", "'open"] {
            assert_eq!(literal(dynamic), None, "{dynamic}");
        }
        assert_eq!(command("[").as_deref(), Some("["));
        assert_eq!(command("'a b'"), None);
        assert_eq!(command("''"), None);
    }
}
