//! Set-up: the Debian packages and tools that building and testing need. Does nothing when all are there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell::{cargo, is_installed, program, run, succeeds, target_dir};

/// A program, the Debian package that brings it, and what needs it.
struct Need {
    program: &'static str,
    package: &'static str,
}

const NEEDS: &[Need] = &[
    // aws-lc, SQLite and zstd are compiled from C; libFuzzer from C++.
    Need {
        program: "cc",
        package: "gcc",
    },
    Need {
        program: "c++",
        package: "g++",
    },
    // The sandbox backends.
    Need {
        program: "bwrap",
        package: "bubblewrap",
    },
    Need {
        program: "runc",
        package: "runc",
    },
    Need {
        program: "crun",
        package: "crun",
    },
    Need {
        program: "podman",
        package: "podman",
    },
    // podman of a user who is not root.
    Need {
        program: "newuidmap",
        package: "uidmap",
    },
    Need {
        program: "runsc",
        package: "runsc",
    },
    // Root filesystems are fetched from a registry that a test makes.
    Need {
        program: "skopeo",
        package: "skopeo",
    },
    // Tests of the sandbox make system calls that a shell has no word for.
    Need {
        program: "python3",
        package: "python3",
    },
    // Scripts of every interpreter that they may have; Debian has the others.
    Need {
        program: "node",
        package: "nodejs",
    },
    // A job at a terminal shows a file page by page.
    Need {
        program: "less",
        package: "less",
    },
    // Tests look at what git runs in a repository that a job has left.
    Need {
        program: "git",
        package: "git",
    },
    // System tests put hub and agents into network namespaces and cut the links between them.
    Need {
        program: "ip",
        package: "iproute2",
    },
    Need {
        program: "nft",
        package: "nftables",
    },
    // The demo changes a job in the hub's database behind its back.
    Need {
        program: "sqlite3",
        package: "sqlite3",
    },
];

/// For the guest in which limits are tried once more.
const GUEST_NEEDS: &[Need] = &[
    Need {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Need {
        program: "mke2fs",
        package: "e2fsprogs",
    },
    Need {
        program: "unshare",
        package: "util-linux",
    },
];

/// The peer that the benchmark measures beside Lictor.
const BENCH_NEEDS: &[Need] = &[
    Need {
        program: "sshd",
        package: "openssh-server",
    },
    Need {
        program: "ssh",
        package: "openssh-client",
    },
];

/// A daemon that tests start for themselves: not installed, since that would start one of the machine's own.
const DOCKER: [&str; 3] = ["docker.io", "containerd", "libdevmapper1.02.1"];

/// How long another package manager may hold the lock before this gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// Makes this machine ready for `cargo xtask demo`.
pub(crate) fn for_demo() -> Result<()> {
    packages(NEEDS)
}

/// Makes this machine ready for `cargo xtask bench`.
pub(crate) fn for_bench() -> Result<()> {
    packages(NEEDS)?;
    packages(BENCH_NEEDS)
}

/// Makes this machine ready for `cargo xtask test`.
pub(crate) fn for_tests() -> Result<()> {
    packages(NEEDS)?;
    if is_root() {
        packages(GUEST_NEEDS)?;
    }
    rust_components()?;
    nextest();
    Ok(())
}

/// Whether tests run under nextest or, where it could not be installed, under `cargo test`.
pub(crate) fn has_nextest() -> bool {
    succeeds(cargo(&["nextest", "--version"]))
}

fn packages(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|n| !is_installed(n.program))
        .map(|n| n.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    println!("   missing Debian packages: {list}");
    if !is_installed("apt-get") {
        bail!("this system has no apt-get; install these yourself, then run this again: {list}");
    }
    let as_root = as_root(&list)?;
    apt(as_root, &["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(missing);
    apt(as_root, &install)
}

/// Below which directory a Docker daemon's programs are, for tests that start one.
pub(crate) fn docker() -> Result<PathBuf> {
    if is_installed("dockerd") && is_installed("containerd") {
        return Ok(PathBuf::from("/"));
    }
    let place = target_dir().join("docker");
    std::fs::create_dir_all(&place)?;
    unpack(&place, &DOCKER)
}

/// How to become root.
#[derive(Clone, Copy)]
enum AsRoot {
    Already,
    Sudo,
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    let uid = program("id", &["-u"]).output();
    uid.is_ok_and(|uid| uid.stdout.trim_ascii() == b"0")
}

/// Unpacks packages below `place` without installing them; those that are there already are taken.
pub(crate) fn unpack(place: &Path, packages: &[&str]) -> Result<PathBuf> {
    let tree = place.join(packages.join("+"));
    if tree.exists() {
        return Ok(tree);
    }
    let unfinished = place.join("unpacked");
    for old in [&unfinished, &place.join("downloaded")] {
        if old.exists() {
            std::fs::remove_dir_all(old)?;
        }
        std::fs::create_dir_all(old)?;
    }
    let download = |packages: &[&str]| {
        let mut download = program("apt-get", &["download", "-q"]);
        download.args(packages).current_dir(place.join("downloaded"));
        run(download)
    };
    if download(packages).is_err() {
        apt(as_root(&packages.join(" "))?, &["update", "-q"])?;
        download(packages)?;
    }
    for package in std::fs::read_dir(place.join("downloaded"))? {
        let mut extract = program("dpkg-deb", &["--extract"]);
        extract.arg(package?.path()).arg(&unfinished);
        run(extract)?;
    }
    std::fs::rename(&unfinished, &tree)?;
    Ok(tree)
}

fn as_root(list: &str) -> Result<AsRoot> {
    if is_root() {
        return Ok(AsRoot::Already);
    }
    if is_installed("sudo") {
        return Ok(AsRoot::Sudo);
    }
    bail!("installing packages needs root, and there is no sudo; run as root: apt-get install {list}");
}

/// Runs apt-get, waiting for whoever else is installing something at the moment.
fn apt(as_root: AsRoot, arguments: &[&str]) -> Result<()> {
    let started_at = Instant::now();
    loop {
        let Err(e) = run(apt_command(as_root, arguments)) else {
            return Ok(());
        };
        // dpkg's lock is waited for by apt itself; the lock of the package lists makes it fail at once.
        if started_at.elapsed() > LOCK_PATIENCE || !lists_are_locked() {
            return Err(e);
        }
        println!("   another package manager holds the lock; waiting");
        std::thread::sleep(Duration::from_secs(3));
    }
}

fn apt_command(as_root: AsRoot, arguments: &[&str]) -> Command {
    let timeout = format!("DPkg::Lock::Timeout={}", LOCK_PATIENCE.as_secs());
    let mut command = match as_root {
        AsRoot::Already => program("apt-get", &[]),
        AsRoot::Sudo => program("sudo", &["--preserve-env=DEBIAN_FRONTEND", "apt-get"]),
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-o", &timeout]).args(arguments);
    command
}

fn lists_are_locked() -> bool {
    ["apt-get", "apt", "dpkg", "unattended-upgr"]
        .iter()
        .any(|name| succeeds(program("pgrep", &["-x", name])))
}

fn rust_components() -> Result<()> {
    for (probe, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !succeeds(cargo(&[probe, "--version"])) {
            run(program("rustup", &["component", "add", component]))?;
        }
    }
    Ok(())
}

fn nextest() {
    if has_nextest() {
        return;
    }
    println!("   cargo-nextest is missing; building it once (several minutes)");
    if let Err(e) = run(cargo(&["install", "cargo-nextest", "--locked"])) {
        println!("   could not install it ({e:#}); tests will run under plain `cargo test`");
    }
}
