//! What a namespaced sandbox is besides holding the attempts of `escapes`: its namespaces, its user, its places, and
//! what its limits come to. An attempt is first shown to work on the host.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Read as _;

use common::Bench;
use common::OnThisMachine as _;
use lictor_trust::profiles::Backend;

/// The backends that make namespaces.
const BOXES: [Backend; 2] = [Backend::Bubblewrap, Backend::Container];
/// Those and the one with a kernel of its own.
const ALL: [Backend; 3] = [Backend::Bubblewrap, Backend::Container, Backend::Gvisor];

/// Prints `escaped` when an attempt in Python succeeds on the host, and must not in the sandbox.
async fn host_succeeds_sandbox_fails(program: &str) {
    let host = Bench::new(Backend::Host).await.python(program).await;
    if !common::works_outside(&host) {
        return;
    }
    for backend in ALL {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let inside = bench.python(program).await;
        assert!(!inside.stdout.contains("escaped"), "{backend}: {inside:?}");
    }
}

#[tokio::test]
async fn privileges_cannot_be_regained() {
    let program = "import os\nos.setuid(0)\nos.setgid(0)\nprint('escaped' if os.getuid()==0 else 'no')";
    host_succeeds_sandbox_fails(program).await;
    for backend in BOXES {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let status = bench.sh("cat /proc/self/status").await.stdout;
        for line in [
            "CapPrm:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{backend}: {line} in {status}");
        }
    }
}

#[tokio::test]
async fn workspace_is_the_only_place_of_the_host_that_is_written() {
    for backend in ALL {
        if let Some(bench) = Bench::on(backend).await {
            writes_to_its_workspace_alone(bench).await;
        }
    }
}

async fn writes_to_its_workspace_alone(bench: Bench) {
    let own = format!("/tmp/lictor-escape-{}", std::process::id());
    let script = format!("echo kept > /workspace/file; echo gone > {own} && cp {own} /workspace/own");
    let exec = common::command(&["/bin/sh", "-c", &script]);
    let plan = bench.plan(&exec);
    let dir = plan.dir().to_owned();
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let running = sandbox
        .exec(lictor_sandbox::StdinSource::Null.into())
        .await
        .expect("starts");
    running.wait().await;
    let mut text = String::new();
    let file = std::fs::File::open(dir.join("file")).expect("written through");
    file.take(64).read_to_string(&mut text).expect("readable");
    assert_eq!(text, "kept\n");
    assert!(dir.join("own").exists(), "its own /tmp can be written");
    assert!(!std::path::Path::new(&own).exists(), "and is not the host's");
    sandbox.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn memory_cannot_be_filled_by_way_of_a_file_system() {
    for (place, bytes) in [("/dev/shm", 400 << 20), ("/tmp", 1_100 << 20)] {
        let program = format!(
            "import os,tempfile\nf=tempfile.NamedTemporaryFile(dir='{place}')\n\
             os.posix_fallocate(f.fileno(),0,{bytes})\nprint('escaped')"
        );
        host_succeeds_sandbox_fails(&program).await;
    }
    let device = "import tempfile\nf=tempfile.NamedTemporaryFile(dir='/dev')\nprint('escaped')";
    host_succeeds_sandbox_fails(device).await;
    for backend in ALL {
        let Some(inside) = Bench::on(backend).await else {
            continue;
        };
        let usual = inside
            .sh("echo x > /dev/null && echo x > /dev/shm/x; cat /dev/shm/x; head -c1 /dev/urandom | wc -c");
        assert_eq!(usual.await.stdout, "x\n1\n");
    }
}

#[tokio::test]
async fn number_of_processes_is_limited() {
    let program = "import os\nn=0\ntry:\n    while n<200:\n        if os.fork()==0:\n            import signal; signal.pause()\n        n+=1\nexcept OSError: pass\nprint('escaped' if n==200 else n)";
    for backend in ALL {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        assert!(bench.python(program).await.stdout.contains("escaped"));
        bench.profile.limits.pids = Some(20);
        let outcome = bench.python(program).await;
        let made: u32 = outcome.stdout.trim().parse().expect("a number");
        assert!((10..=20).contains(&made), "{backend}: {outcome:?}");
    }
}

#[tokio::test]
async fn memory_is_limited() {
    let program = "b=bytearray(300_000_000)\nprint('escaped')";
    for backend in [
        Backend::Host,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        assert!(bench.python(program).await.stdout.contains("escaped"));
        bench.profile.limits.memory = Some(100 << 20);
        assert!(!bench.python(program).await.stdout.contains("escaped"));
    }
}

#[tokio::test]
async fn what_cannot_be_enforced_is_an_error() {
    let mut bench = Bench::new(Backend::Host).await;
    bench.profile.network = lictor_trust::profiles::Network::None;
    let name = "p".parse().expect("a name");
    let exec = common::command(&["true"]);
    let resolved = bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir())
        .expect("resolved");
    let error = lictor_sandbox::Plan::without_permit(resolved, &bench.capabilities).expect_err("refused");
    assert!(error.to_string().contains("no_network"), "{error}");
    assert_eq!(error.refusal().code, lictor_proto::Code::Unenforceable);
}

/// What a plan of this profile says, when it is refused.
fn refused(bench: &Bench) -> lictor_proto::code::Refusal {
    let name = "p".parse().expect("a name");
    let exec = common::command(&["true"]);
    match bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir())
    {
        Err(refusal) => refusal,
        Ok(resolved) => lictor_sandbox::Plan::without_permit(resolved, &bench.capabilities)
            .expect_err("refused")
            .refusal(),
    }
}

/// The kernel's log, which may still want a privilege (EPERM) from whoever gets as far as its device.
#[tokio::test]
async fn a_device_is_there_when_the_profile_names_it_and_only_then() {
    const OPEN: &str = "import os\ntry: os.open('/dev/kmsg', os.O_RDONLY); print('open')\n\
                        except OSError as e: print({1: 'open', 2: 'absent', 13: 'denied'}[e.errno])";
    for (backend, without) in [
        (Backend::Bubblewrap, "absent\n"),
        (Backend::Container, "absent\n"),
        (Backend::Landlock, "denied\n"),
    ] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        assert_eq!(bench.python(OPEN).await.stdout, without, "{backend}");
        bench.profile.devices = vec!["/dev/full".to_owned(), "/dev/kmsg".to_owned()];
        assert_eq!(bench.python(OPEN).await.stdout, "open\n", "{backend}");
        assert!(bench.sh("test -c /dev/kmsg").await.succeeded(), "{backend}");
    }
}

#[tokio::test]
async fn disks_links_and_absent_devices_are_refused_before_anything_runs() {
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    for (device, why) in [
        ("/dev/fd", "no character device"),
        ("/dev/shm", "no character device"),
        ("/dev/lictor-has-none", "this host has none"),
    ] {
        bench.profile.devices = vec![device.to_owned()];
        let refusal = refused(&bench);
        assert_eq!(refusal.code, lictor_proto::Code::Unenforceable);
        assert!(refusal.message.contains(why), "{device}: {}", refusal.message);
    }
    let mut bench = Bench::new(Backend::Host).await;
    bench.profile.devices = vec!["/dev/null".to_owned()];
    assert!(
        refused(&bench).message.contains("devices"),
        "host holds nothing back"
    );
}

#[tokio::test]
async fn every_namespace_is_the_sandboxs_own() {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        let program = format!(
            "import os\nprint('escaped' if os.readlink('/proc/self/ns/{kind}')=='{}' else 'no')",
            own.display()
        );
        host_succeeds_sandbox_fails(&program).await;
    }
}

/// Runtimes make their containers' users the owners of what they are given as input and output.
#[tokio::test]
async fn a_start_changes_nothing_about_the_devices_and_the_input_that_it_uses() {
    use std::os::unix::fs::MetadataExt as _;
    let owner = |meta: std::fs::Metadata| (meta.uid(), meta.gid(), meta.mode());
    let null = || std::fs::metadata("/dev/null").expect("a device");
    let before = (owner(null()), null().ctime(), null().ctime_nsec());
    for backend in ALL {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        assert!(bench.run(&["true"]).await.succeeded());
        let input = tempfile::tempfile().expect("a file");
        let of_input = owner(input.metadata().expect("a file"));
        let copy = input.try_clone().expect("a descriptor");
        let source = lictor_sandbox::StdinSource::File(copy);
        assert!(
            bench
                .run_with(&common::command(&["cat"]), source)
                .await
                .succeeded()
        );
        assert_eq!(owner(input.metadata().expect("a file")), of_input, "{backend}");
        let after = (owner(null()), null().ctime(), null().ctime_nsec());
        assert_eq!(after, before, "{backend}");
    }
}

/// A session keyring for this test, whom jobs of `host` share it with; its number as `/proc/keys` has it.
#[allow(unsafe_code)]
fn own_keyring() -> String {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: keyctl on this thread alone; no name stands for a new keyring.
    let number = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    assert!(number > 0, "{}", std::io::Error::last_os_error());
    format!("{number:08x} ")
}

#[tokio::test]
async fn a_job_without_privileges_has_a_keyring_of_its_own() {
    let own = own_keyring();
    let keys = async |bench: Bench| bench.sh("cat /proc/keys").await.stdout;
    let Some(landlock) = Bench::on(Backend::Landlock).await else {
        return;
    };
    let of_the_host = keys(Bench::new(Backend::Host).await).await;
    assert!(of_the_host.contains(&own), "a job could see it");
    let mut other = Bench::new(Backend::Host).await;
    other.profile.run_as = lictor_trust::profiles::RunAs::User("nobody".parse().expect("a name"));
    assert!(!keys(other).await.contains(&own));
    // Where there is no user namespace either, which would hide it.
    assert!(!keys(landlock).await.contains(&own));
}

/// Cgroups below where this machine has them, whose names say that a runtime has made them for a container of ours.
fn cgroups_of_runtimes() -> Vec<std::path::PathBuf> {
    let own = format!("lictor-{}.", std::process::id());
    let mut found = Vec::new();
    let mut ahead = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let is_own = entry.file_name().to_string_lossy().starts_with(&own);
                found.extend(is_own.then(|| entry.path()));
                ahead.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test]
async fn runtimes_make_no_cgroups_of_their_own() {
    for backend in [Backend::Container, Backend::Gvisor] {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let exec = common::command(&["sleep", "60"]);
        let started = bench.start(&exec, lictor_sandbox::StdinSource::Null).await;
        let (mut sandbox, running) = started.expect("starts");
        assert_eq!(
            cgroups_of_runtimes(),
            Vec::<std::path::PathBuf>::new(),
            "{backend}"
        );
        drop(running);
        sandbox.destroy().await.expect("destroyed");
    }
}

#[tokio::test]
async fn what_is_read_only_stays_so_in_what_can_be_written() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().expect("a directory");
    let inner = place.path().join("inner");
    std::fs::create_dir(&inner).expect("made");
    // Everybody may write there, and only root may put something else in a place.
    for dir in [place.path(), &inner] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1777)).expect("mode");
    }
    let (outer, inner) = (place.path().display(), inner.display());
    for backend in [Backend::Container, Backend::Gvisor] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.profile.read_write = vec![outer.to_string()];
        bench.profile.protect = Some(Vec::new());
        let line = format!("echo x > {outer}/file; echo x > {inner}/file");
        let both = bench.sh(&line).await;
        assert!(both.succeeded(), "works otherwise: {backend}: {both:?}");
        bench.profile.read_only = vec![inner.to_string()];
        let one = bench.sh(&format!("{line}; test -w {outer}")).await;
        assert!(one.stderr.contains("Read-only"), "{backend}: {one:?}");
        assert!(one.succeeded(), "{backend}: {one:?}");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_what_a_profile_names_is_not_followed() {
    let place = tempfile::tempdir().expect("a directory");
    let link = place.path().join("link");
    std::os::unix::fs::symlink("/usr", &link).expect("made");
    for backend in ALL.into_iter().chain([Backend::Landlock]) {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.profile.read_only = vec![place.path().display().to_string()];
        assert!(bench.sh("true").await.succeeded(), "{backend}: works otherwise");
        bench.profile.read_only = vec![link.display().to_string()];
        let started = bench
            .start(&common::command(&["true"]), lictor_sandbox::StdinSource::Null)
            .await;
        let refusal = started.err().expect("refused").refusal();
        assert!(refusal.message.contains("link"), "{backend}: {}", refusal.message);
    }
}

#[tokio::test]
async fn a_kernel_of_its_own_has_no_terminal_and_says_so() {
    let Some(bench) = Bench::on(Backend::Gvisor).await else {
        return;
    };
    let plan = bench.plan(&common::command(&["true"]));
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let size = lictor_sandbox::TerminalSize {
        rows: 24,
        columns: 80,
    };
    let error = sandbox
        .exec(lictor_sandbox::Stdio::Terminal(size))
        .await
        .expect_err("refused");
    assert!(error.refusal().message.contains("terminal"), "{error}");
    sandbox.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn what_a_start_in_a_kernel_of_its_own_fails_at_is_told() {
    let Some(bench) = Bench::on(Backend::Gvisor).await else {
        return;
    };
    let mut exec = common::command(&["true"]);
    exec.cwd = Some("/no/such/directory".to_owned());
    let started = bench.start(&exec, lictor_sandbox::StdinSource::Null).await;
    let refusal = started.err().expect("refused").refusal();
    assert!(
        refusal.message.contains("working directory"),
        "{}",
        refusal.message
    );
}

#[tokio::test]
async fn host_name_is_the_sandboxs_own() {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let program = format!(
        "import socket\nprint('escaped' if socket.gethostname()=='{}' else 'no')",
        own.trim()
    );
    host_succeeds_sandbox_fails(&program).await;
    for backend in ALL {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        assert_eq!(bench.sh("uname -n").await.stdout, "sandbox\n");
    }
}

#[tokio::test]
async fn session_is_the_jobs_own_and_has_no_terminal() {
    let program = "import os\nown=os.getsid(0)==os.getpid()==os.getpgid(0)\n\
        try: os.open('/dev/tty',os.O_RDWR); own=False\nexcept OSError: pass\nprint(own)";
    for backend in [
        Backend::Host,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ] {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        assert_eq!(bench.python(program).await.stdout, "True\n");
    }
}

#[tokio::test]
async fn jobs_user_is_an_unprivileged_one_of_the_host() {
    for backend in BOXES {
        if let Some(bench) = Bench::on(backend).await {
            is_an_unprivileged_user(bench).await;
        }
    }
}

async fn is_an_unprivileged_user(bench: Bench) {
    let mark = format!("67.{}", std::process::id());
    let exec = common::command(&["/bin/sh", "-c", &format!("id -u; sleep {mark}; true")]);
    let (mut sandbox, mut running) = bench
        .start(&exec, lictor_sandbox::StdinSource::Null)
        .await
        .expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut inside = bytes::BytesMut::new();
    out.read(&mut inside, 64).await.expect("readable");
    assert_eq!(&inside[..], b"1000\n");
    let own = rustix::process::geteuid();
    let expected = if own.is_root() { 65_534 } else { own.as_raw() };
    let found = common::processes_with(&mark);
    assert!(!found.is_empty());
    for process in found {
        let pid = process.split(' ').next().expect("a pid");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let ids = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).expect(key);
            line.split_whitespace()
                .map(|n| n.parse().expect("an id"))
                .collect::<Vec<u32>>()
        };
        assert_eq!(ids("Uid:"), [expected; 4], "{process}");
        assert!(!ids("Gid:").contains(&0) || !own.is_root(), "{process}");
    }
    sandbox.destroy().await.expect("destroyed");
}
