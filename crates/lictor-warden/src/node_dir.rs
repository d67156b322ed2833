//! The node directory: where a node's keys, documents and journal lie.
//!
//! ```text
//! DIR/            0700
//!   identity.key e2e.key seal.key link.key   0600, PKCS#8 PEM
//!   node.json     grant and record as signed; there is a node when there is this file
//!   trust.json    org and law, as last accepted
//!   journal.log   audit.log   spool/JOB/   work/JOB/
//!   journal.old   the journal before the last rotation, until its audit records are in audit.log
//! ```
//!
//! Documents are kept as the exact bytes that were signed, and checked again by whoever reads them.
//!
//! # Invariants
//! - A file here is whole or absent: it is written beside its place, synced, and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use lictor_proto::agent::Wire;
use lictor_proto::api::TrustView;
use lictor_proto::limits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// More than any document file has: a bundle, its roots, and many revocations.
const LIMIT: u64 = 4 * limits::BUNDLE_ENVELOPE as u64;

/// What the node stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// The signed grant.
    pub grant: Wire,
    /// The signed node record.
    pub record: Wire,
}

/// Why the directory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NodeDirError {
    /// The file system said no.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The file is not what this version writes.
    #[error("{path} is damaged: {reason}", path = .0.display(), reason = .1)]
    Malformed(PathBuf, String),
}

/// A node directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir(PathBuf);

impl NodeDir {
    /// The directory at `path`, made when it does not exist. Others may pass through it and not look: the unprivileged
    /// user of a sandbox has to reach its own workspace below. Every file in it is its owner's alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, NodeDirError> {
        Self::make(path, 0o711)
    }

    /// The same, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_private(path: &Path) -> Result<Self, NodeDirError> {
        Self::make(path, 0o700)
    }

    #[cfg_attr(not(unix), allow(unused_variables))]
    fn make(path: &Path, mode: u32) -> Result<Self, NodeDirError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
        builder
            .create(path)
            .map_err(|e| NodeDirError::Io(path.into(), e))?;
        Ok(Self(path.into()))
    }

    /// The directory at `path`, which is there.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or directory in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Grant and record; `None` when this is no node yet.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn node(&self) -> Result<Option<NodeFile>, NodeDirError> {
        self.read("node.json")
    }

    /// Makes it a node.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_node(&self, node: &NodeFile) -> Result<(), NodeDirError> {
        self.write("node.json", node)
    }

    /// Org and law, as last accepted.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn trust(&self) -> Result<Option<TrustView>, NodeDirError> {
        self.read("trust.json")
    }

    /// Keeps org and law.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_trust(&self, trust: &TrustView) -> Result<(), NodeDirError> {
        self.write("trust.json", trust)
    }

    /// Reads a JSON file of it; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, NodeDirError> {
        let path = self.join(name);
        let io = |e| NodeDirError::Io(path.clone(), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).map_err(io)?;
        let value = serde_json::from_slice(&bytes);
        value
            .map(Some)
            .map_err(|e| NodeDirError::Malformed(path.clone(), e.to_string()))
    }

    /// Writes a JSON file of it, mode 0600: whole, durable, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), NodeDirError> {
        let path = self.join(name);
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| NodeDirError::Malformed(path.clone(), e.to_string()))?;
        let temporary = self.join(&format!("{name}.new"));
        write_synced(&temporary, &bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| self.sync())
            .map_err(|e| NodeDirError::Io(path, e))
    }

    /// Removes a file of it, if it is there, durably.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), NodeDirError> {
        let path = self.join(name);
        match fs::remove_file(&path).and_then(|()| self.sync()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(NodeDirError::Io(path, e)),
            _ => Ok(()),
        }
    }

    #[cfg(unix)]
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync(&self) -> io::Result<()> {
        Ok(()) // a directory cannot be opened for syncing there
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_for_the_owner_and_come_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = NodeDir::create(&parent.path().join("agent")).unwrap();
        assert_eq!(dir.node().unwrap(), None);
        let node = NodeFile {
            grant: "{}".into(),
            record: "{}".into(),
        };
        dir.set_node(&node).unwrap();
        assert_eq!(NodeDir::at(dir.path()).node().unwrap(), Some(node));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(dir.path()), 0o711);
            assert_eq!(mode(&dir.join("node.json")), 0o600);
        }
        fs::write(dir.join("trust.json"), "{").unwrap();
        assert!(matches!(dir.trust(), Err(NodeDirError::Malformed(..))));
        dir.remove("trust.json").unwrap();
        dir.remove("trust.json").unwrap();
        assert_eq!(dir.trust().unwrap(), None);
    }
}
