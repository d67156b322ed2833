//! The store of a node: what is there, who holds it, taking it away.
//!
//! Several processes use a store at once: the agent, and `lictor agent rootfs`. What keeps them apart are locks on the
//! file `lock` of each root filesystem, shared by those who use it, exclusive for whoever removes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use lictor_proto::{Digest, Timestamp};

use crate::error::RootfsError;
use crate::meta::Meta;

/// Longest `meta.json`.
const META: u64 = 64 * 1024;

/// A directory of root filesystems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
}

/// One root filesystem of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is.
    pub meta: Meta,
    /// When a job last began to use it.
    pub used_at: Timestamp,
}

/// A root filesystem in use: it stays as long as this does.
#[derive(Debug)]
pub struct Held {
    tree: PathBuf,
    manifest: Option<Digest>,
    _lock: File,
}

impl Held {
    /// Its root directory.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Its image's manifest, where it is called by an index.
    #[must_use]
    pub fn manifest(&self) -> Option<Digest> {
        self.manifest
    }
}

impl Store {
    /// The store of the node directory `node`. Nothing is made before something is added.
    #[must_use]
    pub fn of_node(node: &Path) -> Self {
        Self {
            dir: node.join("rootfs"),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps a root filesystem from being removed, and marks it as used now.
    ///
    /// # Errors
    /// [`RootfsError::Missing`], or the system's.
    pub fn hold(&self, digest: &Digest) -> Result<Held, RootfsError> {
        let place = self.place(digest);
        let lock_path = place.join("lock");
        let lock = match OpenOptions::new().read(true).write(true).open(&lock_path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(RootfsError::Missing(*digest)),
            Err(e) => return Err(RootfsError::io("open", &lock_path)(e)),
        };
        match lock.try_lock_shared() {
            Ok(()) => {}
            // Whoever removes it has it, for as long as that takes: it is as good as gone.
            Err(TryLockError::WouldBlock) => return Err(RootfsError::Missing(*digest)),
            Err(TryLockError::Error(e)) => return Err(RootfsError::io("lock", &lock_path)(e)),
        }
        // Whoever removes one moves it away under the lock; what was opened may be gone by now.
        if !is_same(&lock, &lock_path) {
            return Err(RootfsError::Missing(*digest));
        }
        lock.set_modified(SystemTime::now())
            .map_err(RootfsError::io("mark as used", &lock_path))?;
        let meta = self.meta(digest)?;
        Ok(Held {
            tree: place.join("tree"),
            manifest: meta.manifest,
            _lock: lock,
        })
    }

    /// Whether there is one of this digest that can be held; one that is there counts as used now. What is just being put in its
    /// place, or taken away, is not there.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.hold(digest).is_ok()
    }

    /// What is there, by digest. What cannot be read is left out.
    ///
    /// # Errors
    /// When the directory cannot be read; one that is not there is an empty store.
    pub fn list(&self) -> Result<Vec<Kept>, RootfsError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(RootfsError::io("read", &self.dir)(e)),
        };
        let names = entries.flatten().map(|e| e.file_name());
        let digests = names.filter_map(|name| digest_of(name.to_str()?));
        let mut all: Vec<_> = digests.filter_map(|d| self.look_at(&d)).collect();
        all.sort_by_key(|k| k.meta.digest);
        Ok(all)
    }

    /// Removes one that no job uses.
    ///
    /// # Errors
    /// [`RootfsError::Missing`], [`RootfsError::InUse`], or the system's.
    pub fn remove(&self, digest: &Digest) -> Result<(), RootfsError> {
        let place = self.place(digest);
        let lock_path = place.join("lock");
        let lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(RootfsError::Missing(*digest)),
            Err(e) => return Err(RootfsError::io("open", &lock_path)(e)),
        };
        match lock.try_lock() {
            Ok(()) if is_same(&lock, &lock_path) => {}
            Ok(()) => return Err(RootfsError::Missing(*digest)),
            Err(TryLockError::WouldBlock) => return Err(RootfsError::InUse(*digest)),
            Err(TryLockError::Error(e)) => return Err(RootfsError::io("lock", &lock_path)(e)),
        }
        let away = self.beside("old");
        fs::rename(&place, &away).map_err(RootfsError::io("move away", &place))?;
        // The lock is kept meanwhile: to others this is something on its way out, not something left over.
        remove_tree(&away).map_err(RootfsError::io("remove", &away))
    }

    /// Removes what additions and removals that were cut short have left.
    ///
    /// # Errors
    /// The system's.
    pub fn tidy(&self) -> Result<(), RootfsError> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if !name.starts_with(".new-") && !name.starts_with(".old-") {
                continue;
            }
            let left = entry.path();
            // Whoever is at work there holds this; a place without it was left before or after everything else.
            let lock = File::open(left.join("lock"));
            if lock.is_ok_and(|l| l.try_lock().is_err()) || is_recent(&left) {
                continue;
            }
            remove_tree(&left).map_err(RootfsError::io("remove", &left))?;
        }
        Ok(())
    }

    pub(crate) fn place(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string().replace(':', "-"))
    }

    /// A name of this process's own for something on its way in or out.
    pub(crate) fn beside(&self, word: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::now().as_millis();
        self.dir.join(format!(".{word}-{}-{now}-{n}", std::process::id()))
    }

    /// What is known of one.
    fn meta(&self, digest: &Digest) -> Result<Meta, RootfsError> {
        let path = self.place(digest).join("meta.json");
        let failed = RootfsError::io("read", &path);
        let read = || {
            let file = File::open(&path)?;
            let meta: Meta = serde_json::from_reader(io::Read::take(file, META))?;
            match meta.digest == *digest {
                true => Ok(meta),
                false => Err(io::Error::other("it is of another one")),
            }
        };
        read().map_err(failed)
    }

    fn look_at(&self, digest: &Digest) -> Option<Kept> {
        let place = self.place(digest);
        let meta = self.meta(digest).ok()?;
        let used = fs::metadata(place.join("lock")).ok()?.modified().ok()?;
        let since = used.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let used_at = Timestamp::from_millis(u64::try_from(since.as_millis()).ok()?);
        Some(Kept { meta, used_at })
    }
}

fn digest_of(name: &str) -> Option<Digest> {
    name.strip_prefix("sha256-")
        .and_then(|hex| format!("sha256:{hex}").parse().ok())
}

/// Something that has just been made may not have its lock yet.
fn is_recent(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|m| m.modified());
    let age = changed.map(|t| SystemTime::now().duration_since(t).unwrap_or_default());
    age.is_ok_and(|age| age.as_secs() < 60)
}

#[cfg(unix)]
fn is_same(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    let both = (open.metadata().map(place), fs::symlink_metadata(path).map(place));
    matches!(both, (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes a directory, following no link. What lies in it belongs to its owner or to nobody else who matters, but what has fetched an
/// image may have left directories that let nobody in.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let_in(path);
            fs::remove_dir_all(path)
        }
        other => other,
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Lets their owner into all directories of a tree, as far as it may say so.
#[cfg(unix)]
fn let_in(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut ahead = vec![path.to_owned()];
    while let Some(dir) = ahead.pop() {
        if !fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir()) {
            continue;
        }
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        ahead.extend(entries.map(|e| e.path()));
    }
}

#[cfg(not(unix))]
fn let_in(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_lets_nobody_in_is_let_in_to_be_removed() {
        use std::os::unix::fs::PermissionsExt as _;
        let node = tempfile::tempdir().expect("a directory");
        let outside = node.path().join("outside");
        let left = node.path().join("left");
        fs::create_dir_all(left.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        let closed =
            |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o0)).expect("closed");
        std::os::unix::fs::symlink(&outside, left.join("a/link")).expect("made");
        for path in [left.join("a/b"), left.join("a"), outside.clone()] {
            closed(&path);
        }
        // Root is let in anyway; what it does on the way is the same.
        let_in(&left);
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&left.join("a")), mode(&left.join("a/b"))), (0o700, 0o700));
        assert_eq!(mode(&outside), 0, "no link is followed");
        remove_tree(&left).expect("removed");
        assert!(!left.exists() && outside.exists());
    }

    fn digest() -> Digest {
        Digest::of(b"a root")
    }

    fn store_with_one(node: &Path) -> Store {
        let store = Store::of_node(node);
        let place = store.place(&digest());
        fs::create_dir_all(place.join("tree/bin")).expect("made");
        fs::write(place.join("lock"), "").expect("made");
        let meta = Meta {
            digest: digest(),
            manifest: None,
            form: crate::Form::Tarball,
            source: "root.tar".to_owned(),
            bytes: 0,
            entries: 1,
            devices_left_out: 0,
            set_ids_dropped: 0,
            added_at: Timestamp::now(),
        };
        let text = serde_json::to_vec(&meta).expect("JSON");
        fs::write(place.join("meta.json"), text).expect("made");
        store
    }

    #[test]
    fn what_a_job_holds_is_not_removed() {
        let node = tempfile::tempdir().expect("a directory");
        let store = store_with_one(node.path());
        let held = store.hold(&digest()).expect("held");
        assert!(matches!(store.remove(&digest()), Err(RootfsError::InUse(_))));
        assert!(held.tree().join("bin").is_dir());
        let second = store.hold(&digest()).expect("held twice");
        drop(held);
        assert!(matches!(store.remove(&digest()), Err(RootfsError::InUse(_))));
        drop(second);
        store.remove(&digest()).expect("removed");
        assert!(matches!(store.hold(&digest()), Err(RootfsError::Missing(_))));
        assert_eq!(fs::read_dir(store.dir()).expect("a directory").count(), 0);
    }

    #[test]
    fn what_is_still_being_put_in_its_place_or_removed_is_not_there() {
        let node = tempfile::tempdir().expect("a directory");
        let store = store_with_one(node.path());
        assert!(store.has(&digest()));
        let busy = File::open(store.place(&digest()).join("lock")).expect("open");
        busy.lock().expect("locked");
        // A job would be refused that was told that it is there.
        assert!(!store.has(&digest()) && store.hold(&digest()).is_err());
        drop(busy);
        assert!(store.has(&digest()) && store.hold(&digest()).is_ok());
    }

    #[test]
    fn what_was_cut_short_long_ago_is_tidied_up_and_what_is_under_way_stays() {
        let node = tempfile::tempdir().expect("a directory");
        let store = store_with_one(node.path());
        let (busy, left) = (store.beside("new"), store.beside("new"));
        for place in [&busy, &left] {
            fs::create_dir(place).expect("made");
            fs::write(place.join("lock"), "").expect("made");
            let long_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
            let dir = File::open(place).expect("open");
            dir.set_modified(long_ago).expect("an hour ago");
        }
        let lock = File::open(busy.join("lock")).expect("open");
        lock.lock().expect("locked");
        store.tidy().expect("tidied");
        assert!(busy.exists() && !left.exists());
        assert!(store.place(&digest()).exists());
    }
}
