//! The peer: OpenSSH with its own configuration, keys and port in a temporary directory, and one shared connection.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Program, wait_until};
use tempfile::TempDir;

/// A running `sshd` with a master connection to it.
pub(crate) struct Sshd {
    dir: TempDir,
    daemon: Program,
    _master: Program,
    port: u16,
}

impl Sshd {
    /// Starts both.
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lictor-ssh-").tempdir()?;
        for key in ["host", "user"] {
            let path = dir.path().join(key);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path)
                .status()?;
            ensure!(made.success(), "ssh-keygen failed");
        }
        fs::copy(dir.path().join("user.pub"), dir.path().join("authorized"))?;
        // sshd as root insists on this directory, which Debian's service file makes at boot.
        let _: Result<(), _> = fs::create_dir("/run/sshd");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\nMaxSessions 64\n\
             SetEnv HOME={}\n",
            path("host"),
            path("authorized"),
            // Without the start-up files of whoever runs this: they can take longer than everything measured.
            dir.path().display(),
        );
        fs::write(dir.path().join("config"), config)?;
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f", &path("config")]);
        let daemon = Program::start(sshd)?;
        let patience = Duration::from_secs(10);
        wait_until("sshd", patience, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        let mut master = Command::new("ssh");
        master
            .args(common(&path("user"), &path("control"), port))
            .args(["-M", "-N", "127.0.0.1"]);
        let master = Program::start(master)?;
        let control: PathBuf = dir.path().join("control");
        wait_until("the ssh master connection", patience, || control.exists())
            .with_context(|| master.stderr())?;
        Ok(Self {
            dir,
            daemon,
            _master: master,
            port,
        })
    }

    /// The process that listens.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A command that runs there, over the shared connection.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new("ssh");
        command
            .args(common(&path("user"), &path("control"), self.port))
            .arg("127.0.0.1")
            .args(arguments);
        command
    }

    /// `scp` of a file to a place there, over the shared connection.
    pub(crate) fn copy(&self, file: &std::path::Path, to: &std::path::Path) -> Command {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new("scp");
        command
            .args([
                "-q",
                "-F",
                "none",
                "-i",
                &path("user"),
                "-P",
                &self.port.to_string(),
            ])
            .args(OPTIONS.map(|option| format!("-o{option}")))
            .arg(format!("-oControlPath={}", path("control")))
            .arg(file)
            .arg(format!("127.0.0.1:{}", to.display()));
        command
    }
}

const OPTIONS: [&str; 4] = [
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "BatchMode=yes",
];

fn common(key: &str, control: &str, port: u16) -> Vec<String> {
    let mut all = vec![
        "-F".to_owned(),
        "none".to_owned(),
        "-i".to_owned(),
        key.to_owned(),
    ];
    all.extend([
        "-S".to_owned(),
        control.to_owned(),
        "-p".to_owned(),
        port.to_string(),
    ]);
    for option in OPTIONS {
        all.extend(["-o".to_owned(), option.to_owned()]);
    }
    all
}
