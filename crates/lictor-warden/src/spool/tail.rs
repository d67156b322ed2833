//! The last part of a log: a window of slots in a file, the oldest given up when room is needed.
//!
//! A slot holds a head and whole frames. Slots are used again in place, so the file and its share of the page cache
//! stay as large as the window, however much is written.
//!
//! # Invariants
//! - Whoever is killed while it writes leaves whole frames: in a new slot the file ends within a torn one, and in a
//!   slot that is used again a frame's header is written after its payload.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use lictor_proto::frame::HEADER;
use lictor_proto::limits;
use sha2::Sha256;

use super::positioned::{create, write_all_at};
use super::slot::{self, SlotHead};
use super::{ReadError, counted, headers, read_frames, stream_of};
use crate::journal::entry::Kept;

/// Bytes of one slot: room for a few frames of the largest kind.
pub(super) const SLOT: u64 = 1024 * 1024;
const HEAD: u64 = slot::LENGTH as u64;
const _: () = assert!(SLOT > HEAD + (limits::FRAME + HEADER) as u64);

#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: Option<File>,
    slots: VecDeque<Slot>,
    free: Vec<u64>,
    made: u64,
    /// Payload bytes held.
    payload: u64,
    /// Payload bytes to hold at least before anything is given up.
    window: u64,
    /// Payload bytes to keep at the end; only written down here.
    budget: u64,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// Where in the file, in slots.
    pub(super) place: u64,
    /// Nothing was there before: the file ends in this slot.
    pub(super) fresh: bool,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) payload: u64,
    /// Stream bytes before it.
    pub(super) at: [u64; 2],
}

/// Where a frame begins: everything before it.
#[derive(Debug)]
pub(super) struct Before<'a> {
    /// Log position.
    pub(super) from: u64,
    /// Stream bytes.
    pub(super) at: [u64; 2],
    /// Their hashes.
    pub(super) hashes: &'a [Sha256; 2],
}

impl Tail {
    pub(super) fn new(path: PathBuf, window: u64, budget: u64) -> Self {
        Self {
            path,
            file: None,
            slots: VecDeque::new(),
            free: Vec::new(),
            made: 0,
            payload: 0,
            window,
            budget,
        }
    }

    /// What a crash has left, to be read.
    pub(super) fn resumed(path: PathBuf, file: File, slots: VecDeque<Slot>) -> Self {
        Self {
            file: Some(file),
            payload: slots.iter().map(|s| s.payload).sum(),
            slots,
            ..Self::new(path, 0, 0)
        }
    }

    /// Log position after the last byte held.
    pub(super) fn end(&self) -> Option<u64> {
        self.slots.back().map(|s| s.to)
    }

    /// First log position held.
    pub(super) fn start(&self) -> Option<u64> {
        self.slots.front().map(|s| s.from)
    }

    /// Stream bytes before that.
    pub(super) fn start_offsets(&self) -> Option<[u64; 2]> {
        self.slots.front().map(|s| s.at)
    }

    /// Whether more can come without giving up what is not released.
    pub(super) fn has_room(&self, released: u64) -> bool {
        self.payload < self.window || self.slots.front().is_none_or(|s| s.to <= released)
    }

    /// Takes one frame with `payload` bytes that count; gives up nothing that reaches beyond `droppable`.
    pub(super) fn push(
        &mut self,
        frame: &[u8],
        payload: u64,
        before: &Before<'_>,
        droppable: u64,
    ) -> io::Result<()> {
        let len = frame.len() as u64;
        let fits = self
            .slots
            .back()
            .is_some_and(|s| HEAD + s.to - s.from + len <= SLOT);
        if !fits {
            self.begin_slot(before, droppable)?;
        }
        let (Some(slot), Some(file)) = (self.slots.back_mut(), &self.file) else {
            return Ok(());
        };
        let at = slot.place * SLOT + HEAD + (slot.to - slot.from);
        if slot.fresh {
            write_all_at(file, frame, at)?;
        } else {
            write_all_at(file, &frame[HEADER..], at + HEADER as u64)?;
            write_all_at(file, &frame[..HEADER], at)?;
        }
        slot.to += len;
        slot.payload += payload;
        self.payload += payload;
        Ok(())
    }

    fn begin_slot(&mut self, before: &Before<'_>, droppable: u64) -> io::Result<()> {
        self.give_up(droppable);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.path)?),
        };
        let used = self.free.pop();
        let place = used.unwrap_or(self.made);
        let head = SlotHead {
            from: before.from,
            at: before.at,
            budget: self.budget,
            hashes: before.hashes.clone(),
        };
        write_all_at(file, &head.encode(), place * SLOT)?;
        self.made = self.made.max(place + 1);
        self.slots.push_back(Slot {
            place,
            fresh: used.is_none(),
            from: before.from,
            to: before.from,
            payload: 0,
            at: before.at,
        });
        Ok(())
    }

    /// Gives up the oldest slots that the window does not need.
    fn give_up(&mut self, droppable: u64) {
        // Headers count as well: many tiny frames must not make the file large.
        let length = |t: &Self| t.slots.iter().map(|s| s.to - s.from).sum::<u64>();
        while let Some(front) = self.slots.front()
            && front.to <= droppable
        {
            let enough = self.payload - front.payload >= self.window
                || length(self) > self.window + self.window / 4 + 2 * SLOT;
            if !enough {
                return;
            }
            self.payload -= front.payload;
            self.free.push(front.place);
            self.slots.pop_front();
        }
    }

    /// Gives up everything, after a write failed.
    pub(super) fn clear(&mut self) {
        self.free.extend(self.slots.drain(..).map(|s| s.place));
        self.payload = 0;
    }

    pub(super) fn read(&self, from: u64, max: usize) -> Result<Bytes, ReadError> {
        let index = self.slots.partition_point(|s| s.to <= from);
        let (Some(slot), Some(file)) = (self.slots.get(index), &self.file) else {
            return Ok(Bytes::new());
        };
        let at = slot.place * SLOT + HEAD + (from - slot.from);
        read_frames(file, at, slot.to - from, max).map_err(|e| match e {
            ReadError::Position(_) => ReadError::Position(from),
            other @ ReadError::Io(_) => other,
        })
    }

    /// The longest end of the log, starting at a frame border, whose payload is at most `budget`.
    pub(super) fn kept(&self, budget: u64) -> Result<Option<Kept>, ReadError> {
        let mut surplus = self.payload.saturating_sub(budget);
        for slot in &self.slots {
            if surplus >= slot.payload && slot.payload > 0 {
                surplus -= slot.payload;
                continue;
            }
            let bytes = self.read(slot.from, usize::try_from(SLOT).unwrap_or(usize::MAX))?;
            let mut kept = Kept {
                from: slot.from,
                to: self.slots.back().map_or(slot.to, |s| s.to),
                stdout_at: slot.at[0],
                stderr_at: slot.at[1],
            };
            for header in headers(&bytes) {
                if surplus == 0 {
                    break;
                }
                surplus = surplus.saturating_sub(counted(&header));
                kept.from += (HEADER + header.len) as u64;
                match stream_of(header.kind) {
                    Some(0) => kept.stdout_at += header.len as u64,
                    Some(_) => kept.stderr_at += header.len as u64,
                    None => {}
                }
            }
            if kept.from < kept.to {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }
}
