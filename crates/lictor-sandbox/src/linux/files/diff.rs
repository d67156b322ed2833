//! What the files of a workspace are, against the commit that was cloned into it, as a patch that `git apply` takes.
//!
//! ```text
//!   the commit  --each object held against its id--> paths, modes, ids --.
//!                                                                        +--> both sides of what differs, in a
//!   the files   --walked by handles, hashed--------> paths, modes, ids --'    repository of its own --> git diff-tree
//! ```
//!
//! # Invariants
//! - The workspace's `.git` is only where objects come from, and each is held against its id here: what jobs have written there,
//!   settings, index, attributes, other objects, changes nothing of what is said.
//! - No link is followed; no program of the workspace's is started.
//! - Every file that is not as in the commit is in the patch, or counted among those left out.

mod tree;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};

use lictor_proto::{Code, limits};
use serde::{Deserialize, Serialize};

pub(super) use self::tree::{Blob, Objects};
pub(super) use self::walk::root;
use self::walk::{Found, Tree};
use super::git::{Git, check, failed, start};
use crate::carry::CarryError;

/// How the directory begins that is worked in, in `.git`.
const SCRATCH: &str = "lictor-diff-";
/// Before a path from the workspace on.
const HERE: &[u8] = b"./";
/// What is said of both sides' commits.
const NOBODY: &str = "committer lictor <> 0 +0000\ndata 0\n";

/// What is to be compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::linux) struct Diff {
    /// The workspace, as the process sees it.
    pub(super) at: String,
    /// The commit.
    pub(super) against: String,
    /// Whether new files are shown that the workspace's `.gitignore` files leave out.
    pub(super) ignored: bool,
    /// The most bytes that are written.
    pub(super) max_bytes: u64,
}

/// What differs, by path.
#[derive(Default)]
struct Changes {
    /// As it is in the commit; nothing of what is new.
    was: Vec<(Vec<u8>, Blob)>,
    /// As it is now; nothing of what is gone.
    now: Vec<Found>,
    new: u64,
    gone: u64,
    ignored: u64,
    left_out: u64,
}

impl Diff {
    /// Does it.
    pub(super) fn carry_out(&self, out: impl Write) -> Result<(), CarryError> {
        let at = Path::new(&self.at);
        let own = at.join(".git");
        let objects = own.join("objects");
        if !fs::symlink_metadata(&objects).is_ok_and(|m| m.is_dir()) {
            return Err(failed("the workspace is no clone, or not any more".to_owned()));
        }
        let scratch = Scratch::make(&own)?;
        let mut git = Git::new(scratch.0.join("git"), at);
        git.make()?;
        // Names that other systems cannot have are names here.
        let names = ["core.protectHFS=false", "core.protectNTFS=false"];
        git.settings.extend(names.map(str::to_owned));
        let mut source = Git::new(scratch.0.join("git"), at);
        let path = objects.to_string_lossy().into_owned();
        source.variables.push(("GIT_ALTERNATE_OBJECT_DIRECTORIES", path));
        let mut objects = Objects::open(&source)?;
        let was = objects.files_of(&self.against)?;
        let root = walk::root(at)?;
        let changes = self.compare(&git, &was, &root)?;
        let said = changes.in_words(&self.against);
        let written = writeln!(io::stderr(), "{said}");
        written.map_err(|e| failed(format!("standard error: {e}")))?;
        if changes.was.is_empty() && changes.now.is_empty() {
            return Ok(());
        }
        import(&git, &mut objects, &changes, &root)?;
        self.write(&git, out)
    }

    fn compare(
        &self,
        git: &Git,
        was: &BTreeMap<Vec<u8>, Blob>,
        root: &OwnedFd,
    ) -> Result<Changes, CarryError> {
        let Tree { files, left_out } = walk::all(root)?;
        let mut changes = Changes {
            left_out,
            ..Changes::default()
        };
        let mut new = Vec::new();
        let mut seen = BTreeSet::new();
        for found in files {
            let Some((path, blob)) = was.get_key_value(&found.path) else {
                new.push(found);
                continue;
            };
            seen.insert(path);
            if blob.mode != found.mode || blob.id != walk::id_of(root, &found)? {
                changes.was.push((path.clone(), blob.clone()));
                changes.now.push(found);
            }
        }
        let gone = was.iter().filter(|(path, _)| !seen.contains(path));
        for (path, blob) in gone {
            changes.gone += 1;
            changes.was.push((path.clone(), blob.clone()));
        }
        let ignored = match self.ignored {
            true => BTreeSet::new(),
            false => ignored(git, &new)?,
        };
        let before = new.len();
        new.retain(|found| !ignored.contains(&found.path));
        changes.ignored = (before - new.len()) as u64;
        changes.new = new.len() as u64;
        changes.now.append(&mut new);
        Ok(changes)
    }

    fn write(&self, git: &Git, mut out: impl Write) -> Result<(), CarryError> {
        let words = [
            "diff-tree",
            "-r",
            "-p",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "refs/heads/was",
            "refs/heads/now",
        ];
        let mut child = start(&mut git.command(&words))?;
        drop(child.stdin.take());
        let lost = |e: io::Error| failed(format!("the patch cannot be written: {e}"));
        if let Some(mut patch) = child.stdout.take() {
            let written = io::copy(&mut (&mut patch).take(self.max_bytes), &mut out).map_err(lost)?;
            if written == self.max_bytes && patch.read(&mut [0]).map_err(lost)? != 0 {
                let why = format!("the patch has more than {written} bytes");
                return Err(CarryError::new(Code::SourceTooLarge, why));
            }
        }
        check(&words, child.wait().map_err(lost)?)?;
        out.flush().map_err(lost)
    }
}

impl Changes {
    fn in_words(&self, against: &str) -> String {
        let changed = self.now.len() as u64 - self.new;
        format!(
            "against {against}: {changed} changed, {} new, {} gone; not shown: {} ignored, {} that are no files or lie in \
             another repository",
            self.new, self.gone, self.ignored, self.left_out
        )
    }
}

/// Which of these new files `.gitignore` files of the workspace leave out.
fn ignored(git: &Git, new: &[Found]) -> Result<BTreeSet<Vec<u8>>, CarryError> {
    if new.is_empty() {
        return Ok(BTreeSet::new());
    }
    let words = ["check-ignore", "-z", "--stdin", "--no-index"];
    let lost = |e: io::Error| failed(format!("git check-ignore: {e}"));
    let mut child = start(&mut git.command(&words))?;
    let mut input = child.stdin.take();
    let mut text = Vec::new();
    for found in new {
        // A name that begins with `:` would be more than a name.
        text.extend_from_slice(HERE);
        text.extend_from_slice(&found.path);
        text.push(0);
    }
    let mut said = Vec::new();
    std::thread::scope(|scope| -> io::Result<()> {
        let writer = scope.spawn(move || input.as_mut().map_or(Ok(()), |input| input.write_all(&text)));
        if let Some(mut output) = child.stdout.take() {
            output.read_to_end(&mut said)?;
        }
        writer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
    .map_err(lost)?;
    let status = child.wait().map_err(lost)?;
    // 1: none of them.
    if status.code() != Some(1) {
        check(&words, status)?;
    }
    let names = said.split(|b| *b == 0).filter_map(|name| name.strip_prefix(HERE));
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Both sides of what differs, each as a commit.
fn import(git: &Git, objects: &mut Objects, changes: &Changes, root: &OwnedFd) -> Result<(), CarryError> {
    let words = ["fast-import", "--quiet", "--done", "--date-format=raw"];
    let mut command = git.command(&words);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| failed(format!("git fast-import: {e}")))?;
    let mut written = Ok(());
    if let Some(input) = child.stdin.take() {
        let mut import = Import {
            out: BufWriter::with_capacity(256 * 1024, input),
            left: limits::ARTIFACT,
        };
        written = import.both(objects, changes, root);
    }
    let status = child
        .wait()
        .map_err(|e| failed(format!("git fast-import: {e}")))?;
    written?;
    check(&words, status)
}

struct Import {
    out: BufWriter<ChildStdin>,
    /// Bytes that may still be read.
    left: u64,
}

impl Import {
    fn both(&mut self, objects: &mut Objects, changes: &Changes, root: &OwnedFd) -> Result<(), CarryError> {
        self.say(format!("commit refs/heads/was\n{NOBODY}").as_bytes())?;
        for (path, blob) in &changes.was {
            let content = objects.read("blob", &blob.id)?;
            self.begin(path, blob.mode, content.len() as u64)?;
            self.say(&content)?;
            self.say(b"\n")?;
        }
        self.say(format!("commit refs/heads/now\n{NOBODY}").as_bytes())?;
        for found in &changes.now {
            self.begin(&found.path, found.mode, found.size)?;
            let mut content = walk::open(root, found)?.take(found.size);
            let copied = io::copy(&mut content, &mut self.out).map_err(lost)?;
            if copied != found.size {
                return Err(failed("a file was changed while it was read".to_owned()));
            }
            self.say(b"\n")?;
        }
        self.say(b"done\n")?;
        self.out.flush().map_err(lost)
    }

    fn begin(&mut self, path: &[u8], mode: u32, size: u64) -> Result<(), CarryError> {
        let too_much = || CarryError::new(Code::SourceTooLarge, "more than 4 GiB of content differ");
        self.left = self.left.checked_sub(size).ok_or_else(too_much)?;
        self.say(format!("M {mode:o} inline {}\ndata {size}\n", quoted(path)).as_bytes())
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), CarryError> {
        self.out.write_all(bytes).map_err(lost)
    }
}

fn lost(e: io::Error) -> CarryError {
    failed(format!("what differs cannot be compared: {e}"))
}

/// A path as `fast-import` reads it, whatever bytes it has.
fn quoted(path: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in path {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text.push('"');
    text
}

/// A directory to work in, gone afterwards; what a killed process has left goes first.
struct Scratch(PathBuf);

impl Scratch {
    fn make(own: &Path) -> Result<Self, CarryError> {
        let made = || -> io::Result<Self> {
            for entry in fs::read_dir(own)? {
                let entry = entry?;
                if entry
                    .file_name()
                    .as_encoded_bytes()
                    .starts_with(SCRATCH.as_bytes())
                {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            let dir = own.join(format!("{SCRATCH}{}", std::process::id()));
            fs::create_dir(&dir)?;
            Ok(Self(dir))
        };
        made().map_err(|e| failed(format!("there is no place to compare in, {}: {e}", own.display())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
