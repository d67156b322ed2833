//! One container's files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use super::config::Config;
use super::left;
use super::view::{Access, Mount, View};
use crate::linux::shown::{GROUP, HOSTS, PASSWD};

/// Directories that every container has of its own.
const DIRECTORIES: [&str; 3] = ["dev", "proc", "workspace"];
/// Those that it has besides where it shows no root file system that has them.
const OTHERS: [&str; 3] = ["etc", "run", "var"];
/// What everybody may write to; a runtime gives memory that it mounts there the mode of what is below.
const SHARED: u32 = 0o1777;

/// The directory of one container, which it is gone with.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    dir: PathBuf,
    id: String,
}

impl Bundle {
    pub(super) fn make(dir: PathBuf, id: String) -> io::Result<Self> {
        let bundle = Self { dir, id };
        make_dir(&bundle.dir.join("state"), 0o700)?;
        make_dir(&bundle.root(), 0o755)?;
        Ok(bundle)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the container is called on this machine.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the runtime keeps what it has to remember.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Writes down what the runtime is to make.
    pub(crate) fn fill(&self, view: &View, config: &Config<'_>) -> io::Result<()> {
        let own = self.lay(view)?;
        self.write(view, config, &own)
    }

    /// The same, when the root is laid out and has mounts of its `own` files.
    pub(crate) fn write(&self, view: &View, config: &Config<'_>, own: &[Mount]) -> io::Result<()> {
        view.is_covered()?;
        let text = config.text(view, &self.root(), own)?;
        file(&self.dir.join("config.json"), 0o600)?.write_all(&text)
    }

    /// Makes the root: places for mounts, links, a few small files; returns mounts of files of its own.
    pub(crate) fn lay(&self, view: &View) -> io::Result<Vec<Mount>> {
        let root = self.root();
        for name in DIRECTORIES {
            make_dir(&root.join(name), 0o755)?;
        }
        make_dir(&root.join("tmp"), SHARED)?;
        let own = match &view.users {
            Some(users) => self.files_over_tree(users)?,
            None => {
                fill_root(&root)?;
                Vec::new()
            }
        };
        for (path, target) in &view.links {
            let path = inside(path);
            if let Some(parent) = path.parent().and_then(|p| point(&root, p, true).transpose()) {
                symlink(target, parent?.join(path.file_name().unwrap_or_default()))?;
            }
        }
        for mount in &view.mounts {
            point(&root, &inside(&mount.at), mount.is_dir)?;
        }
        Ok(own)
    }

    /// Makes places for what an engine mounts whether it is asked to or not.
    pub(crate) fn lay_points(&self, directories: &[&str], files: &[&str]) -> io::Result<()> {
        let each = |paths: &[&str], is_dir| {
            let mut paths = paths.iter();
            paths.try_for_each(|path| point(&self.root(), &inside(path), is_dir).map(|_| ()))
        };
        each(directories, true)?;
        each(files, false)
    }

    /// Files that take the place of those of a root file system, which is shown as it is.
    fn files_over_tree(&self, users: &[Vec<u8>; 2]) -> io::Result<Vec<Mount>> {
        let [passwd, group] = users;
        let mut mounts = Vec::new();
        for (name, content) in [("passwd", &passwd[..]), ("group", group), ("hosts", HOSTS)] {
            let path = self.dir.join(name);
            file(&path, 0o644)?.write_all(content)?;
            mounts.push(Mount::of(&path, &format!("/etc/{name}"), Access::Read)?);
        }
        Ok(mounts)
    }

    /// Removes it, when the container has ended.
    pub(crate) fn remove(&self) -> io::Result<()> {
        left::remove(&self.dir)
    }
}

/// What a container has that shows the host's programs.
fn fill_root(root: &Path) -> io::Result<()> {
    for name in OTHERS {
        make_dir(&root.join(name), 0o755)?;
    }
    symlink("../tmp", root.join("var/tmp"))?;
    for (name, content) in [("passwd", PASSWD), ("group", GROUP), ("hosts", HOSTS)] {
        file(&root.join("etc").join(name), 0o644)?.write_all(content)?;
    }
    Ok(())
}

/// Whatever mode the agent's umask leaves to others.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn file(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// A path of the container's, relative to its root; steps up there are none.
fn inside(path: &str) -> PathBuf {
    let parts = Path::new(path).components();
    parts.filter(|c| matches!(c, Component::Normal(_))).collect()
}

/// Makes the place for a mount, with all directories above it. Nothing where a link is in the way: what that leads to is
/// shown by a mount, and the place is in there.
fn point(root: &Path, path: &Path, is_dir: bool) -> io::Result<Option<PathBuf>> {
    let mut at = root.to_owned();
    let mut parts = path.iter().peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => return Ok(None),
            Ok(_) => {}
            Err(_) if parts.peek().is_none() && !is_dir => drop(file(&at, 0o644)?),
            Err(_) => make_dir(&at, 0o755)?,
        }
    }
    Ok(Some(at))
}
