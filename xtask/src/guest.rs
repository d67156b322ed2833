//! `cargo xtask guest`: limits on whole jobs under version 2 of cgroups, held by Debian's own kernel in a virtual machine.
//!
//! A machine has its controllers in one version of cgroups, and those that build this may have them in version 1. So the tests
//! of limits run once more where they are in version 2: in QEMU without hardware support, with the kernel that this
//! Debian ships. The machine's root file system is the guest's, read-only, below an overlay in memory. What is tried
//! comes on a disk of its own, which also is the disk whose bytes per second are limited.
//!
//! ```text
//!   initrd: busybox, modules, `guest/init`  -->  /       overlay: this machine's root (virtiofs), memory
//!                                                /disk   ext4: the tests' program, the names of tests, `guest/run`
//!   results: first serial port, read here        kernel's messages: second one, `console.log`
//! ```

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup;
use crate::shell::{cargo, program, root, run, target_dir};

/// How long all of it may take: without hardware support everything takes ten times as long.
const PATIENCE: Duration = Duration::from_secs(900);
const MEMORY: &str = "2G";
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// In the order in which they are loaded.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "fuse",
    "virtiofs",
    "overlay",
];

/// What is tried, by the beginnings of its names. The other backends hold these limits by the same code.
const TRIED: &[&str] = &[
    "host::",
    "bubblewrap::",
    "container::fork_bomb",
    "container::memory_of",
    "container::no_process",
];

/// Runs the tests of limits in a guest.
pub(crate) fn run_all() -> Result<()> {
    if !cfg!(target_arch = "x86_64") || !setup::is_root() {
        println!("   skipped: it takes root and x86-64");
        ensure!(std::env::var_os("CI").is_none(), "the CI has to run it");
        return Ok(());
    }
    let place = target_dir().join("guest");
    std::fs::create_dir_all(&place)?;
    let files = Files::of_debian(&place)?;
    initrd(&place, &files)?;
    let tried = disk(&place)?;
    boot(&place, &files, &tried)
}

/// What Debian packages bring, none of it installed.
struct Files {
    kernel: PathBuf,
    modules: PathBuf,
    busybox: PathBuf,
}

impl Files {
    fn of_debian(place: &Path) -> Result<Self> {
        let depends = program("apt-cache", &["depends", "linux-image-cloud-amd64"]).output()?;
        let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
        let mut words = depends.split_whitespace();
        let image = words.find(|w| {
            w.starts_with("linux-image-") && w.ends_with("-cloud-amd64") && *w != "linux-image-cloud-amd64"
        });
        let image = image.context("this system's packages have no kernel for virtual machines")?;
        let version = image.trim_start_matches("linux-image-");
        let unpacked = setup::unpack(place, &[image, "busybox-static"])?;
        Ok(Self {
            kernel: unpacked.join("boot").join(format!("vmlinuz-{version}")),
            modules: unpacked.join("lib/modules").join(version).join("kernel"),
            busybox: unpacked.join("bin/busybox"),
        })
    }

    fn module(&self, name: &str) -> Result<PathBuf> {
        let name = format!("{name}.ko");
        let mut ahead = vec![self.modules.clone()];
        while let Some(dir) = ahead.pop() {
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    ahead.push(entry.path());
                } else if entry.file_name() == *name {
                    return Ok(entry.path());
                }
            }
        }
        bail!("the kernel has no module {name}")
    }
}

/// An empty directory of that name.
fn empty(dir: PathBuf) -> Result<PathBuf> {
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn initrd(place: &Path, files: &Files) -> Result<()> {
    let tree = empty(place.join("initrd"))?;
    for dir in ["dev", "mods", "lower", "upper", "new"] {
        std::fs::create_dir(tree.join(dir))?;
    }
    std::fs::copy(&files.busybox, tree.join("busybox"))?;
    std::fs::copy(root().join("xtask/guest/init"), tree.join("init"))?;
    for (n, name) in MODULES.iter().enumerate() {
        std::fs::copy(files.module(name)?, tree.join(format!("mods/{n:02}.ko")))?;
    }
    let pack = "cd \"$0\" && chmod 755 init busybox && find . | ./busybox cpio -o -H newc > ../initrd.cpio";
    let mut pack = program("sh", &["-c", pack]);
    pack.arg(&tree).stderr(Stdio::null());
    run(pack)
}

/// Makes the disk; returns the names of what will be tried.
fn disk(place: &Path) -> Result<Vec<String>> {
    let tree = empty(place.join("disk"))?;
    std::fs::create_dir(tree.join("tmp"))?;
    let tests = executable()?;
    let mut strip = program("strip", &["--strip-debug", "-o"]);
    strip.arg(tree.join("limits")).arg(&tests);
    run(strip)?;
    let listed = Command::new(&tests)
        .args(["--list", "--format", "terse"])
        .output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let tried: Vec<String> = names
        .filter(|name| TRIED.iter().any(|t| name.starts_with(t)))
        .map(str::to_owned)
        .collect();
    // What machines with version 1 cannot try at all.
    let only_here = tried.iter().filter(|name| name.contains("bytes_per_second"));
    ensure!(only_here.count() == 2, "the tests of limits have other names now");
    std::fs::write(tree.join("tests"), tried.join("\n") + "\n")?;
    std::fs::copy(root().join("xtask/guest/run"), tree.join("run"))?;
    let image = place.join("disk.ext4");
    if image.exists() {
        std::fs::remove_file(&image)?;
    }
    let mut make = program("mke2fs", &["-q", "-t", "ext4", "-d"]);
    make.arg(&tree).arg(&image).arg("512M");
    run(make)?;
    Ok(tried)
}

/// The tests of limits, as they were built for the step before.
fn executable() -> Result<PathBuf> {
    let mut build = cargo(&["test", "--workspace", "--test", "limits", "--no-run"]);
    build.args(["--message-format", "json-render-diagnostics", "--quiet"]);
    let built = build.stderr(Stdio::inherit()).output()?;
    ensure!(built.status.success(), "the tests of limits do not build");
    let messages = String::from_utf8(built.stdout)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "limits";
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables
        .next_back()
        .context("cargo names no program of these tests")
}

/// Ends with whoever holds it.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(place: &Path, files: &Files, tried: &[String]) -> Result<()> {
    let _files = share(place)?;
    let mut qemu = program("qemu-system-x86_64", &[]);
    qemu.current_dir(place);
    qemu.args([
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        MEMORY,
    ]);
    qemu.args(["-display", "none", "-nodefaults", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-serial", "file:console.log"]);
    let memory = format!("memory-backend-memfd,id=mem,size={MEMORY},share=on");
    qemu.args(["-object", &memory, "-numa", "node,memdev=mem"]);
    qemu.args(["-chardev", "socket,id=files,path=files.sock"]);
    qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=root"]);
    qemu.args(["-drive", "file=disk.ext4,format=raw,if=virtio,cache=unsafe"]);
    qemu.arg("-kernel")
        .arg(&files.kernel)
        .args(["-initrd", "initrd.cpio"]);
    qemu.args(["-append", "console=ttyS1 quiet panic=-1"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut qemu = Held(qemu.spawn().context("cannot start QEMU")?);
    let said = BufReader::new(qemu.0.stdout.take().context("no output")?);
    let (lines, heard) = mpsc::channel();
    std::thread::spawn(move || said.lines().try_for_each(|line| lines.send(line)));
    let deadline = Instant::now() + PATIENCE;
    let mut held = 0;
    loop {
        let line = match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line?,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the guest takes longer than {PATIENCE:?}"),
        };
        let line = line.trim_end();
        held += usize::from(line.starts_with("ok "));
        println!("   {line}");
    }
    let status = qemu.0.wait()?;
    let console = place.join("console.log");
    ensure!(
        status.success(),
        "the guest did not end in order ({status}): {}",
        console.display()
    );
    ensure!(
        held == tried.len(),
        "{held} of {} passed in the guest",
        tried.len()
    );
    println!("   {held} tests of limits passed under version 2 of cgroups");
    Ok(())
}

/// Serves this machine's root file system, read-only.
fn share(place: &Path) -> Result<Held> {
    let socket = place.join("files.sock");
    if socket.exists() {
        std::fs::remove_file(&socket)?;
    }
    let listener = UnixListener::bind(&socket)?;
    std::fs::create_dir_all(place.join("root"))?;
    // In mounts of its own, where nothing but this one file system can be seen.
    let line = "mount --bind / \"$1\" && mount -o remount,bind,ro \"$1\" && \
                exec \"$0\" --fd=0 -o \"source=$1\" -o sandbox=chroot -o cache=always -f";
    let mut serve = program("unshare", &["--mount", "sh", "-c", line, VIRTIOFSD]);
    serve.arg(place.join("root"));
    serve.stdin(Stdio::from(OwnedFd::from(listener)));
    let log = std::fs::File::create(place.join("files.log"))?;
    serve.stdout(log.try_clone()?).stderr(log);
    Ok(Held(serve.spawn().context("cannot serve files to the guest")?))
}
