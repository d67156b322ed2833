//! What is known of a root filesystem besides its files.

use lictor_proto::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// What a root filesystem was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A tarball; its digest is the file's.
    Tarball,
    /// An OCI image; its digest is that of its manifest, or of an index that names that for this machine.
    Image,
}

/// `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// What it is called.
    pub digest: Digest,
    /// The image's manifest, where it is called by an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// What it was made of.
    pub form: Form,
    /// The name of the file or directory that it came from.
    pub source: String,
    /// Bytes on the disk, about.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Device nodes and pipes of the archive, which are never made.
    pub devices_left_out: u64,
    /// Files that ran as somebody else in the archive and do not here.
    pub set_ids_dropped: u64,
    /// When it was added.
    pub added_at: Timestamp,
}
