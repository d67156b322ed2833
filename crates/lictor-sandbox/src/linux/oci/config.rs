//! `config.json` of a bundle (OCI runtime specification 1.0.2).

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::view::{Access, Mount, View};

/// Who is who in a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids {
    /// The host's user and group that the container's only user is.
    pub(crate) user: (u32, u32),
    /// The one that its root is, who owns nothing.
    pub(crate) root: u32,
}

/// What a runtime understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Options of a mount may hold for what is mounted below it, too.
    Runc,
    /// They hold for it alone; it shows one file system at each place.
    Runsc,
}

/// The container's only user.
const INSIDE: u32 = 1000;

const NAMESPACES: [&str; 7] = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup"];

/// What of the kernel's files tells about the machine. Directories only: a runtime puts `/dev/null` over a file, which
/// can be written to.
pub(super) const MASKED: [&str; 3] = ["/proc/acpi", "/proc/asound", "/proc/scsi"];
/// What changes it. Everybody may write to the last, and each write that succeeds is work for the kernel.
pub(super) const READ_ONLY: [&str; 6] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/pressure",
];

/// What a container is, besides what it shows.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    pub(crate) ids: Ids,
    /// Its first process, which is its root.
    pub(crate) first: &'a [String],
    /// What that may do in it.
    pub(crate) privileges: &'a [&'a str],
    /// Mounts over what the runtime shows by itself.
    pub(crate) hides: &'a [Value],
    pub(crate) dialect: Dialect,
}

impl Config<'_> {
    /// `own` are mounts of files of the bundle.
    pub(super) fn text(&self, view: &View, root: &Path, own: &[Mount]) -> io::Result<Vec<u8>> {
        let root = root.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let mut mounts = own_mounts(self.dialect);
        // Another one in its place must not lie on it: its memory would count, and a runtime would make its places there.
        mounts.retain(|m| view.mounts.iter().all(|shown| m["destination"] != *shown.at));
        mounts.extend_from_slice(self.hides);
        mounts.extend(view.mounts.iter().chain(own).map(|m| shown(m, self.dialect)));
        let namespaces = NAMESPACES.map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": self.first,
                "env": [],
                "cwd": "/",
                "capabilities": {
                    "bounding": self.privileges,
                    "effective": self.privileges,
                    "permitted": self.privileges,
                },
                "noNewPrivileges": true,
            },
            "root": { "path": root, "readonly": true },
            "hostname": "sandbox",
            "mounts": mounts,
            "linux": {
                "uidMappings": mappings(self.ids.root, self.ids.user.0),
                "gidMappings": mappings(self.ids.root, self.ids.user.1),
                "namespaces": namespaces,
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        Ok(serde_json::to_vec(&config)?)
    }
}

fn mappings(root: u32, user: u32) -> [Value; 2] {
    let map = |inside: u32, outside: u32| json!({ "containerID": inside, "hostID": outside, "size": 1 });
    [map(0, root), map(INSIDE, user)]
}

/// File systems of the container's own. Sizes in memory: what anybody inside may fill.
fn own_mounts(dialect: Dialect) -> Vec<Value> {
    let own = |at: &str, kind: &str, options: &[&str]| {
        let mut all = vec!["nosuid"];
        all.extend(options);
        json!({ "destination": at, "type": kind, "source": kind, "options": all })
    };
    vec![
        own("/proc", "proc", &["nodev", "noexec"]),
        match dialect {
            Dialect::Runc => own("/dev", "tmpfs", &["mode=755", "size=64k", "ro"]),
            // Read-only its devices would be, too. Who may make anything there is root alone, which is our first process.
            Dialect::Runsc => own("/dev", "tmpfs", &["mode=755", "size=64k"]),
        },
        own(
            "/dev/pts",
            "devpts",
            &["noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        own(
            "/dev/shm",
            "tmpfs",
            &["nodev", "noexec", "mode=1777", "size=268435456"],
        ),
        own("/tmp", "tmpfs", &["nodev", "mode=1777", "size=1073741824"]),
    ]
}

/// With everything that is mounted below: a part of it without the rest would show what those mounts cover.
fn shown(mount: &Mount, dialect: Dialect) -> Value {
    let [private, nosuid, nodev, ro] = match dialect {
        // crun takes them for directories only; below a file nothing is mounted.
        Dialect::Runc if mount.is_dir => ["rprivate", "rnosuid", "rnodev", "rro"],
        Dialect::Runc | Dialect::Runsc => ["private", "nosuid", "nodev", "ro"],
    };
    let mut options = vec!["rbind", private, nosuid];
    match mount.access {
        Access::Read => options.extend([nodev, ro]),
        Access::Write => options.extend([nodev, "rw"]),
        Access::Device => options.push("rw"),
    }
    json!({ "destination": mount.at, "type": "bind", "source": mount.source(), "options": options })
}
