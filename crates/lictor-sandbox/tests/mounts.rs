//! What a job has mounted below its directory is detached with the directory; what it shows is left as it was.
//!
//! Each test runs itself once more in a mount namespace of its own, so that the machine's mounts are not touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Bench, command, with_own_mounts};
use lictor_sandbox::{Cause, StdinSource, remove_job_dir};
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
