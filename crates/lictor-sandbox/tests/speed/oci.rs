//! The least that a runtime needs to run `true` in namespaces of its own: what a start by hand costs.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::json;

/// A bundle whose root is the host's `/usr`, read-only.
pub(crate) struct Bundle(tempfile::TempDir);

impl Bundle {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // Whoever is root in a container is nobody here, and walks to its root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open).expect("a mode");
        let root = dir.path().join("root");
        for name in ["usr", "proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(name)).expect("made");
        }
        for name in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).expect("linked");
        }
        let kinds = ["mount", "pid", "network", "ipc", "uts", "cgroup"];
        let namespaces = kinds.map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": ["/usr/bin/true"],
                "env": ["PATH=/usr/bin"],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": true,
            },
            "root": { "path": root, "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
            ],
            "linux": { "namespaces": namespaces },
        });
        fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
        Self(dir)
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    /// Runs it. A runtime gives what it gets as standard input and output to its own user, so these are pipes.
    pub(crate) fn run(&self, runtime: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.0.path().join("state")).args(flags);
        command.args(["run", "--bundle"]).arg(self.0.path()).arg("bare");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}
