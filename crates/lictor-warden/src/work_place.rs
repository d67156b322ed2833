//! Where the jobs' own directories lie: a place that the unprivileged user of a sandbox can reach.
//!
//! That user must be able to pass through every directory above its workspace. Usually the node directory allows
//! that. Below a home that is closed to others (`/root` is, everywhere) it cannot, whatever the node directory's own
//! mode; then the jobs' directories lie under [`OUTSIDE`] instead, in a directory named after the node.
//!
//! # Invariants
//! - Nothing but jobs' own directories and kept sandboxes lies there, and nobody but its owner can list it.

use std::path::{Path, PathBuf};

use lictor_proto::NodeId;

use crate::node_dir::{NodeDir, NodeDirError};

/// Where work goes that cannot lie below the node directory. Only root can make it, and only a root agent needs it:
/// without root, sandboxes run as the agent's own user.
const OUTSIDE: &str = "/var/lib/lictor/work";

/// The directory that the jobs' directories are made in.
#[derive(Debug)]
pub(crate) struct WorkPlace {
    path: PathBuf,
    outside: bool,
}

impl WorkPlace {
    /// Chooses the place for a node and makes it.
    pub(crate) fn open(dir: &Path, node: &NodeId) -> Result<Self, NodeDirError> {
        let inside = dir.join("work");
        NodeDir::create(&inside)?;
        if others_can_pass(&inside) {
            return Ok(Self {
                path: inside,
                outside: false,
            });
        }
        let path = Path::new(OUTSIDE).join(node.as_str());
        match NodeDir::create(&path) {
            Ok(_) => Ok(Self { path, outside: true }),
            Err(e) => {
                tracing::debug!(
                    error = &e as &dyn std::error::Error,
                    "work stays below the node directory"
                );
                Ok(Self {
                    path: inside,
                    outside: false,
                })
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves nothing behind outside of the node directory; what is not empty stays.
    pub(crate) fn close(&self) {
        if self.outside {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// The one that a node with this directory has chosen, for whoever looks at it beside its warden.
#[must_use]
pub fn of_node(dir: &Path, node: &NodeId) -> PathBuf {
    let inside = dir.join("work");
    let outside = Path::new(OUTSIDE).join(node.as_str());
    match others_can_pass(&inside) || !outside.is_dir() {
        true => inside,
        false => outside,
    }
}

#[cfg(unix)]
fn others_can_pass(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    path.ancestors()
        .all(|p| std::fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

#[cfg(not(unix))]
fn others_can_pass(_: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::others_can_pass;

    #[test]
    fn one_closed_directory_above_is_enough_to_be_unreachable() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let mode = |m| std::fs::set_permissions(top.path(), std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o711);
        assert!(others_can_pass(&below));
        mode(0o700);
        assert!(!others_can_pass(&below));
    }
}
