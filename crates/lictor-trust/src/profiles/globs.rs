//! Names with `*` and `?`, as `deny` has them: what a profile shows, and hides all the same.
//!
//! A pattern without `/` is about a name at any depth below what is shown; one with `/` is about the whole path from
//! there on, in which `**` stands for any number of directories, none included.

/// Most patterns of a profile.
pub(super) const MOST: usize = 64;
const LONGEST: usize = 256;

/// Whether a pattern can be used.
pub(super) fn check(pattern: &str) -> Result<(), &'static str> {
    let wrong = |part: &str| matches!(part, "" | "." | "..") || part.contains("**") && part != "**";
    match pattern {
        "" => Err("is empty"),
        p if p.len() > LONGEST => Err("is too long"),
        p if p.contains('\0') => Err("has a NUL"),
        p if p.starts_with('/') => {
            Err("starts with /; patterns are about what lies below the paths that are shown")
        }
        p if p.split('/').any(wrong) => Err("has an empty part, `.`, `..`, or `**` beside other letters"),
        _ => Ok(()),
    }
}

/// Whether a path below what is shown, as its names, is one that a pattern is about.
#[must_use]
pub fn matches(pattern: &str, path: &[&[u8]]) -> bool {
    if !pattern.contains('/') && pattern != "**" {
        return path
            .last()
            .is_some_and(|name| name_matches(pattern.as_bytes(), name));
    }
    let parts: Vec<&[u8]> = pattern.split('/').map(str::as_bytes).collect();
    path_matches(&parts, path)
}

/// What of `path` the first `n` parts can have used up, part by part: the same work however many `**` there are.
fn path_matches(parts: &[&[u8]], path: &[&[u8]]) -> bool {
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; path.len() + 1];
        for at in 0..=path.len() {
            if *part == b"**" {
                next[at] = reached[at] || at > 0 && next[at - 1];
            } else if at > 0 {
                next[at] = reached[at - 1] && name_matches(part, path[at - 1]);
            }
        }
        reached = next;
    }
    reached[path.len()]
}

/// `*` is any number of letters, `?` is one.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                // The last star takes one letter more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::{check, matches};

    #[test]
    fn patterns_are_about_names_or_about_whole_paths() {
        for (pattern, path, is) in [
            (".env", "a/b/.env", true),
            (".env", "a/.env/b", false),
            ("*.pem", "keys/a.pem", true),
            ("*.pem", "keys/a.pem.pub", false),
            ("id_*", "id_", true),
            ("?.key", "ab.key", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("secrets/*", "secrets/a", true),
            ("secrets/*", "secrets/a/b", false),
            ("secrets/*", "x/secrets/a", false),
            ("**/secrets/**", "x/y/secrets/a/b", true),
            ("**/secrets", "secrets", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("**/**/**/**/**/x", "a/a/a/a/a/a/a/a/a/a/a/y", false),
        ] {
            let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            assert_eq!(matches(pattern, &names), is, "{pattern} {path}");
        }
        for wrong in ["", "/etc", "a//b", "../a", "a/./b", "a**", "a\0"] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(check("**/.git/config").is_ok());
    }
}
