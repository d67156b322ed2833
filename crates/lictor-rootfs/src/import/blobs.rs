//! Where the parts of an OCI image lie: in a directory of the image layout, in a tar archive of one, or in a directory as
//! `skopeo copy ... dir:` writes it: the manifest as the registry has it, and each blob under its digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use lictor_proto::Digest;

use super::Limits;
use super::archive::{Kind, Members};
use crate::error::RootfsError;

/// More parts than any image has.
const PARTS: usize = 16_384;
/// Longest name of a part: what lies elsewhere is not looked for.
const LONGEST: usize = 128;
/// The manifest in a directory that has one image.
const MANIFEST: &str = "manifest.json";
/// Longest index, manifest or configuration.
pub(super) const DOCUMENT: usize = 4 << 20;

/// The parts of an image.
pub(super) enum Blobs {
    Layout(PathBuf),
    Directory {
        dir: PathBuf,
        /// What its manifest is called.
        manifest: Digest,
    },
    Archive {
        path: PathBuf,
        file: File,
        /// By name: where in the file, and how long.
        parts: HashMap<Vec<u8>, (u64, u64)>,
    },
}

/// A file that is read from its beginning, and how far it was.
struct Position<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Position<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Blobs {
    /// `None` when it is something else: a plain tarball.
    pub(super) fn open(source: &Path) -> Result<Option<Self>, RootfsError> {
        if source.is_dir() {
            if source.join("oci-layout").is_file() {
                return Ok(Some(Self::Layout(source.into())));
            }
            if source.join("version").is_file() && source.join(MANIFEST).is_file() {
                return Self::directory(source).map(Some);
            }
            return Err(RootfsError::Invalid(
                "the directory is no OCI image layout; pack a root directory by tar".into(),
            ));
        }
        let file = File::open(source).map_err(RootfsError::io("open", source))?;
        let parts = parts_of(&file);
        Ok(parts.map(|parts| Self::Archive {
            path: source.into(),
            file,
            parts,
        }))
    }

    fn directory(source: &Path) -> Result<Self, RootfsError> {
        let mut this = Self::Directory {
            dir: source.into(),
            manifest: Digest([0; 32]),
        };
        let found = Digest::of(&this.document(MANIFEST)?);
        if let Self::Directory { manifest, .. } = &mut this {
            *manifest = found;
        }
        Ok(this)
    }

    /// The one manifest that there is, where there is no index.
    pub(super) fn only(&self) -> Option<Digest> {
        match self {
            Self::Directory { manifest, .. } => Some(*manifest),
            Self::Layout(_) | Self::Archive { .. } => None,
        }
    }

    /// A document of the image, whole.
    pub(super) fn document(&mut self, name: &str) -> Result<Vec<u8>, RootfsError> {
        let mut bytes = Vec::new();
        let read = self
            .reader(name)?
            .take(DOCUMENT as u64 + 1)
            .read_to_end(&mut bytes);
        read.map_err(|e| RootfsError::Invalid(format!("{name} cannot be read: {e}")))?;
        if bytes.len() > DOCUMENT {
            return Err(RootfsError::TooLarge(format!(
                "{name} is longer than {DOCUMENT} bytes"
            )));
        }
        Ok(bytes)
    }

    pub(super) fn blob(&mut self, digest: &Digest) -> Result<Box<dyn Read + '_>, RootfsError> {
        self.reader(&name_of(digest))
    }

    fn reader(&mut self, name: &str) -> Result<Box<dyn Read + '_>, RootfsError> {
        let missing = || RootfsError::Invalid(format!("the image has no {name}"));
        match self {
            Self::Layout(dir) => Ok(Box::new(plain_file(&dir.join(name))?.ok_or_else(missing)?)),
            Self::Directory { dir, manifest } => {
                let own = match name.strip_prefix("blobs/sha256/") {
                    Some(_) if name == name_of(manifest) => MANIFEST,
                    Some(hex) => hex,
                    None => name,
                };
                Ok(Box::new(plain_file(&dir.join(own))?.ok_or_else(missing)?))
            }
            Self::Archive { path, file, parts } => {
                let (at, length) = parts.get(name.as_bytes()).ok_or_else(missing)?;
                let found = file.seek(SeekFrom::Start(*at));
                found.map_err(RootfsError::io("read", path))?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }
}

/// Opens a file that is one: no link to something elsewhere, and nothing that could be waited at for ever.
fn plain_file(path: &Path) -> Result<Option<File>, RootfsError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(RootfsError::io("look at", path)(e)),
    };
    if !found.is_file() {
        let name = path.display();
        return Err(RootfsError::Invalid(format!("{name} is no file")));
    }
    File::open(path).map(Some).map_err(RootfsError::io("open", path))
}

/// Where a blob lies.
pub(super) fn name_of(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replace(':', "/"))
}

/// The parts of an archive that begins like one of an image; `None` for any other file.
fn parts_of(file: &File) -> Option<HashMap<Vec<u8>, (u64, u64)>> {
    let mut parts = HashMap::new();
    let mut members = Members::new(Position { file, at: 0 }, Limits::default());
    while let Ok(Some(member)) = members.next() {
        let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
        let known: [&[u8]; 4] = [b"blobs/", b"index.json", b"oci-layout", b"manifest.json"];
        if parts.is_empty() && !name.is_empty() && !known.iter().any(|k| name.starts_with(k)) {
            return None;
        }
        if member.kind == Kind::File && name.len() <= LONGEST {
            parts.insert(name.to_owned(), (members.position(), member.size));
        }
        if parts.len() > PARTS {
            return None;
        }
    }
    parts.contains_key(b"oci-layout".as_slice()).then_some(parts)
}

impl Members<Position<'_>> {
    fn position(&self) -> u64 {
        self.reader().at
    }
}
