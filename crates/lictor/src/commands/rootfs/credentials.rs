//! Passwords for registries: one file that the node's owner names in the agent's configuration, in the form that `skopeo login
//! --authfile` writes (containers-auth.json(5)).
//!
//! # Invariants
//! - skopeo is given the one entry that is for the image, for the image's own registry. It gives it to that one and to whom that
//!   names for giving out passes.
//! - A file that others may read is not used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use lictor_trust::profiles::ImageName;
use serde::Deserialize;
use serde_json::json;

/// Longest file.
const MOST: u64 = 256 * 1024;

#[derive(Deserialize)]
struct Entries {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

/// What skopeo is given for an image: a file of the same form, with one entry at most.
pub(super) fn of(file: Option<&Path>, image: &ImageName) -> Result<Option<String>, String> {
    let Some(path) = file else { return Ok(None) };
    let text = read(path).map_err(|why| format!("the file with passwords, {}: {why}", path.display()))?;
    Ok(entry(text, image).map(|auth| {
        let registry = image.registry();
        json!({ "auths": { registry: { "auth": auth } } }).to_string()
    }))
}

fn read(path: &Path) -> Result<Entries, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mode = file.metadata().map_err(|e| e.to_string())?.mode();
    if mode & 0o077 != 0 {
        return Err("others may read it; chmod 600".to_owned());
    }
    let mut text = String::new();
    let read = file.take(MOST + 1).read_to_string(&mut text);
    read.map_err(|e| e.to_string())?;
    if text.len() as u64 > MOST {
        return Err(format!("it is longer than {MOST} bytes"));
    }
    // Where it is wrong is told, what is there is not.
    serde_json::from_str(&text).map_err(|e| format!("no JSON of passwords, line {}", e.line()))
}

/// The entry whose name is the longest part of the image's, from its registry on.
fn entry(entries: Entries, image: &ImageName) -> Option<String> {
    let fits = |name: &str| {
        let rest = image.as_str().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let fitting = entries.auths.into_iter().filter(|(name, _)| fits(name));
    let (_, entry) = fitting.max_by_key(|(name, _)| name.len())?;
    entry.auth
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FILE: &str = r#"{"auths": {
        "registry.example.com": {"auth": "cmVnaXN0cnk="},
        "registry.example.com/team": {"auth": "dGVhbQ=="},
        "registry.example.com:5000": {"auth": "cG9ydA=="},
        "other.example.com": {"auth": "b3RoZXI="}
    }, "credHelpers": {"helped.example.com": "program"}}"#;

    fn of_file(text: &str, mode: u32, image: &str) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        of(Some(&path), &image.parse().expect("an image"))
    }

    #[test]
    fn an_image_gets_the_entry_that_is_most_its_own_and_no_other() {
        for (image, auth) in [
            ("registry.example.com/name", Some("cmVnaXN0cnk=")),
            ("registry.example.com/team/name", Some("dGVhbQ==")),
            ("registry.example.com/teams/name", Some("cmVnaXN0cnk=")),
            ("registry.example.com:5000/team/name", Some("cG9ydA==")),
            ("registry.example.com:5001/team/name", None),
            ("example.com/name", None),
            ("helped.example.com/name", None),
        ] {
            let given = of_file(FILE, 0o600, image).expect("read");
            let registry = image.split('/').next().expect("a registry");
            let expected = auth.map(|a| json!({ "auths": { registry: { "auth": a } } }).to_string());
            assert_eq!(given, expected, "{image}");
        }
        let image = "registry.example.com/name".parse().expect("an image");
        assert_eq!(of(None, &image), Ok(None));
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_wrong_is_not_used_and_not_shown() {
        let image = "registry.example.com/name";
        let open = of_file(FILE, 0o640, image).expect_err("refused");
        assert!(open.contains("chmod 600"), "{open}");
        let wrong = of_file(r#"{"auths": {"x": {"auth": 7secret}}}"#, 0o600, image).expect_err("refused");
        assert!(!wrong.contains("secret") && wrong.contains("line 1"), "{wrong}");
        let long = format!("{}{FILE}", " ".repeat(MOST as usize));
        assert!(of_file(&long, 0o600, image).is_err());
        let none = of(Some(Path::new("/nonexistent")), &image.parse().expect("an image"));
        assert!(none.is_err());
    }
}
