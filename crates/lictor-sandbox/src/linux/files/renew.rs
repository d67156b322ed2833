//! Another commit of a declared repository, into a clone that jobs have worked in.
//!
//! ```text
//!   a repository of its own, aside  <- objects of the new commit
//!   files of the old commit that the new one lacks -> removed
//!   files of the new commit         -> written where they are not as they should be
//!   the new repository takes the place of .git, in one step
//! ```
//!
//! # Invariants
//! - Nothing of the old `.git` is used but objects that are held against their ids: its settings and hooks start nothing.
//! - What is in neither commit stays. What jobs have changed in a file of the new commit is gone.
//! - What fails before the objects are there changes nothing; what fails later can be done again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::clone::{Clone, credential};
use super::diff::{Blob, Objects, root};
use super::git::{Git, failed};
use crate::carry::CarryError;

/// How the directory begins that becomes `.git`.
const ASIDE: &str = ".lictor-git-";

/// What is to be brought, and what was there before.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::linux) struct Renew {
    /// The commit that was brought last.
    pub(super) was: String,
    pub(super) now: Clone,
}

impl Renew {
    /// Does it. Standard input is the credential, or empty.
    pub(super) fn carry_out(&self, stdin: impl Read) -> Result<(), CarryError> {
        let at = Path::new(&self.now.at);
        let old = at.join(".git");
        if !fs::symlink_metadata(old.join("objects")).is_ok_and(|m| m.is_dir()) {
            return Err(failed("the workspace is no clone, or not any more".to_owned()));
        }
        let credential = credential(stdin)?;
        let aside = Aside::make(at)?;
        let git = self.now.objects(aside.0.clone(), credential.as_ref())?;
        let mut source = Git::new(aside.0.clone(), at);
        let path = old.join("objects").to_string_lossy().into_owned();
        source.variables.push(("GIT_ALTERNATE_OBJECT_DIRECTORIES", path));
        let mut objects = Objects::open(&source)?;
        let now = objects.files_of(&self.now.commit)?;
        // Not here any more where a job has tidied its repository, or where the last renewal was cut short after its last
        // step: then its files are in neither commit, and stay.
        let was = objects.files_of(&self.was).unwrap_or_default();
        drop(objects);
        remove_gone(&root(at)?, &was, &now)?;
        self.now.check_out(&git, &aside.0)?;
        let swapped = rustix::fs::renameat_with(CWD, &aside.0, CWD, &old, RenameFlags::EXCHANGE);
        swapped.map_err(|e| failed(format!("the new repository cannot take its place: {e}")))
    }
}

/// Removes files of the old commit that the new one lacks, and directories that are empty then.
fn remove_gone(
    root: &OwnedFd,
    was: &BTreeMap<Vec<u8>, Blob>,
    now: &BTreeMap<Vec<u8>, Blob>,
) -> Result<(), CarryError> {
    for path in was.keys().filter(|path| !now.contains_key(*path)) {
        let (mut above, mut name) = split(path);
        let mut flags = AtFlags::empty();
        loop {
            match remove(root, above, name, flags) {
                Ok(()) if !above.is_empty() => {}
                Ok(()) => break,
                // Gone already, or something else by now, which is nobody's of the commit.
                Err(
                    Errno::NOENT
                    | Errno::NOTDIR
                    | Errno::LOOP
                    | Errno::ISDIR
                    | Errno::NOTEMPTY
                    | Errno::EXIST,
                ) => break,
                Err(e) => {
                    let path = String::from_utf8_lossy(path);
                    return Err(failed(format!(
                        "{path} cannot be removed: {}",
                        io::Error::from(e)
                    )));
                }
            }
            (above, name) = split(above);
            flags = AtFlags::REMOVEDIR;
        }
    }
    Ok(())
}

/// The directories above, and the last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn remove(root: &OwnedFd, above: &[u8], name: &[u8], flags: AtFlags) -> rustix::io::Result<()> {
    let above = if above.is_empty() { b"." } else { above };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat2(root, above, directory, Mode::empty(), how)?;
    rustix::fs::unlinkat(dir, name, flags)
}

/// Where the new repository is until it is in its place, and the old one from then on: gone afterwards. What a killed process
/// has left goes first.
struct Aside(PathBuf);

impl Aside {
    fn make(at: &Path) -> Result<Self, CarryError> {
        let tidy = || -> io::Result<()> {
            for entry in fs::read_dir(at)? {
                let entry = entry?;
                let is_one = entry.file_name().as_encoded_bytes().starts_with(ASIDE.as_bytes());
                if is_one && entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        tidy().map_err(|e| failed(format!("the workspace cannot be tidied up: {e}")))?;
        Ok(Self(at.join(format!("{ASIDE}{}", std::process::id()))))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{Blob, remove_gone, root};

    #[test]
    fn what_the_new_commit_lacks_goes_and_nothing_that_a_link_leads_to() {
        let place = tempfile::tempdir().expect("a directory");
        let (at, outside) = (place.path().join("at"), place.path().join("outside"));
        for dir in [at.join("a/b"), at.join("kept"), outside.clone()] {
            fs::create_dir_all(dir).expect("made");
        }
        for file in [
            "at/a/b/gone",
            "at/kept/gone",
            "at/kept/new",
            "at/stays",
            "outside/gone",
        ] {
            fs::write(place.path().join(file), "x").expect("written");
        }
        symlink(&outside, at.join("link")).expect("linked");
        let blob = Blob {
            mode: 0o100_644,
            id: "0".repeat(40),
        };
        let files = |names: &[&str]| -> BTreeMap<Vec<u8>, Blob> {
            let all = names.iter().map(|n| (n.as_bytes().to_vec(), blob.clone()));
            all.collect()
        };
        let was = files(&["a/b/gone", "kept/gone", "link/gone", "never", "stays"]);
        remove_gone(&root(&at).expect("open"), &was, &files(&["stays"])).expect("removed");
        assert!(!at.join("a").exists() && !at.join("kept/gone").exists());
        assert!(at.join("kept/new").exists() && at.join("stays").exists());
        assert!(outside.join("gone").exists(), "no link is followed");
    }
}
