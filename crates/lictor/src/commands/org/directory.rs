//! Reads and writes an org directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lictor_client::home::make_dir;

use crate::failure::{Doing as _, Failure, Result};

/// No file of an org is larger; the whole bundle has a limit of its own.
const FILE: u64 = 4 * 1024 * 1024;

/// The files that a bundle is made of, path to text.
pub(crate) fn read(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for name in ["roster.toml", "fleet.toml", "profiles.toml"] {
        let path = dir.join(name);
        if !path.exists() {
            return Err(Failure::new(format!("{} is missing", path.display()))
                .hint("`lictor org init` makes a directory to start from; --dir names another one."));
        }
        files.insert(name.to_owned(), text(&path)?);
    }
    for (sub, ending) in [("policies", ".cedar"), ("scripts", "")] {
        for path in list(&dir.join(sub))? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default()
                .to_owned();
            if name.ends_with(ending) && !name.starts_with('.') {
                files.insert(format!("{sub}/{name}"), text(&path)?);
            }
        }
    }
    Ok(files)
}

/// The files directly in a directory, sorted; none when there is no such directory.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    if dir.is_dir() {
        for entry in fs::read_dir(dir).doing(format!("read {}", dir.display()))? {
            let path = entry.doing(format!("read {}", dir.display()))?.path();
            if path.is_file() {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// A text file of sensible size.
pub(crate) fn text(path: &Path) -> Result<String> {
    text_within(path, FILE)
}

/// A text file of at most so many bytes.
pub(crate) fn text_within(path: &Path, limit: u64) -> Result<String> {
    let size = fs::metadata(path)
        .doing(format!("read {}", path.display()))?
        .len();
    if size > limit {
        let text = format!("{} is over {} MiB", path.display(), limit >> 20);
        return Err(Failure::new(text));
    }
    fs::read_to_string(path).doing(format!("read {}", path.display()))
}

/// Writes a file that is not there yet; one that is stays as it is.
pub(crate) fn begin(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    if path.exists() {
        return Ok(());
    }
    write(&path, text)
}

/// Writes a file whole.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent).doing("make the org directory")?;
    }
    lictor_client::home::replace(path, text.as_bytes()).doing("write the org directory")
}

/// `signed/NAME`.
pub(crate) fn signed(dir: &Path, name: &str) -> PathBuf {
    dir.join("signed").join(name)
}
