//! Archives made byte by byte, so that they can be as no honest program makes them; and a store to add them to.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use lictor_proto::{Code, Digest};
use lictor_rootfs::{Import, Limits, Meta, RootfsError, Store};

/// A tar archive under construction.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    /// One member, with a name of up to 100 bytes and whatever type byte.
    pub(crate) fn member(mut self, kind: u8, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"14000000000\0");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.member(b'0', name, "", 0o644, content.as_bytes())
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.member(b'5', name, "", 0o755, b"")
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.member(b'2', name, to, 0o777, b"")
    }

    pub(crate) fn hard_link(self, name: &str, to: &str) -> Self {
        self.member(b'1', name, to, 0o644, b"")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// Without the empty blocks at the end.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// A node directory with a store, and a place for sources.
pub(crate) struct Bench {
    pub(crate) node: tempfile::TempDir,
    pub(crate) limits: Limits,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            node: tempfile::tempdir().expect("a directory"),
            limits: Limits::default(),
        }
    }

    pub(crate) fn store(&self) -> Store {
        Store::of_node(self.node.path())
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.node.path().join("given.tar");
        fs::write(&path, bytes).expect("written");
        path
    }

    pub(crate) fn add_path(&self, path: &Path, expect: Option<&Digest>) -> Result<Meta, RootfsError> {
        let store = self.store();
        let import = Import {
            store: &store,
            limits: self.limits,
            sync: |_| Ok(()),
        };
        import.add(path, expect)
    }

    pub(crate) fn add(&self, bytes: &[u8]) -> Result<Meta, RootfsError> {
        self.add_path(&self.write(bytes), None)
    }

    pub(crate) fn tree(&self, digest: &Digest) -> PathBuf {
        self.store().hold(digest).expect("it is there").tree().to_owned()
    }

    /// Holds that it is refused with this code and words, and that nothing is left in the store.
    pub(crate) fn refuses(&self, bytes: &[u8], code: Code, words: &str) {
        let error = self.add(bytes).expect_err(words);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error} has not {words:?}");
        self.is_empty();
    }

    pub(crate) fn is_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.store().dir())
            .expect("the store")
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}
