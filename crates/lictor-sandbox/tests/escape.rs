//! Ways out of a sandbox: each is first shown to work on the host, then to fail under bubblewrap.
//!
//! The host's half runs as root where the suite does, so it shows that the attempt itself is sound; a machine on
//! which an attempt cannot succeed at all fails the test instead of passing it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Read as _;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use common::Bench;
use lictor_trust::profiles::Backend;

/// Prints `escaped` when an attempt in Python succeeds on the host, and must not in the sandbox.
async fn host_succeeds_sandbox_fails(program: &str) {
    let host = Bench::new(Backend::Host).await.python(program).await;
    assert!(host.stdout.contains("escaped"), "works nowhere: {host:?}");
    let inside = Bench::new(Backend::Bubblewrap).await.python(program).await;
    assert!(!inside.stdout.contains("escaped"), "{inside:?}");
}

#[tokio::test]
async fn first_process_has_no_environment_to_read() {
    let program = "import glob\n\
        found = [f for f in glob.glob('/proc/[0-9]*/environ') for d in [open(f,'rb').read()] if b'PATH=' in d or b'HOME=' in d]\n\
        print('escaped' if found else 'nothing')";
    // Processes of the host that the sandbox must not see, and bwrap's own that it does.
    let program = program.replace("for d in [open(f,'rb').read()]", "for d in [read(f)]");
    let program = format!(
        "def read(f):\n    try: return open(f,'rb').read()\n    except OSError: return b''\n{program}"
    );
    host_succeeds_sandbox_fails(&program).await;
}

#[tokio::test]
async fn kernel_settings_cannot_be_written() {
    // Written with what is there already, so that the host's half changes nothing.
    let program =
        "p='/proc/sys/kernel/core_pattern'\nv=open(p).read()\nopen(p,'w').write(v)\nprint('escaped')";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn system_directories_cannot_be_written() {
    let program = "import os,tempfile\n\
        for d in ('/usr','/usr/bin','/etc','/'):\n\
        \x20   try:\n\
        \x20       f=tempfile.NamedTemporaryFile(dir=d); f.close(); print('escaped')\n\
        \x20   except OSError: pass";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn mounts_cannot_be_changed() {
    // MS_REMOUNT | MS_BIND in a mount namespace of its own on the host, so that nothing of it is changed.
    let program = "import ctypes,os\nc=ctypes.CDLL(None,use_errno=True)\n\
        c.unshare(0x20000)\nc.mount(None,b'/',None,0x44000,None)\n\
        c.mount(b'/usr',b'/usr',None,0x1000,None)\n\
        r=c.mount(None,b'/usr',None,0x20|0x1000,None)\nprint('escaped' if r==0 else 'no')";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn loopback_listener_of_the_host_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let program = format!(
        "import socket\ns=socket.create_connection(('127.0.0.1',{port}),timeout=5)\nprint('escaped')"
    );
    host_succeeds_sandbox_fails(&program).await;
}

#[tokio::test]
async fn abstract_socket_of_the_host_is_out_of_reach() {
    let name = format!("lictor-escape-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bound");
    let program =
        format!("import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('\\0{name}')\nprint('escaped')");
    host_succeeds_sandbox_fails(&program).await;
}

#[tokio::test]
async fn processes_of_the_host_cannot_be_signalled() {
    let pid = std::process::id();
    let program = format!("import os\nos.kill({pid},0)\nprint('escaped')");
    let host = Bench::new(Backend::Host).await.python(&program).await;
    assert!(host.stdout.contains("escaped"), "{host:?}");
    // In the sandbox the number may name one of its own processes, or nobody; never this one.
    let inside = "import os\nprint('escaped' if any('escape' in open(f'/proc/{p}/cmdline').read() and \
        'python' not in open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()) else 'no')";
    let inside = Bench::new(Backend::Bubblewrap).await.python(inside).await;
    assert_eq!(inside.stdout, "no\n", "{inside:?}");
}

#[tokio::test]
async fn terminal_input_cannot_be_faked() {
    for request in ["0x5412", "0x5412 + (1 << 32)"] {
        let program = format!(
            "import ctypes,os,pty\nm,s=pty.openpty()\nos.setsid() if os.getsid(0)!=os.getpid() else 0\n\
             import fcntl\nfcntl.ioctl(s,0x540E,0)\nc=ctypes.CDLL(None,use_errno=True)\n\
             r=c.ioctl(s,ctypes.c_ulong({request}),ctypes.c_char_p(b'x'))\nprint('escaped' if r==0 else 'no')"
        );
        host_succeeds_sandbox_fails(&program).await;
    }
}

#[tokio::test]
async fn nested_user_namespace_is_refused() {
    let program =
        "import ctypes\nc=ctypes.CDLL(None)\nprint('escaped' if c.unshare(0x10000000)==0 else 'no')";
    host_succeeds_sandbox_fails(program).await;
    let by_clone = "import ctypes,os\nc=ctypes.CDLL(None)\nr=c.syscall(56,0x10000000|17,0,0,0,0)\n\
        \nif r==0: os._exit(0)\nprint('escaped' if r>0 else 'no')";
    host_succeeds_sandbox_fails(by_clone).await;
}

#[tokio::test]
async fn keyrings_are_refused() {
    let program = "import ctypes\nc=ctypes.CDLL(None)\n\
        print('escaped' if c.syscall(250,0,-3,0,0,0)>0 else 'no')";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn privileges_cannot_be_regained() {
    let program = "import os\nos.setuid(0)\nos.setgid(0)\nprint('escaped' if os.getuid()==0 else 'no')";
    host_succeeds_sandbox_fails(program).await;
    let status = Bench::new(Backend::Bubblewrap)
        .await
        .sh("cat /proc/self/status")
        .await
        .stdout;
    for line in [
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

#[tokio::test]
async fn agents_files_are_not_there() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "secret").expect("written");
    let own = secret.path().display();
    for path in [
        "/root",
        "/etc/shadow",
        &own.to_string(),
        "/proc/self/root/etc/shadow",
    ] {
        let program = format!(
            "import os\np='{path}'\nos.listdir(p) if os.path.isdir(p) else open(p).read()\nprint('escaped')"
        );
        host_succeeds_sandbox_fails(&program).await;
    }
}

#[tokio::test]
async fn climbing_out_of_the_workspace_ends_at_the_sandboxs_own_root() {
    let program = "import os\nos.chdir('/workspace' if os.path.isdir('/workspace') else '.')\n\
        p='../'*12+'root'\nos.listdir(p)\nprint('escaped')";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn workspace_is_the_only_place_of_the_host_that_is_written() {
    let bench = Bench::new(Backend::Bubblewrap).await;
    let own = format!("/tmp/lictor-escape-{}", std::process::id());
    let script = format!("echo kept > /workspace/file; echo gone > {own} && cp {own} /workspace/own");
    let exec = common::command(&["/bin/sh", "-c", &script]);
    let plan = bench.plan(&exec);
    let dir = plan.dir().to_owned();
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let running = sandbox
        .exec(lictor_sandbox::StdinSource::Null)
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
    let inside = Bench::new(Backend::Bubblewrap).await;
    let usual =
        inside.sh("echo x > /dev/null; echo x > /dev/shm/x; cat /dev/shm/x; head -c1 /dev/urandom | wc -c");
    assert_eq!(usual.await.stdout, "x\n1\n");
}

#[tokio::test]
async fn number_of_processes_is_limited() {
    let program = "import os\nn=0\ntry:\n    while n<200:\n        if os.fork()==0:\n            import signal; signal.pause()\n        n+=1\nexcept OSError: pass\nprint('escaped' if n==200 else n)";
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    assert!(bench.python(program).await.stdout.contains("escaped"));
    bench.profile.limits.pids = Some(20);
    let outcome = bench.python(program).await;
    let made: u32 = outcome.stdout.trim().parse().expect("a number");
    assert!((10..=20).contains(&made), "{outcome:?}");
}

#[tokio::test]
async fn memory_is_limited() {
    let program = "b=bytearray(300_000_000)\nprint('escaped')";
    for backend in [Backend::Host, Backend::Bubblewrap] {
        let mut bench = Bench::new(backend).await;
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

#[tokio::test]
async fn shared_memory_of_the_host_is_out_of_reach() {
    let key = 0x4c00_0000 + std::process::id();
    let start = format!("import ctypes\nc=ctypes.CDLL(None)\nk={key}\n");
    let make = Bench::new(Backend::Host).await;
    let made = make
        .python(&format!("{start}print(c.shmget(k,4096,0o1666))"))
        .await;
    assert!(
        made.stdout.trim().parse::<i32>().is_ok_and(|id| id >= 0),
        "{made:?}"
    );
    let find = format!("{start}print('escaped' if c.shmget(k,4096,0o666)>=0 else 'no')");
    host_succeeds_sandbox_fails(&find).await;
    let removed = make
        .python(&format!("{start}print(c.shmctl(c.shmget(k,0,0),0,0))"))
        .await;
    assert_eq!(removed.stdout, "0\n");
}

#[tokio::test]
async fn host_name_is_the_sandboxs_own() {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let program = format!(
        "import socket\nprint('escaped' if socket.gethostname()=='{}' else 'no')",
        own.trim()
    );
    host_succeeds_sandbox_fails(&program).await;
    assert_eq!(
        Bench::new(Backend::Bubblewrap).await.sh("uname -n").await.stdout,
        "sandbox\n"
    );
}

#[tokio::test]
async fn devices_of_the_host_are_not_there() {
    let program = "import os\n\
        known='console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero'.split()\n\
        print('escaped' if set(os.listdir('/dev'))-set(known) else 'no')";
    host_succeeds_sandbox_fails(program).await;
}

#[tokio::test]
async fn session_is_the_jobs_own_and_has_no_terminal() {
    let program = "import os\nown=os.getsid(0)==os.getpid()==os.getpgid(0)\n\
        try: os.open('/dev/tty',os.O_RDWR); own=False\nexcept OSError: pass\nprint(own)";
    for backend in [Backend::Host, Backend::Bubblewrap] {
        assert_eq!(Bench::new(backend).await.python(program).await.stdout, "True\n");
    }
}

#[tokio::test]
async fn jobs_user_is_an_unprivileged_one_of_the_host() {
    let mark = format!("67.{}", std::process::id());
    let bench = Bench::new(Backend::Bubblewrap).await;
    let exec = common::command(&["/bin/sh", "-c", &format!("id -u; exec sleep {mark}")]);
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
