//! Jobs that may write to their root file system: what they write is theirs alone, bounded, and gone with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::OnThisMachine as _;
use common::{Bench, command, eventually, processes};
use lictor_proto::Digest;
use lictor_rootfs::{Import, Limits, Store};
use lictor_sandbox::{Handle, StdinSource, sync_file_system};
use lictor_trust::profiles::{Backend, Persist, Profile};

/// A tarball with a shell, a few programs with their libraries, a script, and a file that cannot be written by its mode.
fn packed(dir: &Path) -> PathBuf {
    let script = "for p in sh cat ls id touch mkdir head rm stat chmod ln mv; do f=$(readlink -f $(command -v $p)); \
         install -D $f $0/tree/bin/$p; ldd $f | grep -o '/[^ ]*' | while read l; do install -D $(readlink -f $l) $0/tree$l; done; done; \
         mkdir -p $0/tree/etc $0/tree/opt/tool/deep; echo own > $0/tree/etc/own; chmod 444 $0/tree/etc/own; \
         printf '#!/bin/sh\\necho hello from $0\\n' > $0/tree/opt/tool/hello; chmod 755 $0/tree/opt/tool/hello; \
         tar -C $0/tree -cf $0/root.tar .";
    let made = Command::new("sh").args(["-ec", script]).arg(dir).status();
    assert!(made.expect("a shell").success());
    dir.join("root.tar")
}

struct Rooted {
    bench: Bench,
    node: tempfile::TempDir,
    store: Store,
    digest: Digest,
}

async fn bench_with(store: &Store, digest: Digest) -> Bench {
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    bench.host.use_rootfs(store.clone());
    bench.profile.rootfs = Some(digest);
    bench.profile.rootfs_writable = true;
    bench
}

impl Rooted {
    async fn new() -> Self {
        let node = tempfile::tempdir().expect("a directory");
        let store = Store::of_node(node.path());
        let import = Import {
            store: &store,
            limits: Limits::default(),
            sync: sync_file_system,
        };
        let digest = import.add(&packed(node.path()), None).expect("added").digest;
        Self {
            bench: bench_with(&store, digest).await,
            node,
            store,
            digest,
        }
    }

    /// Every name, kind, mode, owner, time and content of the store's tree.
    fn listing(&self) -> Digest {
        let held = self.store.hold(&self.digest).expect("held");
        let script = "cd $0 && find . -printf '%p %y %m %U %G %T@ %s %l\\n' | sort && find . -type f -exec sha256sum {} + | sort";
        let listed = Command::new("sh").args(["-c", script]).arg(held.tree()).output();
        Digest::of(&listed.expect("listed").stdout)
    }
}

/// What of overlays this process's own view of mounts has.
fn overlays() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let own = table.lines().filter(|l| l.contains(" - overlay "));
    own.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_a_job_writes_into_its_root_is_its_own_and_gone_with_it() {
    let rooted = Rooted::new().await;
    let before = rooted.listing();
    let mut plain = rooted.bench.profile.clone();
    plain.rootfs_writable = false;
    let bench = Bench {
        profile: plain,
        ..rooted.bench
    };
    let write = "echo changed > /etc/own && chmod 640 /etc/own && cat /etc/own; touch /bin/new && echo made; rm /opt/tool/hello && echo removed; \
         mkdir -p /usr/local/lib/x && mv /etc/own /etc/moved && ln /etc/moved /etc/again && ls /etc/again; id -u; stat -c %u /bin/sh";
    let refused = bench.sh(&format!("chmod 640 /etc/own; {write}")).await;
    assert!(!refused.stdout.contains("made"), "{refused:?}");
    let bench = Bench {
        profile: Profile {
            rootfs_writable: true,
            ..bench.profile
        },
        ..bench
    };
    let rooted = Rooted { bench, ..rooted };
    let done = rooted.bench.sh(&format!("chmod 640 /etc/own; {write}")).await;
    assert_eq!(
        done.stdout, "changed\nmade\nremoved\n/etc/again\n1000\n1000\n",
        "{done:?}"
    );
    let next = rooted
        .bench
        .sh("cat /etc/own; ls /bin/new; /opt/tool/hello")
        .await;
    assert_eq!(next.stdout, "own\nhello from /opt/tool/hello\n", "{next:?}");
    assert_eq!(rooted.listing(), before, "the store's tree is as it was");
    // What is mounted in it stays what it is.
    let mounted = rooted
        .bench
        .sh("for p in /etc/passwd /etc/group /etc/hosts /proc/sys/kernel/domainname; do echo x >> $p && echo wrote; done; \
             touch /dev/x && echo wrote; echo done")
        .await;
    assert_eq!(mounted.stdout, "done\n", "{mounted:?}");
}

#[tokio::test]
async fn two_jobs_with_one_root_do_not_see_what_the_other_writes_and_nobody_outside_sees_either() {
    let rooted = Rooted::new().await;
    let bench = &rooted.bench;
    let wait = "echo mine > /etc/mine; echo written; cat; echo done";
    let (end, input) = std::io::pipe().expect("a pipe");
    let stdin = StdinSource::File(std::fs::File::from(std::os::fd::OwnedFd::from(end)));
    let (mut first, mut running) = bench
        .start(&command(&["/bin/sh", "-c", wait]), stdin)
        .await
        .expect("started");
    let mut out = running.take_stdout().expect("stdout");
    let mut said = bytes::BytesMut::new();
    out.read(&mut said, 64).await.expect("it has written");
    let other = bench
        .sh("cat /etc/mine; echo theirs > /etc/mine; cat /etc/mine")
        .await;
    assert_eq!(other.stdout, "theirs\n", "{other:?}");
    assert!(overlays().is_empty(), "{:?}", overlays());
    drop(input);
    let rest = common::read_all(out).await;
    running.wait().await;
    first.destroy().await.expect("destroyed");
    let both = format!("{}{rest}", String::from_utf8_lossy(&said));
    assert_eq!(both, "written\ndone\n");
}

#[tokio::test]
async fn what_is_written_into_the_root_counts_into_the_disk_limit() {
    let mut rooted = Rooted::new().await;
    let fill = "head -c 6000000 /dev/zero > /workspace/a; head -c 6000000 /dev/zero > /opt/b; stat -c %s /workspace/a /opt/b; ls / > /dev/null && echo alive";
    let limits = &mut rooted.bench.profile.limits;
    (limits.disk, limits.memory) = (Some(8 << 20), Some(256 << 20));
    let done = rooted.bench.sh(fill).await;
    let sizes: Vec<u64> = done.stdout.lines().filter_map(|l| l.parse().ok()).collect();
    let [first, second] = sizes[..] else {
        panic!("{done:?}")
    };
    assert!(first == 6_000_000 && second < 3_000_000, "{done:?}");
    assert!(done.stdout.ends_with("alive\n"), "{done:?}");
    assert!(
        format!("{:?}", done.ended.limits_hit).contains("Disk"),
        "{:?}",
        done.ended
    );
    // A file of the tree that is changed is a whole copy in the job's layer.
    let copied = rooted
        .bench
        .sh("head -c 8388608 /dev/zero > /workspace/a; chmod 755 /bin/sh && echo copied")
        .await;
    assert!(!copied.stdout.contains("copied"), "{copied:?}");
}

#[tokio::test]
async fn without_a_disk_limit_there_is_room_for_a_gibibyte() {
    let rooted = Rooted::new().await;
    let room = rooted.bench.sh("stat -f -c '%b %S' /").await;
    let numbers: Vec<u64> = room
        .stdout
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    assert_eq!(numbers.iter().product::<u64>(), 1 << 30, "{room:?}");
}

#[tokio::test]
async fn a_program_of_a_writable_root_is_the_one_that_was_judged() {
    let rooted = Rooted::new().await;
    let bench = &rooted.bench;
    // A binary, a script, and both by a bare name.
    assert_eq!(
        bench.run(&["/opt/tool/hello"]).await.stdout,
        "hello from /opt/tool/hello\n"
    );
    assert_eq!(bench.run(&["cat", "/etc/own"]).await.stdout, "own\n");
    let plan = bench.plan(&command(&["/opt/tool/hello"]));
    let held = rooted.store.hold(&rooted.digest).expect("held");
    let script = held.tree().join("opt/tool/hello");
    std::fs::write(&script, "#!/bin/sh\necho another\n").expect("written");
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let error = sandbox.exec(StdinSource::Null.into()).await.expect_err("refused");
    assert_eq!(error.refusal().code, lictor_proto::Code::ProgramChanged);
    sandbox.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn a_kept_sandbox_keeps_its_workspace_and_not_its_root() {
    let mut rooted = Rooted::new().await;
    rooted.bench.profile.persist = Some(Persist {
        idle: std::time::Duration::from_secs(60),
        age: std::time::Duration::from_secs(60),
        most: None,
        bytes: None,
    });
    let run = |line: &str| {
        let mut exec = command(&["/bin/sh", "-c", line]);
        exec.sandbox = Some("mine".parse().expect("a name"));
        exec
    };
    let first = run("echo w > /workspace/kept; echo r > /etc/kept; cat /workspace/kept /etc/kept");
    let first = rooted.bench.run_with(&first, StdinSource::Null).await;
    assert_eq!(first.stdout, "w\nr\n", "{first:?}");
    let second = run("cat /workspace/kept; cat /etc/kept");
    let second = rooted.bench.run_with(&second, StdinSource::Null).await;
    assert_eq!(second.stdout, "w\n", "{second:?}");
}

#[tokio::test]
async fn backends_without_a_writable_root_refuse_one() {
    let rooted = Rooted::new().await;
    for backend in [Backend::Host, Backend::Landlock] {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let refused = lictor_sandbox::can_hold(&rooted.bench.profile, backend, &bench.capabilities);
        assert!(refused.is_err(), "{backend}");
    }
    let mut less = rooted.bench.capabilities.words();
    less.retain(|w| w != "writable_root");
    let less = lictor_sandbox::Capability::ALL
        .into_iter()
        .filter(|c| less.iter().any(|w| w == c.as_str()))
        .collect();
    let refused =
        lictor_sandbox::can_hold(&rooted.bench.profile, Backend::Bubblewrap, &less).expect_err("refused");
    assert!(refused.to_string().contains("writable_root"), "{refused}");
    assert!(refused.to_string().contains("Linux 6.15"), "{refused}");
}

#[tokio::test]
async fn the_layer_of_a_root_is_out_of_reach_for_others_of_the_jobs_user() {
    let mut rooted = Rooted::new().await;
    let limits = &mut rooted.bench.profile.limits;
    (limits.disk, limits.memory) = (Some(8 << 20), Some(256 << 20));
    let plan = rooted.bench.plan(&command(&["cat"]));
    let dir = plan.dir().to_owned();
    let mut sandbox = rooted.bench.backend.create(plan).await.expect("created");
    let disk = std::fs::metadata(&dir).expect("the job's disk");
    let layer = std::fs::metadata(dir.join("root")).expect("the layer");
    assert_eq!((disk.uid(), disk.mode() & 0o7777), (0, 0o711));
    assert_eq!((layer.uid(), layer.mode() & 0o7777), (0, 0o700));
    sandbox.destroy().await.expect("destroyed");
    assert!(!dir.exists());
}

const NODE: &str = "LICTOR_TEST_NODE";
const ROOT: &str = "LICTOR_TEST_ROOT";

/// Started by the test below as a process of its own: an agent with a job that has written to its root, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let (Ok(node), Ok(root)) = (std::env::var(NODE), std::env::var(ROOT)) else {
        return;
    };
    let store = Store::of_node(Path::new(&node));
    let mut bench = bench_with(&store, root.parse().expect("a digest")).await;
    bench.root.disable_cleanup(true);
    let limits = &mut bench.profile.limits;
    (limits.disk, limits.memory) = (Some(8 << 20), Some(256 << 20));
    let exec = command(&[
        "/bin/sh",
        "-c",
        "echo mine > /etc/mine; rm /etc/own; echo written; cat",
    ]);
    let (end, _input) = std::io::pipe().expect("a pipe");
    let stdin = StdinSource::File(std::fs::File::from(std::os::fd::OwnedFd::from(end)));
    let (_sandbox, mut running) = bench.start(&exec, stdin).await.expect("started");
    let mut out = running.take_stdout().expect("stdout");
    let mut said = bytes::BytesMut::new();
    out.read(&mut said, 64).await.expect("it has written");
    let handle = serde_json::to_string(running.handle()).expect("JSON");
    println!("\n{handle}");
    running.wait().await;
}

#[tokio::test]
async fn nothing_of_a_root_that_was_written_to_is_left_by_an_agent_that_was_killed() {
    let rooted = Rooted::new().await;
    let before = rooted.listing();
    let mut agent = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed", "--nocapture"])
        .env(NODE, rooted.node.path())
        .env(ROOT, rooted.digest.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("an agent");
    let said = BufReader::new(agent.stdout.take().expect("its output"));
    let mut lines = said.lines().map(|line| line.expect("text"));
    let handle = lines.find(|line| line.starts_with('{')).expect("it runs");
    let handle: Handle = serde_json::from_str(&handle).expect("a handle");
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    let alive = |pid: u32| processes().iter().any(|p| p.0 == pid && p.2 != "Z");
    eventually("the box has ended by itself", || {
        handle.roots.iter().all(|p| !alive(p.pid))
    });
    assert!(overlays().is_empty(), "{:?}", overlays());
    assert_eq!(rooted.listing(), before, "the store's tree is as it was");
    let recovered = rooted.bench.backend.recover(handle.clone()).await;
    recovered.expect("found").destroy().await.expect("destroyed");
    assert!(!handle.dir.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let dir = handle.dir.to_str().expect("text");
    assert!(!mounts.contains(dir), "its disk is gone: {mounts}");
    let next = rooted.bench.sh("cat /etc/own; ls /etc/mine").await;
    assert_eq!(next.stdout, "own\n", "{next:?}");
    std::fs::remove_dir_all(handle.dir.parent().expect("its place")).expect("removed");
}
