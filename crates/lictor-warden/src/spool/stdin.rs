//! Standard input of jobs: pieces go to a file, which is checked as a whole before any job may have it.
//!
//! Nothing here is trusted or durable: when room is needed a file is gone and the hub sends it again, and what an earlier
//! run of the agent has left is read anew before any more is put to it ([`left`]). What a job starts with is decided by
//! the digest and size that the job's signature covers.

pub(crate) mod left;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lictor_proto::agent::StdinPiece;
use lictor_proto::code::Refusal;
use lictor_proto::doc::StdinBytes;
use lictor_proto::{Code, Digest, limits};
use sha2::{Digest as _, Sha256};

use super::positioned::create;

/// Most inputs held at once.
const COUNT: usize = 256;
/// Most bytes held at once.
const BYTES: u64 = 4 * limits::STDIN;
/// Larger files that come or are here at once.
const LARGE: usize = 8;
/// What stays free on the disk besides what jobs bring and take.
pub(crate) const SPARE: u64 = 256 * 1024 * 1024;
/// How long an input that nobody touches is kept.
const IDLE: Duration = Duration::from_secs(600);

/// All inputs that are here or on their way.
#[derive(Debug)]
pub struct StdinSpool {
    dir: PathBuf,
    inputs: HashMap<Digest, Input>,
    /// Files that verified jobs wait for and that are larger than any standard input: only those may come.
    large: HashMap<Digest, u64>,
    /// What other inputs that verified jobs wait for have at most.
    small: HashMap<Digest, u64>,
    left: left::Left,
}

#[derive(Debug)]
struct Input {
    file: File,
    size: u64,
    hash: Sha256,
    whole: bool,
    /// The last job that asked for it has it, or needs it no more.
    spent: bool,
    touched: Instant,
}

impl StdinSpool {
    /// A spool in `dir`, which is made. What an earlier one has left in it is nobody's until a job wants it.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        Ok(Self {
            left: left::Left::find(dir)?,
            dir: dir.to_owned(),
            inputs: HashMap::new(),
            large: HashMap::new(),
            small: HashMap::new(),
        })
    }

    /// Takes a piece. Pieces come in order; what of a piece is here already is passed over, so two senders of the
    /// same input do not disturb each other. Whole inputs make room for new ones, oldest first.
    ///
    /// # Errors
    /// `StdinMismatch` when the whole has another digest, `LimitExceeded`, `DiskFull`, or `BadRequest` when a piece
    /// is missing.
    pub fn take(&mut self, piece: &StdinPiece) -> Result<(), Refusal> {
        let id = piece.sha256;
        self.left.check(&id)?;
        if let Some(input) = self.inputs.get_mut(&id).filter(|i| i.whole) {
            input.touched = Instant::now();
            return Ok(());
        }
        let len = piece.bytes.len() as u64;
        let known = self.large.get(&id).or_else(|| self.small.get(&id));
        let most = known.copied().unwrap_or(limits::STDIN);
        if piece.at.saturating_add(len) > most {
            self.drop_input(&id);
            return Err(Refusal::new(Code::LimitExceeded, "too much standard input"));
        }
        let begins = piece.at == 0 && !self.inputs.contains_key(&id);
        self.make_room(usize::from(begins), len)?;
        if begins {
            self.start(id)?;
        }
        let input = self.inputs.get_mut(&id).filter(|i| i.size >= piece.at);
        let input =
            input.ok_or_else(|| Refusal::new(Code::BadRequest, "a piece of standard input is missing"))?;
        input.touched = Instant::now();
        input.spent = false;
        let known = usize::try_from(input.size - piece.at).unwrap_or(usize::MAX);
        let new = piece.bytes.get(known..).unwrap_or_default();
        if let Err(e) = input.file.write_all(new) {
            self.drop_input(&id);
            return Err(disk(&e));
        }
        input.hash.update(new);
        input.size += new.len() as u64;
        if !piece.last {
            return Ok(());
        }
        if Digest(input.hash.clone().finalize().into()) != id {
            self.drop_input(&id);
            return Err(Code::StdinMismatch.into());
        }
        input.whole = true;
        Ok(())
    }

    /// Lets whole inputs go until so many more inputs and bytes may come. A job that lost its input that way is not
    /// taken, and the hub sends it again.
    fn make_room(&mut self, inputs: usize, len: u64) -> Result<(), Refusal> {
        loop {
            let is_small = |id, i: &Input| !self.large.contains_key(id) && i.size <= limits::STDIN;
            let small = self.inputs.iter().filter(|(id, i)| is_small(*id, i));
            let held: u64 = small.map(|(_, i)| i.size).sum();
            if self.inputs.len() + inputs <= COUNT && held.saturating_add(len) <= BYTES {
                return Ok(());
            }
            let whole = self.inputs.iter().filter(|(_, i)| i.whole);
            let oldest = whole.min_by_key(|(_, i)| i.touched).map(|(id, _)| *id);
            let Some(oldest) = oldest else {
                return Err(Refusal::new(
                    Code::LimitExceeded,
                    "too much standard input at once",
                ));
            };
            self.drop_input(&oldest);
        }
    }

    /// How much of an input is here.
    #[must_use]
    pub fn have(&self, id: &Digest) -> u64 {
        self.inputs.get(id).map_or(0, |i| i.size)
    }

    /// Says what a verified job waits for: no more of it may come then, and so much may, also where that is more than any
    /// standard input. Larger files, or what has come of them, that no job waits for make room for it, oldest first. `free` says what the disk has
    /// left, and is asked again after each: while a job has a file open, its room does not come back.
    ///
    /// # Errors
    /// `DiskFull`, or `LimitExceeded` when as many come as may.
    pub fn expect(&mut self, wanted: &StdinBytes, free: impl Fn() -> u64) -> Result<(), Refusal> {
        if wanted.size <= limits::STDIN {
            if self.small.len() < COUNT {
                let most = self.small.entry(wanted.sha256).or_default();
                *most = wanted.size.max(*most);
            }
            return Ok(());
        }
        if self.large.get(&wanted.sha256) == Some(&wanted.size) {
            return Ok(());
        }
        while let Err(refusal) = self.has_room(wanted, free()) {
            if self.drop_left() {
                continue;
            }
            let spent = self
                .inputs
                .iter()
                .filter(|(id, i)| i.spent && self.large.contains_key(*id) && **id != wanted.sha256);
            let oldest = spent.min_by_key(|(_, i)| i.touched).map(|(id, _)| *id);
            self.drop_input(&oldest.ok_or(refusal)?);
        }
        self.large.insert(wanted.sha256, wanted.size);
        Ok(())
    }

    fn has_room(&self, wanted: &StdinBytes, free: u64) -> Result<(), Refusal> {
        let rest = wanted.size.saturating_sub(self.have(&wanted.sha256));
        if free < self.coming().saturating_add(rest).saturating_add(SPARE) {
            let why = format!("a file of {} bytes is to come, and {free} are free", wanted.size);
            return Err(Refusal::new(Code::DiskFull, why));
        }
        if self.large.len() >= LARGE {
            let why = "too many large files come at once";
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        Ok(())
    }

    /// Lets go of what is here of an input: it begins anew.
    pub(crate) fn begin_anew(&mut self, id: &Digest) {
        self.drop_input(id);
    }

    /// Bytes of larger files that are still to come.
    pub(crate) fn coming(&self) -> u64 {
        let rest = self
            .large
            .iter()
            .map(|(id, size)| size.saturating_sub(self.have(id)));
        rest.sum()
    }

    /// A job that named this input has it, or will never start: it may go once its room is needed.
    pub fn spent(&mut self, id: &Digest) {
        if let Some(input) = self.inputs.get_mut(id) {
            input.spent = true;
        }
    }

    /// Nobody goes on with it for now: what has come of it stays while there is room, and where nothing has, nothing is
    /// promised.
    pub(crate) fn forsaken(&mut self, id: &Digest) {
        if self.have(id) == 0 {
            self.drop_input(id);
        }
        self.spent(id);
    }

    fn start(&mut self, id: Digest) -> Result<(), Refusal> {
        self.left.forget(&id);
        let file = create(&self.path(&id)).map_err(|e| disk(&e))?;
        self.inputs.insert(
            id,
            Input {
                file,
                size: 0,
                hash: Sha256::new(),
                whole: false,
                spent: false,
                touched: Instant::now(),
            },
        );
        Ok(())
    }

    /// The input that a job's signature names, opened for reading from its start.
    ///
    /// # Errors
    /// `StdinMissing` when it is not here as a whole, `StdinMismatch` when its size is another.
    pub fn get(&mut self, wanted: &StdinBytes) -> Result<File, Refusal> {
        let path = self.path(&wanted.sha256);
        let input = self.inputs.get_mut(&wanted.sha256).filter(|i| i.whole);
        let input = input.ok_or_else(|| Refusal::plain(Code::StdinMissing))?;
        if input.size != wanted.size {
            return Err(Code::StdinMismatch.into());
        }
        input.touched = Instant::now();
        input.spent = false;
        File::open(path).map_err(|e| disk(&e))
    }

    /// Lets go of what nobody has touched for long. A job that has it open keeps it.
    pub fn tidy(&mut self) {
        self.tidy_but(|_| false);
    }

    /// As [`Self::tidy`], but for what is just coming.
    pub(crate) fn tidy_but(&mut self, is_coming: impl Fn(&Digest) -> bool) {
        let idle: Vec<Digest> = self
            .inputs
            .iter()
            .filter(|(id, i)| i.touched.elapsed() > IDLE && !is_coming(id))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.drop_input(&id);
        }
        if self.left.is_older_than(IDLE) {
            while self.drop_left() {}
        }
        // Whatever was expected and is not here will be expected again when its job is offered.
        let inputs = &self.inputs;
        let is_wanted = |id: &Digest| inputs.contains_key(id) || is_coming(id);
        self.large.retain(|id, _| is_wanted(id));
        self.small.retain(|id, _| is_wanted(id));
    }

    fn drop_input(&mut self, id: &Digest) {
        self.large.remove(id);
        self.small.remove(id);
        if self.inputs.remove(id).is_some()
            && let Err(e) = std::fs::remove_file(self.path(id))
        {
            tracing::warn!(error = %e, "a spooled standard input could not be removed");
        }
    }

    fn path(&self, id: &Digest) -> PathBuf {
        self.dir.join(id.to_string().replace(':', "-"))
    }
}

fn disk(e: &io::Error) -> Refusal {
    Refusal::new(Code::DiskFull, format!("standard input cannot be spooled: {e}"))
}

#[cfg(test)]
mod tests;
