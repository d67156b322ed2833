//! Taking in a tarball or an OCI image.
//!
//! ```text
//!   file --hash--> decompress --ratio, bytes--> members --names, kinds--> .new-PID-N/tree
//!        digest holds? --> mount points --> sync --> rename to sha256-HEX --> sync
//! ```
//!
//! # Invariants
//! - Memory does not grow with what is read, but for one name per member of an image's layer.
//! - Nothing is executed, no id, device, attribute or capability of the archive is taken over.
//! - Where a name leads is decided in a directory that nobody but this process's user can enter, member by member and
//!   without following a link out of it.

mod archive;
mod blobs;
mod descriptor;
mod image;
mod mount_points;
mod stream;
mod tree;
mod wanted;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lictor_proto::{Digest, Timestamp};

use self::blobs::Blobs;
use self::image::Called;
use self::stream::Tarball;
use self::tree::Tree;
pub use self::wanted::Wanted;
use crate::error::RootfsError;
use crate::meta::{Form, Meta};
use crate::store::{Store, remove_tree};

/// How large a root filesystem may be. The defaults are several times what images of today have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and links, those that a later layer takes away included.
    pub entries: u64,
    /// Bytes of a name, or of what a link says.
    pub name: usize,
    /// Directories above a file.
    pub depth: usize,
    /// How many bytes one compressed byte may become, beyond the first 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 1_000_000,
            name: 2048,
            depth: 128,
            ratio: 200,
        }
    }
}

/// One addition to a store.
pub struct Import<'a> {
    /// Where to.
    pub store: &'a Store,
    /// How large it may be.
    pub limits: Limits,
    /// Makes sure that everything below a directory is on the disk.
    pub sync: fn(&Path) -> io::Result<()>,
}

impl Import<'_> {
    /// Makes a place in the store for something that is fetched, to be added from there; it is gone with what this
    /// returns, or when it was left, with the next addition.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn place(&self) -> Result<Incoming, RootfsError> {
        let owner = self.open_store(self.store.dir().parent().unwrap_or(self.store.dir()))?;
        let new = New::make(self.store)?;
        if owner_of(&new.place)? != owner {
            return Err(not_ours(self.store.dir()));
        }
        self.store.tidy()?;
        Ok(Incoming { new })
    }

    /// Adds a tarball, plain or compressed by gzip or zstd, or an image as an `oci-archive` file or in a directory of
    /// the OCI layout. With `expect`, only when it is called that; where that is an index, the image that it has for this
    /// machine.
    ///
    /// # Errors
    /// [`RootfsError`]; nothing of it is visible then.
    pub fn add(&self, source: &Path, expect: Option<&Digest>) -> Result<Meta, RootfsError> {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let wanted = expect.copied().map(Wanted::exactly);
        self.add_wanted(source, wanted.as_ref(), &name)
    }

    /// Adds the image that was wanted, as it was fetched from somewhere.
    ///
    /// # Errors
    /// As [`Import::add`].
    pub fn add_fetched(&self, source: &Path, wanted: &Wanted, from: &str) -> Result<Meta, RootfsError> {
        self.add_wanted(source, Some(wanted), from)
    }

    fn add_wanted(&self, source: &Path, wanted: Option<&Wanted>, from: &str) -> Result<Meta, RootfsError> {
        let owner = self.open_store(source)?;
        let new = New::make(self.store)?;
        if owner_of(&new.place)? != owner {
            return Err(not_ours(self.store.dir()));
        }
        self.store.tidy()?;
        let mut tree = Tree::new(new.place.join("tree"), self.limits);
        let (called, form) = match Blobs::open(source)? {
            Some(mut blobs) => (image::unpack(&mut blobs, wanted, &mut tree)?, Form::Image),
            None => (self.tarball(source, &mut tree)?, Form::Tarball),
        };
        if let Some(wanted) = wanted {
            descriptor::check(&source.display().to_string(), &wanted.named, &called.digest)?;
        }
        mount_points::make(&mut tree)?;
        let meta = Meta {
            digest: called.digest,
            manifest: called.manifest,
            form,
            source: from.chars().filter(|c| !c.is_control()).take(256).collect(),
            bytes: tree.bytes,
            entries: tree.entries,
            devices_left_out: tree.devices_left_out,
            set_ids_dropped: tree.set_ids_dropped,
            added_at: Timestamp::now(),
        };
        new.publish(self, &meta)?;
        Ok(meta)
    }

    fn tarball(&self, source: &Path, tree: &mut Tree) -> Result<Called, RootfsError> {
        let file = File::open(source).map_err(RootfsError::io("open", source))?;
        let mut tarball = Tarball::open(Box::new(file), self.limits)?;
        tree.unpack(&mut tarball)?;
        tarball.finish().map(|read| Called {
            digest: read.digest,
            manifest: None,
        })
    }

    /// The store belongs to whom its node belongs to, and so does whoever adds to it: who owns a directory can put
    /// something else in the place of what is in it, and what somebody else has put there the agent could not remove.
    fn open_store(&self, source: &Path) -> Result<u32, RootfsError> {
        let dir = self.store.dir();
        let node = dir.parent().unwrap_or(dir);
        let owner = fs::metadata(node).map_err(RootfsError::io("find the node directory", node))?;
        fs::metadata(source).map_err(RootfsError::io("find", source))?;
        match DirBuilder::new().mode(0o711).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootfsError::io("make", dir)(e));
            }
            Ok(()) if owner_of(dir)? != owner.uid() => {
                let _ = fs::remove_dir(dir);
                return Err(not_ours(dir));
            }
            Ok(()) => {
                // Whatever the umask says.
                let rights = fs::set_permissions(dir, fs::Permissions::from_mode(0o711));
                rights.map_err(RootfsError::io("set the rights of", dir))?;
            }
            Err(_) => {}
        }
        let own = fs::symlink_metadata(dir).map_err(RootfsError::io("look at", dir))?;
        if !own.is_dir() || own.uid() != owner.uid() || own.mode() & 0o022 != 0 {
            return Err(not_ours(dir));
        }
        Ok(owner.uid())
    }
}

fn owner_of(path: &Path) -> Result<u32, RootfsError> {
    let meta = fs::symlink_metadata(path).map_err(RootfsError::io("look at", path))?;
    Ok(meta.uid())
}

fn not_ours(path: &Path) -> RootfsError {
    let wrong =
        "it must be a directory that only the owner of the node directory can change; run this as that user";
    RootfsError::io("use", path)(io::Error::other(wrong))
}

/// A place for something that is fetched.
pub struct Incoming {
    new: New,
}

impl Incoming {
    /// An empty directory, which nobody else finds the way to.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.new.place.join("tree")
    }
}

/// A root filesystem on its way in; without [`New::publish`] it is removed again.
struct New {
    place: PathBuf,
    lock: File,
}

impl New {
    fn make(store: &Store) -> Result<Self, RootfsError> {
        let place = store.beside("new");
        let made = DirBuilder::new().mode(0o700).create(&place);
        made.map_err(RootfsError::io("make", &place))?;
        let lock = File::create_new(place.join("lock")).map_err(RootfsError::io("lock", &place))?;
        let new = Self { place, lock };
        let locked = new.lock.lock();
        locked.map_err(RootfsError::io("lock", &new.place))?;
        let tree = DirBuilder::new().mode(0o755).create(new.place.join("tree"));
        tree.map_err(RootfsError::io("make", &new.place))?;
        Ok(new)
    }

    /// Makes it visible, once it is on the disk.
    fn publish(self, import: &Import<'_>, meta: &Meta) -> Result<(), RootfsError> {
        let io = |doing| RootfsError::io(doing, &self.place);
        let text = serde_json::to_vec_pretty(meta).map_err(|e| io("describe")(e.into()))?;
        fs::write(self.place.join("meta.json"), text).map_err(io("write"))?;
        for (name, mode) in [
            ("tree", 0o755),
            ("meta.json", 0o600),
            ("lock", 0o600),
            ("", 0o711),
        ] {
            let rights = fs::Permissions::from_mode(mode);
            fs::set_permissions(self.place.join(name), rights).map_err(io("set the rights of"))?;
        }
        (import.sync)(&self.place).map_err(io("sync"))?;
        let target = import.store.place(&meta.digest);
        match fs::rename(&self.place, &target) {
            Ok(()) => {}
            // The same bytes are there already; these are removed, and those count as used now.
            Err(_) if target.exists() => return import.store.hold(&meta.digest).map(drop),
            Err(e) => return Err(RootfsError::io("put in place", &target)(e)),
        }
        let dir = import.store.dir();
        let synced = File::open(dir).and_then(|d| d.sync_all());
        synced.map_err(RootfsError::io("sync", dir))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // What was published is not here any more.
        let _ = remove_tree(&self.place);
    }
}
