//! What of files a job sees: the host's own, or a root file system of the store, and what its profile names besides.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lictor_proto::Digest;
use lictor_proto::code::{Code, Refusal};
use lictor_rootfs::{Held, RootfsError, Store};
use lictor_trust::profiles::{Backend, Profile};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::remove::link_of;
use super::shown::SHOWN;
use crate::capability::{Capabilities, Capability};
use crate::plan::{Lack, Unenforceable};

/// What every sandbox has of its own, whatever its root has there.
const OWN: [&str; 4] = ["/dev", "/proc", "/tmp", "/workspace"];

/// What a job sees: its profile, held by one of its backends.
pub(super) struct View<'a> {
    profile: &'a Profile,
    backend: Backend,
    root: Option<Root>,
}

/// A root file system of the store, kept there as long as this lives.
struct Root {
    held: Arc<Held>,
    dir: OwnedFd,
    /// As the kernel calls it.
    path: PathBuf,
}

/// A file as a job sees it.
pub(super) struct Seen {
    pub(super) file: OwnedFd,
    /// Canonical, inside.
    pub(super) path: PathBuf,
    /// What lies above that path on the host.
    pub(super) base: PathBuf,
}

fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::ProgramNotFound, message)
}

impl<'a> View<'a> {
    pub(super) fn of(
        (profile, backend): (&'a Profile, Backend),
        store: Option<&Store>,
    ) -> Result<Self, Refusal> {
        let root = match &profile.rootfs {
            None => None,
            Some(_) if !backend.is_namespaced() => {
                let lacks = vec![Lack::new(Capability::OwnRoot, &Capabilities::default())];
                return Err(Unenforceable::Missing { backend, lacks }.refusal());
            }
            Some(digest) => {
                let held = store.map_or(Err(RootfsError::Missing(*digest)), |s| s.hold(digest));
                Some(Root::open(held.map_err(|e| unusable(&e))?)?)
            }
        };
        Ok(Self {
            profile,
            backend,
            root,
        })
    }

    /// Who holds it.
    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// What keeps the root where it is.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.root.as_ref().map(|r| r.held.clone())
    }

    /// What policy is told of the root: what it really is, and the index that the profile names in its place, if it does.
    pub(super) fn root_facts(&self) -> (Option<Digest>, Option<Digest>) {
        let named = self.profile.rootfs;
        match self.root.as_ref().and_then(|root| root.held.manifest()) {
            Some(manifest) => (Some(manifest), named),
            None => (named, None),
        }
    }

    pub(super) fn look_up(&self, command: &str) -> Result<String, Refusal> {
        if command.starts_with('/') {
            return Ok(command.to_owned());
        }
        if command.contains('/') {
            return Err(not_found(format!(
                "{command}: a program is named by an absolute path, or looked up by its bare name"
            )));
        }
        let candidates = self.profile.path.iter().filter(|d| d.starts_with('/'));
        let mut candidates = candidates.map(|d| format!("{}/{command}", d.trim_end_matches('/')));
        candidates
            .find(|p| self.is_program(p))
            .ok_or_else(|| not_found(format!("{command}: not in the profile's path")))
    }

    fn is_program(&self, path: &str) -> bool {
        let is_file = |m: std::fs::Metadata| m.is_file() && m.mode() & 0o111 != 0;
        let file = self.open(path);
        file.is_ok_and(|f| std::fs::metadata(link_of(&f.file)).is_ok_and(is_file))
    }

    /// Opens what a path leads to inside, without following anything out of there.
    pub(super) fn open(&self, asked: &str) -> Result<Seen, Refusal> {
        let wrong = |e: io::Error| not_found(format!("{asked}: {e}"));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let hidden = || not_found(format!("{asked}: the profile does not show it"));
        let from_root = self.root.as_ref().filter(|_| !self.is_named(Path::new(asked)));
        let Some(root) = from_root else {
            let file = rustix::fs::open(asked, flags, Mode::empty()).map_err(|e| wrong(e.into()))?;
            let path = std::fs::read_link(link_of(&file)).map_err(wrong)?;
            if !self.shows(Path::new(asked)) || !self.shows(&path) {
                return Err(hidden());
            }
            let base = PathBuf::from("/");
            return Ok(Seen { file, path, base });
        };
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&root.dir, asked, flags, Mode::empty(), inside);
        let file = file.map_err(|e| wrong(e.into()))?;
        let path = std::fs::read_link(link_of(&file)).map_err(wrong)?;
        let path = path.strip_prefix(&root.path).map_err(|_| hidden())?;
        let path = Path::new("/").join(path);
        // Something else is mounted there.
        if OWN.iter().any(|own| path.starts_with(own)) || self.is_named(&path) {
            return Err(hidden());
        }
        let base = root.path.clone();
        Ok(Seen { file, path, base })
    }

    fn is_named(&self, path: &Path) -> bool {
        let mut named = self.profile.read_only.iter().chain(&self.profile.read_write);
        named.any(|dir| path.starts_with(dir))
    }

    /// Whether the job sees this path of the host.
    fn shows(&self, path: &Path) -> bool {
        let in_system = self.root.is_none() && SHOWN.iter().any(|dir| path.starts_with(dir));
        self.backend == Backend::Host || in_system || self.is_named(path)
    }
}

impl Root {
    fn open(held: Held) -> Result<Self, Refusal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |e: io::Error| {
            let tree = held.tree().display();
            Refusal::new(Code::Unenforceable, format!("{tree} cannot be opened: {e}"))
        };
        let dir = rustix::fs::openat2(
            CWD,
            held.tree(),
            flags,
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        );
        let dir = dir.map_err(|e| failed(e.into()))?;
        let path = std::fs::read_link(link_of(&dir)).map_err(failed)?;
        Ok(Self {
            held: Arc::new(held),
            dir,
            path,
        })
    }
}

/// What it takes is the same whatever the reason: a root that this node can read.
fn unusable(error: &RootfsError) -> Refusal {
    let fix = match error {
        RootfsError::Missing(_) => "; add it there: `lictor agent rootfs add FILE`",
        _ => "",
    };
    Refusal::new(Code::Unenforceable, format!("{error}{fix}"))
}
