//! Containers by podman and by a Docker daemon beside what these start by themselves: the same program, from the same
//! host's `/usr`, with the flags that ours gives them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lictor_sandbox::{Config, ContainerEngine};
use lictor_trust::profiles::Backend;
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;
use serde_json::json;

use super::common::Bench;
use super::common::docker::{Docker, program_of_a_daemon};
use super::{both, oci, program, rounds, row, spawned, start_to_exit};
use crate::common::OnThisMachine as _;

/// Of these a start takes a third of a second, or more.
fn few() -> usize {
    rounds().div_ceil(10)
}

/// A row without figures.
fn not_measured(name: &str, why: &str) {
    println!("| j | start to exit of `true`, {name} | not measured | {why} | 1.2 x |");
}

/// The same in mounts of its own, in which there are no cgroups, since crun refuses a host that has both versions, and with
/// a null device that is not the machine's, since it gives that to a container's root. That these are made is not measured.
pub(crate) fn spawned_apart(command: &mut Command) -> Duration {
    let place = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            own_mounts(place.path()).expect("mounts of its own");
            spawned(command)
        });
        thread.join().expect("it runs")
    })
}

#[allow(unsafe_code)]
fn own_mounts(place: &Path) -> io::Result<()> {
    // SAFETY: this thread alone has its own mounts and directories from here on, and ends soon; descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    for at in [place, Path::new("/sys/fs/cgroup")] {
        rustix::mount::mount("none", at, "tmpfs", MountFlags::empty(), None)?;
    }
    let (null, number) = (place.join("null"), rustix::fs::makedev(1, 3));
    let all = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, &null, FileType::CharacterDevice, all, number)?;
    rustix::fs::chmod(&null, all)?;
    Ok(rustix::mount::mount_bind(&null, "/dev/null")?)
}

#[tokio::test]
async fn start_and_wait_of_true_beside_podman() {
    const NAME: &str = "container, podman";
    if !rustix::process::geteuid().is_root() {
        return not_measured(NAME, "it is measured as root");
    }
    let (Some(podman), Some(crun)) = (program("podman"), program("crun")) else {
        return not_measured(NAME, "podman or crun is not on this machine");
    };
    let config = Config {
        container_engine: ContainerEngine::Podman,
        podman,
        ..Config::default()
    };
    let peer = Podman::make(&config.podman, &crun);
    let Some(bench) = Bench::on_with(Backend::Container, config).await else {
        return not_measured(NAME, "podman does not work on this machine");
    };
    start_to_exit(&bench).await;
    spawned_apart(&mut peer.run());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..few() {
        ours.push(start_to_exit(&bench).await);
        theirs.push(spawned_apart(&mut peer.run()));
    }
    let null = fs::metadata("/dev/null").expect("a device");
    assert_eq!((null.uid(), null.gid()), (0, 0), "the machine's own is as it was");
    row(NAME, &ours, ("podman run", &theirs), "1.2 x", "");
}

/// podman with a storage that stays from one container to the next, as a site's does.
struct Podman {
    place: tempfile::TempDir,
    root: oci::Bundle,
    words: Vec<String>,
}

/// What ours tells podman, but for how it waits, and for two users in place of the host's.
const FLAGS: [&str; 28] = [
    "run",
    "--rm",
    "--pull=never",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--security-opt=seccomp=unconfined",
    "--security-opt=label=disable",
    "--security-opt=apparmor=unconfined",
    "--cgroups=disabled",
    "--network=none",
    "--ipc=private",
    "--pid=private",
    "--uts=private",
    "--cgroupns=private",
    "--no-hosts",
    "--log-driver=none",
    "--systemd=false",
    "--shm-size=268435456",
    "--tmpfs=/sys:ro,notmpcopyup,size=4k",
    "--tmpfs=/sys/fs/cgroup:ro,notmpcopyup,size=4k",
    "--tmpfs=/tmp:rw,notmpcopyup,exec,nosuid,nodev,mode=1777,size=1073741824",
    "--uidmap=0:65533:1",
    "--uidmap=1000:65534:1",
    "--gidmap=0:65533:1",
    "--gidmap=1000:65534:1",
    "--mount=type=bind,source=/usr,destination=/usr,ro=true,bind-propagation=rprivate",
];

impl Podman {
    fn make(podman: &Path, crun: &Path) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(place.path(), open).expect("a mode");
        let root = oci::Bundle::make();
        for name in ["etc", "run", "sys"] {
            fs::create_dir_all(root.root().join(name)).expect("made");
        }
        // What podman mounts by itself.
        for name in ["etc/hostname", "etc/resolv.conf", "run/.containerenv"] {
            fs::write(root.root().join(name), "").expect("written");
        }
        let at = |name: &str| place.path().join(name).display().to_string();
        let settings = "[containers]\ndefault_ulimits = []\n[engine]\ncgroup_manager = \"cgroupfs\"\n\
                        events_logger = \"none\"\nhooks_dir = []\n";
        fs::write(place.path().join("containers.conf"), settings).expect("written");
        let mut words = vec![podman.display().to_string()];
        for (option, value) in [
            ("--root", at("storage")),
            ("--runroot", at("run")),
            ("--tmpdir", at("tmp")),
            ("--storage-driver", "vfs".to_owned()),
            ("--runtime", crun.display().to_string()),
        ] {
            words.extend([option.to_owned(), value]);
        }
        words.extend(FLAGS.map(str::to_owned));
        words.extend(["--rootfs".to_owned(), root.root().display().to_string()]);
        words.push("/usr/bin/true".to_owned());
        Self { place, root, words }
    }

    fn run(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null());
        command.env("CONTAINERS_CONF", self.place.path().join("containers.conf"));
        command.current_dir(self.root.root());
        command
    }
}

#[tokio::test]
async fn start_and_wait_of_true_beside_docker() {
    const NAME: &str = "container, docker";
    let Some(docker) = Docker::start() else {
        return not_measured(
            NAME,
            "a Docker daemon is not on this machine, or this is not root",
        );
    };
    let bench = Bench::with(Backend::Container, docker.config()).await;
    // The image of nothing is there from here on.
    start_to_exit(&bench).await;
    let client = program_of_a_daemon("docker");
    let (mut ours, mut theirs, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..few() {
        ours.push(start_to_exit(&bench).await);
        theirs.push(asked(&docker));
        if let Some(client) = &client {
            clients.push(spawned(&mut by_client(client, &docker)));
        }
    }
    let client = match clients.is_empty() {
        true => "the docker command is not on this machine".to_owned(),
        false => format!("docker run: {}", both(&clients)),
    };
    let peer = ("create, start, wait of the same daemon", &theirs[..]);
    row(NAME, &ours, peer, "1.2 x", &format!("; {client}"));
}

/// What of the host's it shows: place and source.
const SHOWN: [(&str, &str); 3] = [("/usr", "/usr"), ("/lib", "/usr/lib"), ("/lib64", "/usr/lib64")];

/// A container by three requests; that it is removed is not measured, as with ours.
fn asked(docker: &Docker) -> Duration {
    let mounts =
        SHOWN.map(|(at, from)| json!({ "Type": "bind", "Source": from, "Target": at, "ReadOnly": true }));
    let wanted = json!({
        "Image": docker.image(),
        "Entrypoint": ["/usr/bin/true"],
        "User": "65534:65534",
        "NetworkDisabled": true,
        "HostConfig": {
            "Mounts": mounts,
            "ReadonlyRootfs": true,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges", "label=disable"],
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": { "Type": "none" },
        },
    });
    let wanted = wanted.to_string();
    let ask = |method: &str, path: &str, body: &str| docker.request(method, path, body).expect("an answer");
    let started = Instant::now();
    let made: serde_json::Value =
        serde_json::from_str(&ask("POST", "/containers/create", &wanted)).expect("JSON");
    let id = made["Id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let said = ask("POST", &format!("/containers/{id}/start"), "");
    assert_eq!(said, "");
    let ended = ask("POST", &format!("/containers/{id}/wait"), "");
    let took = started.elapsed();
    assert!(ended.contains("\"StatusCode\":0"), "{ended}");
    ask("DELETE", &format!("/containers/{id}"), "");
    took
}

/// The same by the command that people type.
fn by_client(client: &Path, docker: &Docker) -> Command {
    let mut command = Command::new(client);
    command
        .arg("--host")
        .arg(format!("unix://{}", docker.socket().display()));
    command.args(["run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL"]);
    command.args(["--security-opt=no-new-privileges", "--security-opt=label=disable"]);
    command.args([
        "--ipc=private",
        "--cgroupns=private",
        "--log-driver=none",
        "--user=65534:65534",
    ]);
    for (at, from) in SHOWN {
        command.arg(format!("--mount=type=bind,source={from},target={at},readonly"));
    }
    command.arg("--entrypoint=/usr/bin/true").arg(docker.image());
    command.env("HOME", docker.runtime_dir()).stdin(Stdio::null());
    command
}
