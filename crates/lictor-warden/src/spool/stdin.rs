//! Standard input of jobs: pieces go to a file, which is checked as a whole before any job may have it.
//!
//! Nothing here is trusted or durable: after a restart, or when room is needed, a file is gone and the hub sends it
//! again. What a job starts with is decided by the digest and size that the job's signature covers.

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
/// How long an input that nobody touches is kept.
const IDLE: Duration = Duration::from_secs(600);

/// All inputs that are here or on their way.
#[derive(Debug)]
pub struct StdinSpool {
    dir: PathBuf,
    inputs: HashMap<Digest, Input>,
}

#[derive(Debug)]
struct Input {
    file: File,
    size: u64,
    hash: Sha256,
    whole: bool,
    touched: Instant,
}

impl StdinSpool {
    /// An empty spool in `dir`, which is made; what was left in it goes.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::create_dir(dir)?,
        }
        Ok(Self {
            dir: dir.to_owned(),
            inputs: HashMap::new(),
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
        if let Some(input) = self.inputs.get_mut(&id).filter(|i| i.whole) {
            input.touched = Instant::now();
            return Ok(());
        }
        let len = piece.bytes.len() as u64;
        if piece.at.saturating_add(len) > limits::STDIN {
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
            let held: u64 = self.inputs.values().map(|i| i.size).sum();
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

    fn start(&mut self, id: Digest) -> Result<(), Refusal> {
        let file = create(&self.path(&id)).map_err(|e| disk(&e))?;
        self.inputs.insert(
            id,
            Input {
                file,
                size: 0,
                hash: Sha256::new(),
                whole: false,
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
        File::open(path).map_err(|e| disk(&e))
    }

    /// Lets go of what nobody has touched for long. A job that has it open keeps it.
    pub fn tidy(&mut self) {
        let idle: Vec<Digest> = self
            .inputs
            .iter()
            .filter(|(_, i)| i.touched.elapsed() > IDLE)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.drop_input(&id);
        }
    }

    fn drop_input(&mut self, id: &Digest) {
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
mod tests {
    use std::io::Read as _;

    use super::*;

    fn piece(whole: &[u8], from: usize, to: usize) -> StdinPiece {
        StdinPiece {
            sha256: Digest::of(whole),
            at: from as u64,
            last: to == whole.len(),
            bytes: whole[from..to].to_vec(),
        }
    }

    fn wanted(whole: &[u8]) -> StdinBytes {
        StdinBytes {
            sha256: Digest::of(whole),
            size: whole.len() as u64,
        }
    }

    #[test]
    fn gives_an_input_only_once_it_is_whole_and_right() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
        let code = |r: Result<_, Refusal>| r.err().map(|r: Refusal| r.code);
        assert_eq!(
            code(spool.get(&wanted(b"hello")).map(|_| ())),
            Some(Code::StdinMissing)
        );
        assert_eq!(spool.take(&piece(b"hello", 0, 2)), Ok(()));
        assert_eq!(code(spool.take(&piece(b"hello", 3, 5))), Some(Code::BadRequest));
        assert_eq!(
            code(spool.get(&wanted(b"hello")).map(|_| ())),
            Some(Code::StdinMissing)
        );
        assert_eq!(spool.take(&piece(b"hello", 2, 5)), Ok(()));
        let mut text = String::new();
        spool
            .get(&wanted(b"hello"))
            .expect("is here")
            .read_to_string(&mut text)
            .expect("reads");
        assert_eq!(text, "hello");
        let mut other_size = wanted(b"hello");
        other_size.size = 4;
        assert_eq!(
            code(spool.get(&other_size).map(|_| ())),
            Some(Code::StdinMismatch)
        );
    }

    #[test]
    fn two_senders_of_the_same_input_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
        for (from, to) in [(0, 2), (0, 2), (2, 4), (0, 3), (2, 4), (4, 5), (4, 5)] {
            assert_eq!(spool.take(&piece(b"hello", from, to)), Ok(()), "{from}..{to}");
        }
        let mut text = String::new();
        let mut file = spool.get(&wanted(b"hello")).expect("is here");
        file.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "hello");
    }

    #[test]
    fn whole_inputs_make_room_oldest_first_and_unfinished_ones_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
        let inputs: Vec<String> = (0..=COUNT).map(|i| format!("input {i}")).collect();
        assert_eq!(spool.take(&piece(b"unfinished", 0, 2)), Ok(()));
        for input in &inputs {
            let bytes = input.as_bytes();
            assert_eq!(spool.take(&piece(bytes, 0, bytes.len())), Ok(()));
        }
        let mut here = |input: &str| spool.get(&wanted(input.as_bytes())).is_ok();
        assert!(!here(&inputs[0]) && !here(&inputs[1]), "the oldest made room");
        assert!(here(&inputs[2]) && here(&inputs[COUNT]));
        assert_eq!(spool.take(&piece(b"unfinished", 2, 10)), Ok(()));
    }

    #[test]
    fn inputs_that_are_never_finished_fill_the_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
        for i in 0..COUNT {
            assert_eq!(spool.take(&piece(format!("input {i}").as_bytes(), 0, 2)), Ok(()));
        }
        let refused = spool.take(&piece(b"one more", 0, 2));
        assert_eq!(refused.err().map(|r| r.code), Some(Code::LimitExceeded));
    }

    #[test]
    fn refuses_bytes_that_are_not_what_was_signed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = StdinSpool::open(&dir.path().join("stdin")).expect("opens");
        let mut changed = piece(b"hello", 0, 5);
        changed.bytes[0] = b'j';
        assert_eq!(
            spool.take(&changed).err().map(|r| r.code),
            Some(Code::StdinMismatch)
        );
        let mut long = piece(b"hello", 0, 5);
        long.at = limits::STDIN;
        assert_eq!(spool.take(&long).err().map(|r| r.code), Some(Code::LimitExceeded));
        assert_eq!(
            std::fs::read_dir(dir.path().join("stdin"))
                .expect("lists")
                .count(),
            0
        );
    }
}
