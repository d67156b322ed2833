//! A Docker daemon of a test's own: in mounts and a network of its own, its files below one directory, its cgroups below
//! one name. Nothing of it is left when the test ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lictor_docker::Daemon;
use lictor_sandbox::{Config, ContainerDaemon, ContainerEngine};
use rustix::process::{Pid, Signal};

use super::{eventually, machine, processes_with};

/// What a daemon writes outside of its directories is memory that nobody else sees. It has no network but loopback.
const START: &str = r#"
dir=$1; shift
for place in /etc /run /opt; do mount -t tmpfs none $place; done
mkdir -p /etc/docker /run/docker
ip link set lo up
exec "$@" > "$dir/log" 2>&1
"#;

/// Where the programs of a daemon are that is not installed.
fn programs() -> PathBuf {
    std::env::var_os("LICTOR_TEST_DOCKER").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// One that comes with a daemon.
pub fn program_of_a_daemon(name: &str) -> Option<PathBuf> {
    let own = programs().join("usr/bin").join(name);
    let places = [own, Path::new("/usr/local/bin").join(name)];
    places.into_iter().find(|path| path.is_file())
}

/// A daemon that runs.
pub struct Docker {
    dir: tempfile::TempDir,
    cgroups: String,
    daemon: Option<Child>,
    /// Where processes count otherwise than here.
    other_pids: bool,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Docker {
    /// `None` where this machine cannot run one: then the test is skipped, with the reason.
    pub fn start() -> Option<Self> {
        Self::start_where(false)
    }

    /// One whose processes have other numbers than here.
    pub fn start_in_other_pids() -> Option<Self> {
        Self::start_where(true)
    }

    fn start_where(other_pids: bool) -> Option<Self> {
        let program = programs().join("usr/sbin/dockerd");
        if !rustix::process::geteuid().is_root() || !program.is_file() {
            let why = format!("root starts {} here, or nobody", program.display());
            machine::skip_what_cannot_run("docker", why);
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("lictor-docker-")
            .tempdir()
            .expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(dir.path(), open).expect("its mode");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroups = format!("lictor-docker-{}-{count}", std::process::id());
        let mut docker = Self {
            dir,
            cgroups,
            daemon: None,
            other_pids,
        };
        docker.begin();
        Some(docker)
    }

    /// Starts it, for the first time or again.
    pub fn begin(&mut self) {
        let at = |name: &str| self.dir.path().join(name);
        let _ = fs::remove_file(self.socket());
        fs::write(at("config.json"), "{}").expect("its configuration");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--ipc", "--uts", "--propagation", "private"]);
        if self.other_pids {
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        }
        command.args(["sh", "-euc", START, "sh"]).arg(self.dir.path());
        let tree = programs();
        command.arg(tree.join("usr/sbin/dockerd"));
        let its = ["usr/bin", "usr/sbin"].map(|dir| tree.join(dir).display().to_string());
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", its.join(":")));
        if tree != Path::new("/") {
            let library = format!("{}-linux-gnu", std::env::consts::ARCH);
            let libraries = ["usr/lib", "lib"].map(|dir| tree.join(dir).join(&library).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
        }
        for (option, name) in [
            ("--config-file", "config.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(option).arg(at(name));
        }
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()));
        command.arg(format!("--cgroup-parent=/{}", self.cgroups));
        command.args([
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--storage-driver=vfs",
            "--bridge=none",
        ]);
        command.args([
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]);
        let daemon = RefCell::new(command.stdin(Stdio::null()).spawn().expect("unshare runs"));
        let answers = || {
            self.request("GET", "/_ping", "")
                .is_ok_and(|answer| answer == "OK")
        };
        eventually("the daemon answers", || {
            if let Ok(Some(status)) = daemon.borrow_mut().try_wait() {
                panic!("dockerd: {status}: {}", self.log());
            }
            answers()
        });
        self.daemon = Some(daemon.into_inner());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Where an agent that uses it has its files.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The daemon as agents ask it.
    pub fn client(&self) -> Arc<dyn ContainerDaemon> {
        Arc::new(Daemon::at(self.socket()))
    }

    /// An agent's configuration that has it.
    pub fn config(&self) -> Config {
        self.config_by(self.client())
    }

    pub fn config_by(&self, daemon: Arc<dyn ContainerDaemon>) -> Config {
        Config {
            container_engine: ContainerEngine::Docker,
            docker: Some(daemon),
            runtime_dir: self.runtime_dir(),
            ..Config::default()
        }
    }

    /// Signals the daemon alone.
    pub fn signal(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().expect("it runs");
        rustix::process::kill_process(Pid::from_child(daemon), signal).expect("signalled");
    }

    /// Ends the daemon, by a signal, and waits for that.
    pub fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.daemon.take().expect("it runs").wait().expect("its end");
        // Who helps it, and would keep the next one from starting; those that hold containers live.
        let helper = self.dir.path().join("exec/containerd/containerd.toml");
        kill_all(&helper.to_string_lossy());
        let _ = fs::remove_file(helper.with_extension("pid"));
    }

    /// The labels of its only container.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let answer = self
            .request("GET", "/containers/json?all=1", "")
            .expect("an answer");
        let all: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        serde_json::from_value(all[0]["Labels"].clone()).expect("labels")
    }

    /// The id of its only image.
    pub fn image(&self) -> String {
        let answer = self.request("GET", "/images/json?all=1", "").expect("an answer");
        let images: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        images[0]["Id"].as_str().expect("an image").to_owned()
    }

    /// Makes a container of its only image that is never started.
    pub fn make_container(&self, labels: &BTreeMap<String, String>) {
        let wanted = serde_json::json!({ "Image": self.image(), "Entrypoint": ["/x"], "Labels": labels });
        let made = self.request("POST", "/containers/create", &wanted.to_string());
        assert!(made.as_ref().is_ok_and(|m| m.contains("Id")), "{made:?}");
    }

    /// Asks it something; the body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned())
    }

    /// How many containers it knows, of all states.
    pub fn containers(&self) -> usize {
        fs::read_dir(self.dir.path().join("data/containers")).map_or(0, Iterator::count)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // One that was stopped by a test does not hear of its end otherwise.
            self.signal(Signal::CONT);
            // Who stands before other pids hears of nothing else.
            self.end(if self.other_pids {
                Signal::KILL
            } else {
                Signal::TERM
            });
        }
        // What a daemon leaves that was killed: all of these name its directory.
        let mark = self.dir.path().to_string_lossy().into_owned();
        kill_all(&mark);
        let roots = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_cgroup(&root.join(&self.cgroups));
        }
    }
}

/// Ends processes of the daemon's, by what their command lines name.
fn kill_all(mark: &str) {
    for line in processes_with(mark) {
        let pid = line
            .split(' ')
            .next()
            .and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let _ = rustix::process::kill_process(pid.expect("a number"), Signal::KILL);
    }
    eventually("nothing of it runs", || processes_with(mark).is_empty());
}

fn remove_cgroup(dir: &Path) {
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&below.path());
        }
    }
    eventually("its cgroup is empty", || {
        fs::remove_dir(dir).is_ok() || !dir.exists()
    });
}
