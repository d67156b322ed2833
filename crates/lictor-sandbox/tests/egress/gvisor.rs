//! What is the backend's own where the job's kernel is in user space: its first process passes the bytes on.

use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Shutdown, TcpListener};

use lictor_proto::egress::Verdict;
use lictor_sandbox::StdinSource;
use lictor_trust::profiles::Backend;

use super::{Bench, bench_of, common, run, verdicts};

/// Somebody on the host who reads each connection to its end, and then answers with what it read, and closes.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            std::thread::spawn(move || {
                let mut all = Vec::new();
                let _ = connection.read_to_end(&mut all);
                let _ = connection.write_all(&all);
                let _ = connection.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

async fn bench(limits: &str) -> Option<(Bench, u16)> {
    let port = echo();
    let rules = format!(
        "mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]\n{limits}"
    );
    Some((bench_of(Backend::Gvisor, &rules).await?, port))
}

/// `tunnel()` is a connection to the echo.
fn tunnel(port: u16) -> String {
    format!(
        "import socket, os, threading\n\
         def tunnel():\n \
         s = socket.create_connection(('127.0.0.1', 3128), timeout=60)\n \
         s.sendall(b'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n')\n \
         head = b''\n \
         while not head.endswith(b'\\r\\n\\r\\n'):\n  \
         more = s.recv(1)\n  \
         if not more: return None\n  \
         head += more\n \
         return s if b' 200 ' in head else None\n\
         def all_of(s):\n \
         got = b''\n \
         while True:\n  \
         more = s.recv(65536)\n  \
         if not more: return got\n  \
         got += more\n"
    )
}

#[tokio::test]
async fn megabytes_go_both_ways_and_the_end_of_one_way_leaves_the_other() {
    let Some((bench, port)) = bench("").await else {
        return;
    };
    // The echo says nothing before it has read the end.
    let program = tunnel(port)
        + "data = os.urandom(4 << 20)\ns = tunnel()\ns.sendall(data)\ns.shutdown(socket.SHUT_WR)\nprint(all_of(s) == data)";
    let (outcome, events) = run(&bench, &program).await;
    assert_eq!(outcome.stdout, "True\n", "{outcome:?} {events:?}");
}

#[tokio::test]
async fn connections_are_many_at_once_and_one_too_many_is_the_proxys_to_refuse() {
    let Some((bench, port)) = bench("limits = { connections = 40 }").await else {
        return;
    };
    let program = tunnel(port)
        + "open = [tunnel() for _ in range(40)]\nprint(all(open), tunnel())\n\
           for n, s in enumerate(open): s.sendall(b'%d' % n); s.shutdown(socket.SHUT_WR)\n\
           print([all_of(s) == b'%d' % n for n, s in enumerate(open)] == [True] * 40)\n\
           for s in open: s.close()\n\
           again = None\n\
           while not again: again = tunnel()\n\
           again.shutdown(socket.SHUT_WR); print(all_of(again))";
    let (outcome, events) = run(&bench, &program).await;
    assert_eq!(outcome.stdout, "True None\nTrue\nb''\n", "{outcome:?}");
    let denied = verdicts(&events)
        .into_iter()
        .filter(|v| matches!(v, Verdict::Denied { .. }));
    assert!(denied.count() >= 1, "{events:?}");
}

#[tokio::test]
async fn a_way_out_that_is_left_open_costs_no_processor_time() {
    let Some((bench, port)) = bench("").await else {
        return;
    };
    // Ends that were closed in every order, and one that is open while the job waits. It waits for as long as is measured, by
    // the hundredth of a second.
    let program = tunnel(port)
        + "import time\nkept = [tunnel() for _ in range(3)]\nkept[0].shutdown(socket.SHUT_WR); all_of(kept[0])\n\
           kept[1].sendall(b'x'); tunnel().close()\n\
           def used(): return sum(int(n) for n in open('/proc/1/stat').read().rsplit(')')[1].split()[11:13])\n\
           before = used(); time.sleep(1.5); print(used() - before < 20)";
    let (outcome, _) = run(&bench, &program).await;
    assert_eq!(outcome.stdout, "True\n", "{outcome:?}");
}

#[tokio::test]
async fn the_jobs_input_and_descriptors_are_as_without_a_way_out() {
    let Some((with, _)) = bench("").await else {
        return;
    };
    let without = Bench::new(Backend::Gvisor).await;
    // But for its owner, who is nobody that the sandbox knows.
    let look = "import os, stat\ns = os.fstat(0)\nprint(stat.S_IFMT(s.st_mode), s.st_size, os.read(0, 100), os.read(0, 1))\n\
                print([fd for fd in range(1024) if os.path.exists('/proc/self/fd/%d' % fd)])";
    let exec = common::command(&["/usr/bin/python3", "-c", look]);
    let input = || {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"what is read").expect("written");
        file.rewind().expect("back");
        StdinSource::File(file)
    };
    for source in [|| StdinSource::Null, input] {
        let one = with.run_with(&exec, source()).await;
        let other = without.run_with(&exec, source()).await;
        assert!(one.succeeded(), "{one:?}");
        assert_eq!(one.stdout, other.stdout);
    }
}

#[tokio::test]
async fn a_job_cannot_come_by_what_its_first_process_asks_the_agent_through() {
    let Some((bench, _)) = bench("").await else {
        return;
    };
    // Of a process of its own each of these works; `pidfd_getfd` is a call that this kernel has not, and others do.
    let program = "import os, ctypes\n\
        C = ctypes.CDLL(None, use_errno=True)\n\
        held = os.open('/tmp/held', os.O_RDWR | os.O_CREAT)\n\
        own = os.fork()\n\
        if own == 0:\n import time; time.sleep(600)\n\
        def tries(pid):\n \
        def works(f):\n  \
        try: return f() is not False\n  \
        except OSError: return False\n \
        of = '/proc/%d/' % pid\n \
        return [works(f) for f in (lambda: os.readlink(of + 'cwd'), lambda: os.listdir(of + 'root'),\n  \
        lambda: os.open(of + 'mem', os.O_RDONLY), lambda: os.kill(pid, 0),\n  \
        lambda: any([works(lambda: os.open(of + 'fd/' + fd, os.O_RDONLY)) for fd in os.listdir(of + 'fd')]))]\n\
        print(tries(own), tries(1))\n\
        print(C.syscall(438, C.syscall(434, 1, 0), 3, 0))\n\
        for path in '/.lictor/told/report', '/.lictor/told/other':\n \
        for mode in 'r', 'w', 'a':\n  \
        try: print(open(path, mode))\n  \
        except OSError: pass\n\
        for name in 'environ', 'cmdline': print(open('/proc/1/' + name, 'rb').read().strip(b'\\0'))\n\
        os.kill(own, 9)";
    let (outcome, _) = run(&bench, program).await;
    let nothing =
        "[True, True, True, True, True] [False, False, False, False, False]\n-1\nb''\nb'/.lictor/init'\n";
    assert_eq!(outcome.stdout, nothing, "{outcome:?}");
}

#[tokio::test]
async fn without_a_way_out_there_is_nobody_at_its_port() {
    let bench = Bench::new(Backend::Gvisor).await;
    let program = "import socket\n\
                   try: socket.create_connection(('127.0.0.1', 3128), timeout=5); print('somebody')\n\
                   except OSError: print('nobody')";
    let outcome = bench.python(program).await;
    assert_eq!(outcome.stdout, "nobody\n", "{outcome:?}");
}
