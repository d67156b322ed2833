//! Every wait has an end: a start that hangs, in a process that not even SIGKILL ends, holds up nothing but itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Bench, command, with_own_mounts};
use lictor_proto::Code;
use lictor_sandbox::{Config, StartError, StdinSource};
use lictor_trust::profiles::Backend;
use rustix::process::{Pid, Signal};

/// More than can be under way at once.
const MANY: usize = 20;

async fn bench(backend: Backend) -> Bench {
    let config = Config {
        start_bound: Duration::from_secs(2),
        ..Config::default()
    };
    Bench::with(backend, config).await
}

/// A file system that takes every question and answers none, until it is killed.
struct Hung(Child);

impl Hung {
    fn mount(at: &Path) -> Self {
        let program = format!(
            "import ctypes,os,struct\nf=os.open('/dev/fuse',os.O_RDWR)\nc=ctypes.CDLL(None,use_errno=True)\n\
             o=b'fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other'%f\n\
             assert c.mount(b'hung',{at:?}.encode(),b'fuse',0,o)==0, ctypes.get_errno()\n\
             print('up',flush=True)\n\
             while True:\n\
             \x20   n,op,unique=struct.unpack_from('=IIQ',os.read(f,1<<20))\n\
             \x20   if op==26: os.write(f,struct.pack('=IiQ',80,0,unique)+struct.pack('=16I',7,31,0,0,0,4096,1,*[0]*9))",
            at = at.to_str().expect("UTF-8"),
        );
        let mut daemon = Command::new("/usr/bin/python3")
            .args(["-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let mut line = String::new();
        let out = daemon.stdout.take().expect("stdout");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n", "the file system is mounted");
        Self(daemon)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Needs root for `/dev/fuse`.
fn can_hang() -> bool {
    let may = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !may {
        common::skip("a file system that hangs takes root and /dev/fuse");
    }
    may
}

fn is_late(error: &StartError) -> bool {
    error.refusal().code == Code::StartFailed
        && matches!(error, StartError::Failed { source, .. } if source.kind() == std::io::ErrorKind::TimedOut)
}

#[tokio::test]
async fn starts_that_hang_for_good_leave_room_for_others() {
    if !can_hang() || !with_own_mounts("starts_that_hang_for_good_leave_room_for_others") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let hung = Hung::mount(place.path());
    let bench = bench(Backend::Host).await;
    let mut exec = command(&["true"]);
    exec.cwd = Some(place.path().to_str().expect("UTF-8").to_owned());
    let mut sandboxes = Vec::new();
    for _ in 0..MANY {
        sandboxes.push(bench.backend.create(bench.plan(&exec)).await.expect("created"));
    }
    let mut set = tokio::task::JoinSet::new();
    for mut sandbox in sandboxes {
        set.spawn(async move {
            let error = sandbox
                .exec(StdinSource::Null.into())
                .await
                .expect_err("it hangs");
            (error, sandbox)
        });
    }
    let mut left = Vec::new();
    while let Some(done) = set.join_next().await {
        let (error, sandbox) = done.expect("no panic");
        assert!(is_late(&error), "{error:?}");
        left.push(sandbox);
    }
    for _ in 0..MANY {
        assert!(bench.run(&["true"]).await.succeeded());
    }
    drop(hung);
    for mut sandbox in left {
        sandbox.destroy().await.expect("destroyed");
    }
}

#[tokio::test]
async fn sandbox_that_cannot_be_set_up_or_taken_down_is_given_up() {
    if !can_hang() || !with_own_mounts("sandbox_that_cannot_be_set_up_or_taken_down_is_given_up") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let hung = Hung::mount(place.path());
    let mut bench = bench(Backend::Bubblewrap).await;
    let shown = place.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_only.push(shown);
    let plan = bench.plan(&command(&["true"]));
    let error = bench.backend.create(plan).await.err().expect("it hangs");
    assert!(is_late(&error), "{error:?}");
    bench.profile.read_only.clear();
    assert!(bench.run(&["true"]).await.succeeded());
    drop(hung);
}

#[tokio::test]
async fn keeper_that_stands_still_never_starts_what_was_given_up() {
    let bench = bench(Backend::Host).await;
    // The probe's job may have had one of another kind.
    let others = common::keepers();
    assert!(bench.run(&["true"]).await.succeeded());
    let keepers = common::keepers();
    let own = keepers.iter().find(|k| !others.contains(k)).or(keepers.first());
    let own = *own.expect("a keeper");
    let keeper = Pid::from_raw(own.try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(keeper, Signal::STOP).expect("stopped");
    let place = tempfile::tempdir().expect("a directory");
    let trace = place.path().join("ran");
    let exec = command(&["touch", trace.to_str().expect("UTF-8")]);
    let error = bench
        .start(&exec, StdinSource::Null)
        .await
        .err()
        .expect("nobody answers");
    assert!(is_late(&error), "{error:?}");
    rustix::process::kill_process(keeper, Signal::CONT).expect("goes on");
    common::eventually("it has looked and ended", || !common::keepers().contains(&own));
    assert!(!trace.exists());
    assert!(bench.run_with(&exec, StdinSource::Null).await.succeeded());
    assert!(trace.exists());
}

#[tokio::test]
async fn zygote_that_stands_still_is_replaced() {
    let bench = bench(Backend::Host).await;
    let zygotes = common::children(std::process::id(), "lictor-zygote");
    let pid = |n: u32| Pid::from_raw(n.try_into().expect("a pid")).expect("a pid");
    let send = |signal| {
        for zygote in &zygotes {
            rustix::process::kill_process(pid(*zygote), signal).expect("signalled");
        }
    };
    send(Signal::STOP);
    assert!(bench.run(&["true"]).await.succeeded());
    send(Signal::CONT);
    common::eventually("the old one has ended", || {
        let left = common::children(std::process::id(), "lictor-zygote");
        left.len() == 1 && !zygotes.contains(&left[0])
    });
}
