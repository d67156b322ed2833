//! The members of a tar archive, one after the other: what each is called, what it is, and its bytes.
//!
//! Long names of GNU tar and of pax are taken up here, each of them bounded; whatever changes how much of the archive
//! belongs to a member (sparse files, sizes that are told twice and differ) is refused.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use tar::{EntryType, Header};

use super::Limits;
use super::stream::unreadable;
use crate::error::RootfsError;

const BLOCK: u64 = 512;
/// Longest extension of one member; attributes, which are passed over, have room in it too.
const EXTENSION: u64 = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// What it says.
    Symlink(Vec<u8>),
    /// Which other member.
    HardLink(Vec<u8>),
    /// A device node or a pipe.
    Device,
}

/// A member of an archive, as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) modified: SystemTime,
    pub(super) size: u64,
}

/// What comes before a member and is about it.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A tar archive, read once from its beginning.
pub(super) struct Members<R> {
    reader: R,
    /// Bytes of the current member that nobody has read yet, and what fills its last block.
    left: u64,
    padding: u64,
    limits: Limits,
}

fn invalid(what: impl Into<String>) -> RootfsError {
    RootfsError::Invalid(what.into())
}

/// What fills the last block of so many bytes.
fn padding_of(bytes: u64) -> u64 {
    (BLOCK - bytes % BLOCK) % BLOCK
}

/// What is told twice is read differently by different readers.
fn once<T>(place: &mut Option<T>, told: T) -> Result<(), RootfsError> {
    match place.replace(told) {
        None => Ok(()),
        Some(_) => Err(invalid("a name or size is told twice")),
    }
}

impl<R: Read> Members<R> {
    pub(super) fn new(reader: R, limits: Limits) -> Self {
        Self {
            reader,
            left: 0,
            padding: 0,
            limits,
        }
    }

    pub(super) fn reader(&self) -> &R {
        &self.reader
    }

    /// The next member; its bytes are then what this reads. `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, RootfsError> {
        let mut extensions = Extensions::default();
        // One member has a few of these at most; more are a loop that costs nobody but the reader.
        for _ in 0..16 {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => once(&mut extensions.name, self.long_name()?)?,
                EntryType::GNULongLink => once(&mut extensions.link, self.long_name()?)?,
                EntryType::XHeader => self.pax(&mut extensions)?,
                EntryType::XGlobalHeader => {
                    let mut global = Extensions::default();
                    self.pax(&mut global)?;
                    if global.name.or(global.link).is_some() || global.size.is_some() {
                        return Err(invalid("an extension names all members at once"));
                    }
                }
                kind => return self.member(&header, kind, extensions).map(Some),
            }
        }
        Err(invalid("a member has too many extensions"))
    }

    fn member(
        &mut self,
        header: &Header,
        kind: EntryType,
        extensions: Extensions,
    ) -> Result<Member, RootfsError> {
        let name = extensions
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if let (Some(size), 0) = (extensions.size, self.left) {
            // Of a size that its header has no room for.
            (self.left, self.padding) = (size, padding_of(size));
        }
        if extensions.size.is_some_and(|size| size != self.left) {
            return Err(invalid(format!("{} has two sizes", shown(&name))));
        }
        let link = || {
            let own = || header.link_name_bytes().map(std::borrow::Cow::into_owned);
            extensions.link.clone().or_else(own).unwrap_or_default()
        };
        let kind = match kind {
            // Old archives call a directory a file whose name ends with a slash.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::HardLink(link()),
            EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Device,
            EntryType::GNUSparse => {
                let name = shown(&name);
                return Err(invalid(format!("{name} is a sparse file; pack it without holes")));
            }
            other => {
                let (name, byte) = (shown(&name), other.as_byte());
                return Err(invalid(format!(
                    "{name} is of a kind that is not known: {byte:#x}"
                )));
            }
        };
        if kind != Kind::File && self.left != 0 {
            // Some readers would take what follows for the next member, and see another tree.
            return Err(invalid(format!("{} has a size and can have none", shown(&name))));
        }
        let number = |n: io::Result<u64>| n.unwrap_or(0);
        let seconds = number(header.mtime()).min(1 << 40);
        Ok(Member {
            mode: header
                .mode()
                .map_err(|_| invalid(format!("{} has no mode", shown(&name))))?,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            size: self.left,
            name,
            kind,
        })
    }

    /// The next header whose checksum is right; `None` for the empty block at the end, or the end of the file.
    fn header(&mut self) -> Result<Option<Header>, RootfsError> {
        self.skip()?;
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]).map_err(unreadable)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(invalid("it ends within a header")),
                n => filled += n,
            }
        }
        if block.iter().all(|b| *b == 0) {
            return self.nothing_more().map(|()| None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|b| u32::from(*b))
            .sum();
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(invalid(
                "it is no tar archive, or a damaged one: a header's checksum is wrong",
            ));
        }
        let size = header.entry_size();
        self.left = size.map_err(|_| invalid("a member has no size"))?;
        self.padding = padding_of(self.left);
        Ok(Some(header))
    }

    /// After an empty block some readers go on and some do not; honest archives have nothing there but more of them.
    fn nothing_more(&mut self) -> Result<(), RootfsError> {
        let mut piece = [0; 4096];
        loop {
            match self.reader.read(&mut piece).map_err(unreadable)? {
                0 => return Ok(()),
                n if piece[..n].iter().any(|b| *b != 0) => {
                    return Err(invalid("something comes after its end"));
                }
                _ => {}
            }
        }
    }

    fn skip(&mut self) -> Result<(), RootfsError> {
        let rest = self
            .left
            .checked_add(self.padding)
            .ok_or_else(|| invalid("a member is too large"))?;
        let mut rest = (&mut self.reader).take(rest);
        io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
        if rest.limit() > 0 {
            return Err(invalid("it ends within a member"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn extension(&mut self, most: u64) -> Result<Vec<u8>, RootfsError> {
        if self.left > most {
            return Err(invalid("a name, or what is told about a member, is too long"));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, RootfsError> {
        let mut name = self.extension(self.limits.name as u64 + 1)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Records of pax, each `LENGTH KEY=VALUE\n`.
    fn pax(&mut self, into: &mut Extensions) -> Result<(), RootfsError> {
        let bytes = self.extension(EXTENSION)?;
        let wrong = || invalid("what is told about a member cannot be read");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&rest[..space])
                .ok()
                .and_then(|n| n.parse().ok());
            let length: usize = length
                .filter(|n| *n > space && *n <= rest.len())
                .ok_or_else(wrong)?;
            let record = &rest[space + 1..length];
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" | b"linkpath" if value.len() > self.limits.name => {
                    return Err(invalid("a name is too long"));
                }
                b"path" => once(&mut into.name, value.to_vec())?,
                b"linkpath" => once(&mut into.link, value.to_vec())?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                    once(&mut into.size, size.ok_or_else(wrong)?)?;
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(invalid("a member is a sparse file; pack it without holes"));
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// A name for a message.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let text = text.chars().map(|c| if c.is_control() { '?' } else { c });
    text.take(200).collect()
}
