//! The files of a commit, from objects that each have been held against their id: whoever can write to the repository can
//! leave objects out, and change none.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};

use lictor_proto::Code;
use sha1::{Digest as _, Sha1};

use crate::carry::CarryError;
use crate::linux::files::git::{Git, failed, start};

/// Directories in directories.
const DEPTH: u32 = 128;
/// Files of a commit.
const FILES: usize = 1_000_000;
/// Bytes of one object, which is held in memory.
const OBJECT: u64 = 512 << 20;
/// The mode of another repository's commit.
const OTHER: u32 = 0o160_000;
const DIRECTORY: u32 = 0o040_000;

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::linux::files) struct Blob {
    /// 0o100644, 0o100755, or 0o120000 of a link.
    pub(in crate::linux::files) mode: u32,
    /// Its id, in hexadecimal digits.
    pub(in crate::linux::files) id: String,
}

/// Where objects come from.
pub(in crate::linux::files) struct Objects {
    child: Child,
    /// Closed at the end, which ends the child.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Objects {
    pub(in crate::linux::files) fn open(git: &Git) -> Result<Self, CarryError> {
        let mut child = start(&mut git.command(&["cat-file", "--batch"]))?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let output = output.ok_or_else(|| failed("git has no output".to_owned()))?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Every file of a commit, by its path.
    pub(in crate::linux::files) fn files_of(
        &mut self,
        commit: &str,
    ) -> Result<BTreeMap<Vec<u8>, Blob>, CarryError> {
        let text = self.read("commit", commit)?;
        let tree = text.strip_prefix(b"tree ").and_then(|rest| rest.get(..40));
        let tree = tree.and_then(|id| std::str::from_utf8(id).ok());
        let tree = tree.ok_or_else(|| failed(format!("the commit {commit} has no tree")))?;
        let mut files = BTreeMap::new();
        self.tree(tree, &[], DEPTH, &mut files)?;
        Ok(files)
    }

    fn tree(
        &mut self,
        id: &str,
        above: &[u8],
        depth: u32,
        files: &mut BTreeMap<Vec<u8>, Blob>,
    ) -> Result<(), CarryError> {
        let wrong = || failed(format!("the tree {id} cannot be read"));
        let depth = depth.checked_sub(1).ok_or_else(wrong)?;
        let content = self.read("tree", id)?;
        let mut rest = &content[..];
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == 0).ok_or_else(wrong)?;
            let (head, after) = rest.split_at(end);
            let (inner, left) = after[1..].split_at_checked(20).ok_or_else(wrong)?;
            rest = left;
            let blank = head.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let mode = std::str::from_utf8(&head[..blank]).ok();
            let mode = mode
                .and_then(|m| u32::from_str_radix(m, 8).ok())
                .ok_or_else(wrong)?;
            let name = &head[blank + 1..];
            if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
                return Err(wrong());
            }
            let mut path = above.to_vec();
            path.extend_from_slice(name);
            let id = hex(inner);
            match mode {
                DIRECTORY => {
                    path.push(b'/');
                    self.tree(&id, &path, depth, files)?;
                }
                OTHER => {}
                _ => {
                    files.insert(
                        path,
                        Blob {
                            mode: plain(mode),
                            id,
                        },
                    );
                }
            }
            if files.len() > FILES {
                return Err(CarryError::new(
                    Code::SourceTooLarge,
                    "the commit has over a million files",
                ));
            }
        }
        Ok(())
    }

    /// An object of this kind, if it is the one that its id says.
    pub(super) fn read(&mut self, kind: &str, id: &str) -> Result<Vec<u8>, CarryError> {
        let lost = |e: io::Error| failed(format!("the {kind} {id} cannot be read: {e}"));
        let input = self
            .input
            .as_mut()
            .ok_or_else(|| lost(io::ErrorKind::BrokenPipe.into()))?;
        input.write_all(format!("{id}\n").as_bytes()).map_err(lost)?;
        let mut head = String::new();
        (&mut self.output).take(256).read_line(&mut head).map_err(lost)?;
        let size = head.trim_end().strip_prefix(&format!("{id} {kind} "));
        let size: u64 = size.and_then(|size| size.parse().ok()).ok_or_else(|| {
            failed(format!(
                "the workspace's repository has no {kind} {id}: {}",
                head.trim_end()
            ))
        })?;
        if size > OBJECT {
            let why = format!("the {kind} {id} has {size} bytes, and at most {OBJECT} are read");
            return Err(CarryError::new(Code::SourceTooLarge, why));
        }
        let mut content = Vec::new();
        (&mut self.output)
            .take(size + 1)
            .read_to_end(&mut content)
            .map_err(lost)?;
        content.pop();
        if content.len() as u64 != size || id_of(kind, size, |hash| hash.update(&content)) != id {
            let why = format!("what the workspace's repository has as {kind} {id} is something else");
            return Err(CarryError::new(Code::ContentMismatch, why));
        }
        Ok(content)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of an object whose content `fill` adds.
pub(super) fn id_of(kind: &str, size: u64, fill: impl FnOnce(&mut Sha1)) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {size}\0"));
    fill(&mut hash);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A mode as git writes it today: old repositories have others.
fn plain(mode: u32) -> u32 {
    match mode & 0o170_000 {
        0o120_000 => 0o120_000,
        _ if mode & 0o100 != 0 => 0o100_755,
        _ => 0o100_644,
    }
}
