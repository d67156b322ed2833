//! The bytes of a tarball: hashed as they are read, decompressed, and held against how much they may become.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use lictor_proto::Digest;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::Limits;
use crate::error::RootfsError;

/// What may be unpacked whatever it was before: long runs of zeros are honest.
const FREELY: u64 = 64 << 20;
/// Largest window of zstd, which is memory.
const WINDOW: u64 = 128 << 20;

/// A file that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// SHA-256 of the file as it is.
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    /// How long it is when it is not compressed.
    pub(super) unpacked: u64,
    /// SHA-256 of what it holds when it is not compressed.
    pub(super) content: Digest,
}

#[derive(Default)]
struct Tally {
    hash: Sha256,
    bytes: u64,
}

/// A reader whose bytes are counted and hashed.
struct Counted<R> {
    inner: R,
    tally: Rc<RefCell<Tally>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let mut tally = self.tally.borrow_mut();
        tally.hash.update(&buffer[..n]);
        tally.bytes += n as u64;
        Ok(n)
    }
}

type Raw<'a> = BufReader<Counted<Box<dyn Read + 'a>>>;

enum Decoder<'a> {
    Plain(Raw<'a>),
    Gzip(Box<MultiGzDecoder<Raw<'a>>>),
    Zstd(Box<Frames<'a>>),
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buffer),
            Self::Gzip(r) => r.read(buffer),
            Self::Zstd(r) => r.read(buffer),
        }
    }
}

/// The content of a tarball.
pub(super) struct Tarball<'a> {
    decoder: Decoder<'a>,
    raw: Rc<RefCell<Tally>>,
    content: Tally,
    limits: Limits,
    /// What others before it have unpacked to.
    before: u64,
}

impl<'a> Tarball<'a> {
    /// Looks at the first bytes to see how it is compressed.
    pub(super) fn open(file: Box<dyn Read + 'a>, limits: Limits) -> Result<Self, RootfsError> {
        let raw = Rc::new(RefCell::new(Tally::default()));
        let counted = Counted {
            inner: file,
            tally: raw.clone(),
        };
        let mut reader = BufReader::with_capacity(128 * 1024, counted);
        let head = reader.fill_buf().map_err(unreadable)?;
        let decoder = if head.starts_with(&[0x1f, 0x8b]) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(reader)))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(head) {
            Decoder::Zstd(Box::new(Frames::new(reader)))
        } else if head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
            return Err(RootfsError::Invalid(
                "it is compressed by bzip2 or xz, which are not read here; use gzip, zstd, or nothing".into(),
            ));
        } else {
            Decoder::Plain(reader)
        };
        Ok(Self {
            decoder,
            raw,
            content: Tally::default(),
            limits,
            before: 0,
        })
    }

    /// Counts what others have unpacked to, too.
    pub(super) fn after(self, before: u64) -> Self {
        Self { before, ..self }
    }

    /// Reads to the end of the file, whatever comes after the archive in it.
    pub(super) fn finish(mut self) -> Result<Seen, RootfsError> {
        io::copy(&mut self, &mut io::sink()).map_err(unreadable)?;
        let mut rest = match self.decoder {
            Decoder::Plain(r) => r,
            Decoder::Gzip(r) => r.into_inner(),
            Decoder::Zstd(r) => r.raw,
        };
        io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
        let raw = self.raw.borrow();
        Ok(Seen {
            digest: Digest(raw.hash.clone().finalize().into()),
            bytes: raw.bytes,
            unpacked: self.content.bytes,
            content: Digest(self.content.hash.finalize().into()),
        })
    }

    fn check(&self) -> io::Result<()> {
        let (out, raw) = (self.content.bytes, self.raw.borrow().bytes);
        if out > FREELY && out / self.limits.ratio > raw {
            return Err(over("it unpacks to far more than it is: a compression bomb"));
        }
        // Headers and padding of as many members as there may be.
        let most = self
            .limits
            .bytes
            .saturating_add(self.limits.entries.saturating_mul(2048));
        if out.saturating_add(self.before) > most {
            return Err(over("it unpacks to more than a root filesystem may have"));
        }
        Ok(())
    }
}

impl Read for Tarball<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buffer)?;
        self.content.hash.update(&buffer[..n]);
        self.content.bytes += n as u64;
        self.check()?;
        Ok(n)
    }
}

fn over(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

/// What went wrong while content was read, in the words of this crate.
pub(super) fn unreadable(error: io::Error) -> RootfsError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => RootfsError::TooLarge(error.to_string()),
        io::ErrorKind::UnexpectedEof => RootfsError::Invalid("it ends too early".into()),
        _ => RootfsError::Invalid(format!("it cannot be read: {error}")),
    }
}

/// zstd allows several frames in a row, and ones that hold nothing.
struct Frames<'a> {
    raw: Raw<'a>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<'a> Frames<'a> {
    fn new(raw: Raw<'a>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self {
            raw,
            decoder,
            in_frame: false,
        }
    }

    /// `false` at the end of the file.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.raw.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.raw) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.raw).take(u64::from(length)), &mut io::sink())?;
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(buffer.len());
                let decoded = self.decoder.decode_blocks(&mut self.raw, some);
                decoded.map_err(io::Error::other)?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            self.in_frame = false;
        }
        Ok(0)
    }
}

fn is_skippable(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18]
}
