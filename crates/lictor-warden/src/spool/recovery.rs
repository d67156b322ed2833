//! What a crash has left of a log that had not ended: the head, the window, and with them the counts and the hashes.
//!
//! The files are taken up as the writer had them, and then ended in the ordinary way. So a receipt after a crash of
//! the agent speaks of everything that a reader may have been given. A crash of the whole machine can take away more:
//! what was not written back yet is not waited for while a job runs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use lictor_proto::frame::{FrameKind, HEADER, Header};
use sha2::{Digest as _, Sha256};

use super::head::Head;
use super::slot::{self, SlotHead};
use super::tail::{SLOT, Slot, Tail};
use super::writer::{Ended, Writer};
use super::{Paths, ReadError, Resumed, counted, headers, read_at, read_frames, stream_of};

/// Ends a log that a crash has cut off. Both files stay until the caller has written down what this says.
///
/// # Errors
/// When the disk fails.
pub fn recover(paths: &Paths) -> Result<Ended, ReadError> {
    let tail = take_up_tail(paths.tail.clone())?;
    let until = tail.as_ref().and_then(|t| t.tail.start());
    let (head, head_sums) = take_up_head(&paths.log, until)?;
    let resumed = match tail {
        Some(Window { tail, sums, budget }) => Resumed {
            end: tail.end().unwrap_or(head.end()),
            head,
            tail,
            at: sums.at,
        }
        .writer(paths.clone(), budget, sums.hash, head_sums.hash),
        None => {
            let (end, tail) = (head.end(), Tail::new(paths.tail.clone(), 0, 0));
            let at = head_sums.at;
            Resumed { end, head, tail, at }.writer(paths.clone(), 0, head_sums.hash.clone(), head_sums.hash)
        }
    };
    Ok(Writer::end(resumed))
}

/// How far both streams have come.
#[derive(Clone)]
struct Sums {
    at: [u64; 2],
    hash: [Sha256; 2],
}

impl Sums {
    fn nothing() -> Self {
        Self {
            at: [0; 2],
            hash: [Sha256::new(), Sha256::new()],
        }
    }

    /// Takes the frames at the start of `bytes` that go on where the streams stand, up to `room` bytes; gives their
    /// length and that of their payload. What an earlier use of the same place has left never goes on there: its
    /// offsets are lower. Frames that are no output have the sum of both for an offset, and are too few to fill a
    /// window, so theirs are lower too.
    fn take(&mut self, bytes: &[u8], room: u64) -> (u64, u64) {
        let (mut length, mut payload) = (0, 0);
        for header in headers(bytes) {
            let frame = (HEADER + header.len) as u64;
            if !self.go_on_with(&header) || header.len == 0 || length + frame > room {
                break;
            }
            let start = usize::try_from(length).unwrap_or(usize::MAX) + HEADER;
            if let Some(stream) = stream_of(header.kind) {
                self.hash[stream].update(&bytes[start..start + header.len]);
                self.at[stream] += header.len as u64;
            }
            length += frame;
            payload += counted(&header);
        }
        (length, payload)
    }

    fn go_on_with(&self, header: &Header) -> bool {
        match (stream_of(header.kind), header.kind) {
            (Some(stream), _) => header.at == self.at[stream],
            (None, FrameKind::Egress) => header.at == self.at.iter().sum::<u64>(),
            (None, _) => false,
        }
    }
}

fn existing(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The frames of the head, as long as they hang together, up to where the window begins: behind that may stand a
/// part of the window that was about to be moved there.
fn take_up_head(path: &Path, until: Option<u64>) -> Result<(Head, Sums), ReadError> {
    let mut sums = Sums::nothing();
    let Some(file) = existing(path)? else {
        return Ok((Head::new(path.to_owned(), 0), sums));
    };
    let length = file.metadata()?.len();
    let limit = length.min(until.unwrap_or(u64::MAX));
    let mut end = 0;
    while end < limit {
        // A torn frame or the zeros of a block that was never written end the log.
        let Ok(bytes) = read_frames(&file, end, length - end, 1024 * 1024) else {
            break;
        };
        let (taken, _) = sums.take(&bytes, limit - end);
        end += taken;
        if taken == 0 || taken < bytes.len() as u64 {
            break;
        }
    }
    Ok((Head::resumed(path.to_owned(), file, end, sums.at), sums))
}

/// The window, how both streams stand at its end, and how much of it is to be kept.
struct Window {
    tail: Tail,
    sums: Sums,
    budget: u64,
}

/// The slots that hang together, up to the newest.
fn take_up_tail(path: PathBuf) -> Result<Option<Window>, ReadError> {
    let Some(file) = existing(&path)? else {
        return Ok(None);
    };
    let length = file.metadata()?.len();
    let mut found = Vec::new();
    for place in 0..length.div_ceil(SLOT) {
        let available = SLOT.min(length - place * SLOT);
        let bytes = read_at(&file, place * SLOT, usize::try_from(available).unwrap_or(0))?;
        if let Some(head) = bytes.first_chunk().and_then(SlotHead::decode) {
            found.push((head, place));
        }
    }
    found.sort_by_key(|(head, _)| head.from);
    let mut slots: VecDeque<Slot> = VecDeque::new();
    let mut after = None;
    for (head, place) in found.into_iter().rev() {
        let next = slots.front().map(|s| s.from);
        let mut sums = Sums {
            at: head.at,
            hash: head.hashes.clone(),
        };
        let available = SLOT.min(length - place * SLOT);
        let bytes = read_at(&file, place * SLOT, usize::try_from(available).unwrap_or(0))?;
        let frames = bytes.get(slot::LENGTH..).unwrap_or_default();
        let room = next.map_or(u64::MAX, |n| n.saturating_sub(head.from));
        let (taken, payload) = sums.take(frames, room);
        if next.is_some_and(|n| n != head.from + taken) {
            break;
        }
        after.get_or_insert((sums, head.budget));
        slots.push_front(Slot {
            place,
            fresh: false,
            from: head.from,
            to: head.from + taken,
            payload,
            at: head.at,
        });
    }
    Ok(after.map(|(sums, budget)| Window {
        tail: Tail::resumed(path, file, slots),
        sums,
        budget,
    }))
}
