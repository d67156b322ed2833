//! What a job has mounted below its directory is detached with the directory; what it shows is left as it was.
//!
//! Each test runs itself once more in a mount namespace of its own, so that the machine's mounts are not touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, command, with_own_mounts};
use lictor_sandbox::{Capability, Cause, StdinSource, remove_job_dir};
use lictor_trust::profiles::Backend;

/// Runs a shell line that then sleeps, in a host job that is killed at its timeout; returns the job's directory.
async fn job_that_is_killed(bench: &Bench, line: &str) -> std::path::PathBuf {
    let mut exec = command(&["/bin/sh", "-c", &format!("{line}; echo up; exec sleep 60")]);
    exec.timeout_ms = Some(1_500);
    exec.grace_ms = Some(100);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let dir = running.handle().dir.clone();
    let out = running.take_stdout().expect("stdout");
    let (ended, said) = tokio::join!(running.wait(), common::read_all(out));
    assert_eq!((ended.cause, said.as_str()), (Cause::TimedOut, "up\n"));
    assert!(is_mounted(&dir), "nothing was mounted, so nothing is shown");
    sandbox.destroy().await.expect("destroyed");
    dir
}

fn is_mounted(below: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
    mounts.contains(below.to_str().expect("UTF-8"))
}

#[tokio::test]
async fn destroy_leaves_what_a_bind_mount_shows() {
    if !with_own_mounts("destroy_leaves_what_a_bind_mount_shows") {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    fs::create_dir(home.path().join("letters")).expect("made");
    fs::write(home.path().join("letters/one"), "kept").expect("written");
    let bench = Bench::new(Backend::Host).await;
    let from = home.path().display();
    let binds = [
        format!("mkdir -p a/b; mount --bind {from} a/b; mount --bind {from} a/b"),
        format!("touch f; mount --bind {from}/letters/one f"),
        format!("mount --bind {from} ."),
        format!("mkdir 'a b'; mount --bind {from} 'a b'; mkdir 'a b/new'; mount -t tmpfs none 'a b/new'"),
    ];
    for bind in binds {
        let dir = job_that_is_killed(&bench, &bind).await;
        assert!(!dir.exists() && !is_mounted(&dir), "{bind}");
        let kept = fs::read_to_string(home.path().join("letters/one"));
        assert_eq!(kept.expect(&bind), "kept", "{bind}");
    }
}

#[tokio::test]
async fn destroy_leaves_mounts_that_a_shared_mount_was_copied_with() {
    if !with_own_mounts("destroy_leaves_mounts_that_a_shared_mount_was_copied_with") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let from = place.path().display();
    let bench = Bench::new(Backend::Host).await;
    let line = format!(
        "mount -t tmpfs none {from}; mount --make-shared {from}; mkdir {from}/sub; mount -t tmpfs none {from}/sub; \
         echo kept > {from}/sub/file; mkdir copy; mount --rbind {from} copy; cat copy/sub/file > /dev/null"
    );
    let dir = job_that_is_killed(&bench, &line).await;
    assert!(!dir.exists() && !is_mounted(&dir));
    let kept = fs::read_to_string(place.path().join("sub/file"));
    assert_eq!(kept.expect("still mounted"), "kept\n");
    let umount = Command::new("umount").args(["-R"]).arg(place.path()).status();
    assert!(umount.expect("runs").success());
}

#[test]
fn removal_follows_no_link_and_needs_no_rights_and_no_depth() {
    // In memory where that can be: thousands of directories one in the other are slow on a disk.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let place = place.expect("a directory");
    let outside = place.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("file"), "kept").expect("written");
    let dir = place.path().join("job");
    let line = format!(
        "mkdir -p {dir}/closed/below {dir}/.lictor-0/x; ln -s {outside} {dir}/link; ln -s {outside} {dir}/closed/below/link; \
         touch {dir}/closed/below/f {dir}/.lictor-1; chmod 000 {dir}/closed/below {dir}/closed",
        dir = dir.display(),
        outside = outside.display(),
    );
    let made = Command::new("/bin/sh").args(["-c", &line]).status();
    assert!(made.expect("runs").success());
    // Far deeper than any path can say, or than descriptors would do for.
    let deep = "import os\nfor i in range(5000):\n    os.mkdir('d'); os.mkdir('e'); open('f','w').close(); os.chdir('d')";
    let made = Command::new("/usr/bin/python3")
        .args(["-c", deep])
        .current_dir(&dir)
        .status();
    assert!(made.expect("runs").success());
    remove_job_dir(&dir).expect("removed");
    assert!(!dir.exists());
    assert_eq!(fs::read_to_string(outside.join("file")).expect("there"), "kept");
    remove_job_dir(&dir).expect("one that is gone is no error");
}

/// What is mounted below a path that a job is shown read-only, while it runs: with rights of its own.
#[tokio::test]
async fn what_the_host_mounts_while_a_job_runs_does_not_come_in() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only a root agent can keep it out");
    }
    if !with_own_mounts("what_the_host_mounts_while_a_job_runs_does_not_come_in") {
        return;
    }
    let mount = |args: &[&str], at: &Path| {
        let status = Command::new("mount").args(args).arg(at).status();
        assert!(status.expect("mount runs").success());
    };
    let place = tempfile::tempdir().expect("a directory");
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], place.path());
    mount(&["--make-shared"], place.path());
    let inner = place.path().join("inner");
    fs::create_dir(&inner).expect("made");
    let (shown, file) = (place.path().to_str().expect("UTF-8"), inner.join("file"));
    let write = format!("echo x > {} && echo written", file.display());
    // What bwrap does by itself: a view that goes on to follow the host's, read-only as it is when it is made.
    let line = format!("mount -o remount,bind,ro {shown}; echo up; read go; {write}");
    let mut follower = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", &line])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut said = follower.stdout.take().expect("its output");
    said.read_exact(&mut [0; 3]).expect("it is up");
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    bench.profile.read_only.push(shown.to_owned());
    let line = format!("mkfifo go; echo up; read x < go; {write}; echo done");
    let exec = command(&["/bin/sh", "-c", &line]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut up = bytes::BytesMut::new();
    out.read(&mut up, 64).await.expect("readable");
    mount(&["-t", "tmpfs", "-o", "mode=777", "tmpfs"], &inner);
    let mut go = follower.stdin.take().expect("its input");
    go.write_all(b"\n").expect("told to go on");
    let mut text = String::new();
    said.read_to_string(&mut text).expect("read");
    assert_eq!(text, "written\n", "it comes in and can be written to");
    fs::remove_file(&file).expect("it is the host's");
    fs::write(running.handle().dir.join("go"), "\n").expect("told to go on");
    let (_, said) = tokio::join!(running.wait(), common::read_all(out));
    assert_eq!(said, "done\n");
    assert!(!file.exists());
    sandbox.destroy().await.expect("destroyed");
    follower.wait().expect("it ends");
}

#[test]
fn a_jobs_own_disk_is_mounted_in_no_other_namespace() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can mount a job's own disk");
    }
    if !with_own_mounts("a_jobs_own_disk_is_mounted_in_no_other_namespace") {
        return;
    }
    let mount = |args: &[&str], at: &Path| {
        let status = Command::new("mount").args(args).arg(at).status();
        assert!(status.expect("mount runs").success());
    };
    let place = tempfile::tempdir().expect("a directory");
    mount(&["-t", "tmpfs", "-o", "mode=711", "tmpfs"], place.path());
    mount(&["--make-shared"], place.path());
    // Somebody else's mounts, as those of a service or of another sandbox: what is mounted here is mounted there.
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c"])
        .arg("echo up; read go; cat /proc/self/mountinfo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut told = other.stdout.take().expect("its output");
    told.read_exact(&mut [0; 3]).expect("it is up");
    let plain = place.path().join("plain");
    fs::create_dir(&plain).expect("made");
    mount(&["-t", "tmpfs", "tmpfs"], &plain);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut bench = Bench::new(Backend::Bubblewrap).await;
        if !bench.capabilities.has(Capability::Disk) {
            return common::skip("a disk is memory, which nothing limits here");
        }
        bench.root = tempfile::tempdir_in(place.path()).expect("a directory");
        bench.profile.limits.disk = Some(4 << 20);
        let plan = bench.plan(&command(&["true"]));
        let dir = plan.dir().to_str().expect("UTF-8").to_owned();
        let mut sandbox = bench.backend.create(plan).await.expect("created");
        let mut go = other.stdin.take().expect("its input");
        go.write_all(b"\n").expect("told to go on");
        let mut table = String::new();
        told.read_to_string(&mut table).expect("its mounts");
        let is_there = |at: &str| table.lines().any(|l| l.contains(at) && l.contains(" - tmpfs "));
        assert!(
            is_there(plain.to_str().expect("UTF-8")),
            "an ordinary mount comes: {table}"
        );
        let disk = |l: &&str| l.contains(&dir) && l.contains("size=4096k");
        assert_eq!(table.lines().find(disk), None, "{table}");
        let here = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(here.lines().any(|l| disk(&l)), "{here}");
        sandbox.destroy().await.expect("destroyed");
    });
    other.wait().expect("it ends");
}
