//! The frame: how output is spooled on the node, carried over the link, stored in segments and sent to followers.
//!
//! One format for all four means that the hub copies bytes and parses only headers. A frame is a header of 24
//! bytes, little-endian, and a payload:
//!
//! ```text
//!  0      1        4        8               16              24
//!  +------+--------+--------+---------------+---------------+----------------
//!  | kind | 0 0 0  | length | time (ms UTC) | at            | payload ...
//!  +------+--------+--------+---------------+---------------+----------------
//! ```
//!
//! `at` is the offset of the payload's first byte within its own stream (stdout or stderr), so that a reader
//! sees gaps and repeats by itself; an `Egress` frame counts for neither. A position in the *log* of an execution is the number of frame bytes
//! before it; readers resume at log positions, which are always frame borders.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::time::Timestamp;

/// Bytes of a header.
pub const HEADER: usize = 24;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FrameKind {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// Log bytes that were not kept or could not keep up; the payload is [`Gap`] as JSON.
    Gap = 3,
    /// A state change, JSON ([`crate::api::StreamEvent`]); only towards followers.
    Event = 4,
    /// Nothing; shows that the sender lives. Only towards followers.
    KeepAlive = 5,
    /// A word of the node about the job's way out, JSON ([`crate::egress::Record`]). It belongs to neither stream: no
    /// digest covers it, and its `at` is what both streams together had come to when it was written.
    Egress = 6,
}

impl FrameKind {
    fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Gap,
            4 => Self::Event,
            5 => Self::KeepAlive,
            6 => Self::Egress,
            _ => return None,
        })
    }
}

/// The part of the log that is missing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Where the log goes on.
    pub resume_at: u64,
    /// Where standard output stands then, as far as the sender knows: the stream's next frame does not start before.
    pub stdout_at: u64,
    /// Where standard error stands then, likewise.
    pub stderr_at: u64,
}

/// A frame's header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it carries.
    pub kind: FrameKind,
    /// Payload bytes.
    pub len: usize,
    /// When the payload was read from the process.
    pub time: Timestamp,
    /// Offset of the payload in its own stream.
    pub at: u64,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// When the payload was read from the process.
    pub time: Timestamp,
    /// Offset of the payload in its own stream.
    pub at: u64,
    /// The bytes.
    pub payload: Bytes,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that doesn't exist, or set reserved bits.
    #[error("unknown frame kind")]
    Kind,
    /// A payload over [`limits::FRAME`].
    #[error("frame payload of {0} bytes is over the limit")]
    TooLong(usize),
}

impl Header {
    /// The header's 24 bytes. A payload is at most [`limits::FRAME`] bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        debug_assert!(self.len <= limits::FRAME);
        let mut out = [0; HEADER];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&u32::try_from(self.len).unwrap_or(u32::MAX).to_le_bytes());
        out[8..16].copy_from_slice(&self.time.as_millis().to_le_bytes());
        out[16..24].copy_from_slice(&self.at.to_le_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the kind is unknown, reserved bytes are set, or the length is over the limit.
    pub fn decode(b: &[u8; HEADER]) -> Result<Self, FrameError> {
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| b[i + k]));
        let kind = FrameKind::from_byte(b[0])
            .filter(|_| b[1..4] == [0; 3])
            .ok_or(FrameError::Kind)?;
        let len = u32::from_le_bytes([b[4], b[5], b[6], b[7]]) as usize;
        if len > limits::FRAME {
            return Err(FrameError::TooLong(len));
        }
        Ok(Self {
            kind,
            len,
            time: Timestamp::from_millis(word(8)),
            at: word(16),
        })
    }
}

impl Frame {
    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            kind: self.kind,
            len: self.payload.len(),
            time: self.time,
            at: self.at,
        };
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&self.payload);
        out
    }
}

/// Cuts a byte stream into frames, whatever its pieces.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// When the bytes are no frames; the stream is then of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::decode(head)?;
        if self.buffer.len() < HEADER + header.len {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(header.len).freeze();
        Ok(Some(Frame {
            kind: header.kind,
            time: header.time,
            at: header.at,
            payload,
        }))
    }

    /// Bytes that wait for the rest of their frame.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Frame> {
        (0..5u64)
            .map(|i| Frame {
                kind: if i % 2 == 0 {
                    FrameKind::Stdout
                } else {
                    FrameKind::Stderr
                },
                time: Timestamp::from_millis(i),
                at: i * 7,
                payload: Bytes::from(vec![b'x'; i as usize * 3]),
            })
            .collect()
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_frames() {
        let bytes: Vec<u8> = sample().iter().flat_map(Frame::encode).collect();
        for step in [1, 2, 23, 24, 25, bytes.len()] {
            let mut d = FrameDecoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                d.push(piece);
                while let Ok(Some(f)) = d.next_frame() {
                    got.push(f);
                }
            }
            assert_eq!(got, sample());
            assert_eq!(d.pending(), 0);
        }
    }

    #[test]
    fn refuses_unknown_kinds_and_long_payloads() {
        let mut h = [0u8; HEADER];
        assert_eq!(Header::decode(&h), Err(FrameError::Kind));
        h[0] = 1;
        h[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Header::decode(&h), Err(FrameError::TooLong(_))));
        h[4..8].fill(0);
        h[1] = 1;
        assert_eq!(Header::decode(&h), Err(FrameError::Kind));
    }
}
