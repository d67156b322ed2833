//! What an earlier run of the agent has left of inputs: a file goes on from where it was when the agent went.
//!
//! ```text
//!   found at the start -> wanted by a verified job -> read anew, without the spool's lock -> one of the inputs
//! ```
//!
//! Its bytes are what a file system has kept over a crash, maybe zeros. So they are hashed again, and the digest of the whole
//! decides in the end; if that is another, the input begins anew.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lictor_proto::code::Refusal;
use lictor_proto::doc::StdinBytes;
use lictor_proto::{Code, Digest, limits};
use sha2::{Digest as _, Sha256};

use super::{Input, LARGE, StdinSpool};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Files of an earlier run.
#[derive(Debug)]
pub(super) struct Left {
    /// By what they are called.
    files: HashMap<Digest, PathBuf>,
    /// Those that are being read.
    reading: HashSet<Digest>,
    found_at: Instant,
}

/// One that a job wants.
#[derive(Debug)]
pub(crate) struct LeftInput {
    wanted: StdinBytes,
    file: File,
}

/// One that was read.
#[derive(Debug)]
pub(crate) struct ReadInput {
    file: File,
    size: u64,
    hash: Sha256,
}

impl Left {
    /// The newest files that are called what an input is called. Everything else in the directory goes.
    pub(super) fn find(dir: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let meta = std::fs::symlink_metadata(&path)?;
            match name.replacen('-', ":", 1).parse::<Digest>() {
                Ok(id) if meta.is_file() => {
                    let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((changed, id, path));
                }
                _ if meta.is_dir() => std::fs::remove_dir_all(&path)?,
                _ => std::fs::remove_file(&path)?,
            }
        }
        found.sort_by_key(|(changed, ..)| std::cmp::Reverse(*changed));
        for (_, _, path) in found.drain(LARGE.min(found.len())..) {
            std::fs::remove_file(path)?;
        }
        Ok(Self {
            files: found.into_iter().map(|(_, id, path)| (id, path)).collect(),
            reading: HashSet::new(),
            found_at: Instant::now(),
        })
    }

    /// That nobody reads this one at the moment.
    pub(super) fn check(&self, id: &Digest) -> Result<(), Refusal> {
        match self.reading.contains(id) {
            true => Err(Refusal::new(
                Code::StdinMissing,
                "what is here of it is being read",
            )),
            false => Ok(()),
        }
    }

    /// It is written anew.
    pub(super) fn forget(&mut self, id: &Digest) {
        self.files.remove(id);
    }

    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.found_at.elapsed() > age
    }
}

impl StdinSpool {
    /// What was left of what a verified job wants: to be read ([`LeftInput::read`]), and then taken over.
    pub(crate) fn left_of(&mut self, wanted: &StdinBytes) -> Option<LeftInput> {
        let path = self.left.files.remove(&wanted.sha256)?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        match file.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) if size <= wanted.size => {
                self.left.reading.insert(wanted.sha256);
                Some(LeftInput {
                    wanted: *wanted,
                    file,
                })
            }
            Ok(_) | Err(_) => {
                remove(&path);
                None
            }
        }
    }

    /// It is one of the inputs from now on; where it could not be read, it is gone.
    pub(crate) fn take_over(&mut self, wanted: &StdinBytes, read: Option<ReadInput>) {
        let id = wanted.sha256;
        self.left.reading.remove(&id);
        let read = read.filter(|r| self.make_room(1, r.size.min(limits::STDIN)).is_ok());
        let Some(ReadInput { file, size, hash }) = read else {
            return remove(&self.path(&id));
        };
        let whole = size == wanted.size;
        if whole && Digest(hash.clone().finalize().into()) != id {
            return remove(&self.path(&id));
        }
        if whole && size > limits::STDIN {
            self.large.insert(id, size);
        }
        let input = Input {
            file,
            size,
            hash,
            whole,
            spent: false,
            touched: Instant::now(),
        };
        self.inputs.insert(id, input);
    }

    /// Removes one that no job has wanted yet; says whether there was one.
    pub(super) fn drop_left(&mut self) -> bool {
        let id = self.left.files.keys().next().copied();
        let path = id.and_then(|id| self.left.files.remove(&id));
        path.inspect(|path| remove(path)).is_some()
    }
}

impl LeftInput {
    /// Reads all of it, which takes a while. Whoever writes to it then goes on at its end.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn read(mut self) -> io::Result<ReadInput> {
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            match self.file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    hash.update(&piece[..n]);
                    size += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if size > self.wanted.size {
            return Err(io::Error::other("it is longer than what is wanted"));
        }
        Ok(ReadInput {
            file: self.file,
            size,
            hash,
        })
    }
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(error = %e, "what was left of an input could not be removed");
    }
}
