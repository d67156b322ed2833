//! Which files count as which interpreter.
//!
//! A script names its interpreter by a word, and the profile's `path` says where that is looked up. What is found there
//! must be an interpreter of that name by its canonical path, all links resolved: one of the usual places with a usual
//! file name, or a path that the profile lists. So nobody makes `python3` mean another program by a link, and no name
//! that is not known here runs anything unless the law says what it is.

use lictor_proto::code::Refusal;
use lictor_proto::{Code, Name};

use super::Profile;

/// Where systems keep their interpreters.
const PLACES: [&str; 3] = ["/usr/bin/", "/bin/", "/usr/local/bin/"];

/// Names, and what their files are called at the end of the links; also with a version after it.
const KNOWN: &[(&str, &[&str])] = &[
    ("ash", &["ash", "busybox", "dash"]),
    ("bash", &["bash"]),
    ("dash", &["dash"]),
    ("fish", &["fish"]),
    ("ksh", &["ksh", "ksh93", "mksh"]),
    ("lua", &["lua"]),
    ("node", &["node", "nodejs"]),
    ("perl", &["perl"]),
    ("php", &["php"]),
    ("pwsh", &["pwsh"]),
    ("python3", &["python3"]),
    ("ruby", &["ruby"]),
    ("sh", &["sh", "dash", "bash", "busybox"]),
    ("zsh", &["zsh"]),
];

/// Where its own packages keep PowerShell; what `pwsh` in the usual places leads to.
const POWERSHELL: &str = "/opt/microsoft/powershell/";

/// Most names that a profile adds, and most paths for each.
const MOST: usize = 32;

impl Profile {
    /// Whether the file at this canonical path may read scripts under this name.
    ///
    /// # Errors
    /// [`Code::InterpreterRefused`].
    pub fn check_interpreter(&self, name: &Name, path: &str) -> Result<(), Refusal> {
        let listed = self.interpreters.get(name);
        if listed.is_some_and(|paths| paths.iter().any(|p| p == path)) || is_usual(name.as_str(), path) {
            return Ok(());
        }
        let why = if listed.is_some() || is_known(name.as_str()) {
            format!(
                "{name} leads to {}, which is not known as one",
                path.escape_debug()
            )
        } else {
            format!("{name} is not known as an interpreter")
        };
        Err(Refusal::new(Code::InterpreterRefused, why))
    }

    pub(super) fn validate_interpreters(&self) -> Result<(), String> {
        if self.interpreters.len() > MOST || self.interpreters.values().any(|p| p.len() > MOST) {
            return Err(format!("at most {MOST} names, with at most {MOST} paths each"));
        }
        let canonical = |p: &String| {
            p.starts_with('/')
                && !p.contains('\0')
                && p[1..].split('/').all(|part| !matches!(part, "" | "." | ".."))
        };
        let mut all = self.interpreters.values().flatten();
        match all.find(|p| !canonical(p)) {
            Some(path) => Err(format!("{path:?} is no canonical path of a file")),
            None => Ok(()),
        }
    }
}

fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

fn is_usual(name: &str, path: &str) -> bool {
    let powershell = path
        .strip_prefix(POWERSHELL)
        .and_then(|rest| rest.strip_suffix("/pwsh"));
    if name == "pwsh" && powershell.is_some_and(is_version) {
        return true;
    }
    let mut places = PLACES.iter().filter_map(|place| path.strip_prefix(place));
    let files = KNOWN.iter().filter(|(known, _)| *known == name);
    places.any(|file| {
        files
            .clone()
            .flat_map(|(_, files)| *files)
            .any(|known| file.strip_prefix(known).is_some_and(is_version))
    })
}

/// Nothing, or digits and dots, as in `python3.11` and `ruby3.1`.
fn is_version(rest: &str) -> bool {
    rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::Profile;

    fn profile(more: &str) -> Profile {
        serde_json::from_str(&format!("{{\"backend\": \"bubblewrap\"{more}}}")).expect("a profile")
    }

    fn takes(profile: &Profile, name: &str, path: &str) -> bool {
        profile
            .check_interpreter(&name.parse().expect("a name"), path)
            .is_ok()
    }

    #[test]
    fn only_the_usual_files_in_the_usual_places_count() {
        let profile = profile("");
        for (name, path, good) in [
            ("sh", "/usr/bin/dash", true),
            ("sh", "/bin/busybox", true),
            ("bash", "/usr/bin/bash", true),
            ("python3", "/usr/bin/python3.11", true),
            ("python3", "/usr/local/bin/python3", true),
            ("ruby", "/usr/bin/ruby3.1", true),
            ("node", "/usr/bin/node", true),
            ("pwsh", "/opt/microsoft/powershell/7/pwsh", true),
            ("pwsh", "/opt/microsoft/powershell/7/x/pwsh", false),
            ("bash", "/usr/bin/dash", false),
            ("bash", "/home/x/bin/bash", false),
            ("bash", "/usr/bin/bash-evil", false),
            ("bash", "/usr/bin/sub/bash", false),
            ("python3", "/usr/bin/python3.11/x", false),
            ("python3", "/usr/bin/env", false),
            ("env", "/usr/bin/env", false),
        ] {
            assert_eq!(takes(&profile, name, path), good, "{name} {path}");
        }
    }

    #[test]
    fn the_law_adds_what_it_names_and_nothing_else() {
        let profile = profile(
            ", \"interpreters\": {\"python3\": [\"/opt/py/bin/python3.13\"], \"deno\": [\"/usr/bin/deno\"]}",
        );
        assert_eq!(profile.validate_interpreters(), Ok(()));
        assert!(takes(&profile, "python3", "/opt/py/bin/python3.13"));
        assert!(takes(&profile, "python3", "/usr/bin/python3.11"));
        assert!(takes(&profile, "deno", "/usr/bin/deno"));
        assert!(!takes(&profile, "bash", "/opt/py/bin/python3.13"));
    }

    #[test]
    fn a_path_that_no_file_could_have_is_refused() {
        for path in ["python3", "/opt/../bin/x", "/opt//x", "/opt/x/", "/"] {
            let profile = profile(&format!(", \"interpreters\": {{\"x\": [\"{path}\"]}}"));
            assert!(profile.validate_interpreters().is_err(), "{path}");
        }
    }
}
