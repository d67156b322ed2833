//! The only way out: what a profile lists is reached through the proxy, everything else is not, and each attempt is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;
#[path = "egress/gvisor.rs"]
mod gvisor;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;

use common::OnThisMachine as _;
use common::{Bench, Outcome, processes};
use lictor_proto::egress::{Event, Reason, Verdict};
use lictor_sandbox::{Config, StdinSource};
use lictor_trust::profiles::{Backend, Network, Profiles};

/// Started as a process of its own by the tests below, with the control socket as its standard input.
#[test]
fn serve_as_proxy() {
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("a descriptor");
    let kind = rustix::net::sockopt::socket_type(&control);
    if kind == Ok(rustix::net::SocketType::SEQPACKET) {
        lictor_sandbox::hide_memory().expect("hidden");
        // A thread of its own is kept to it, and so is every thread that it starts.
        lictor_sandbox::confine_to_network().expect("kept to it");
        lictor_egress::run(control).expect("served to the end");
    }
}

fn config() -> Config {
    Config {
        egress_proxy: Some(["--exact", "serve_as_proxy"].map(str::to_owned).to_vec()),
        ..Config::default()
    }
}

/// Somebody on the host who answers each connection with `hello`.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let mut head = [0; 4096];
            let _ = connection.read(&mut head);
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    port
}

const WITH_A_WAY_OUT: [Backend; 3] = [Backend::Bubblewrap, Backend::Container, Backend::Gvisor];

async fn bench(rules: &str) -> Bench {
    bench_of(Backend::Bubblewrap, rules).await.expect("it runs here")
}

async fn bench_of(backend: Backend, rules: &str) -> Option<Bench> {
    bench_by(backend, rules, config()).await
}

async fn bench_by(backend: Backend, rules: &str, config: Config) -> Option<Bench> {
    let text = format!(
        "[profiles.p]\nbackend = \"{backend}\"\nnetwork = \"egress\"\n[profiles.p.egress]\n{rules}\n"
    );
    let mut profiles: Profiles = toml::from_str(&text).expect("profiles");
    profiles.settle().expect("profiles that fit");
    let mut bench = Bench::on_with(backend, config).await?;
    bench.profile = profiles.profiles.into_values().next().expect("one");
    assert_eq!(bench.profile.network, Network::Egress);
    Some(bench)
}

/// Gets a page by the variables that the sandbox sets; prints what came, or the proxy's word for why nothing did.
fn get(url: &str) -> String {
    format!(
        "import urllib.request as r\n\
         try: print(r.urlopen('{url}', timeout=20).read().decode())\n\
         except r.HTTPError as e: print(e.code, e.headers['lictor-egress'])\n\
         except Exception as e: print('failed', e)"
    )
}

async fn run(bench: &Bench, program: &str) -> (Outcome, Vec<Event>) {
    let exec = common::command(&["/usr/bin/python3", "-c", program]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut events = running.take_egress().expect("a way out");
    let mut heard = Vec::new();
    // Meanwhile: who has as many records as may wait, waits.
    let hear = async { while events.next(&mut heard, 64).await > 0 {} };
    let whole = async {
        let outcome = common::outcome(running).await;
        sandbox.destroy().await.expect("destroyed");
        outcome
    };
    let (outcome, ()) = tokio::join!(whole, hear);
    (outcome, heard)
}

fn verdicts(events: &[Event]) -> Vec<&Verdict> {
    let decisions = events.iter().filter_map(|e| match e {
        Event::Decision(d) => Some(&d.verdict),
        _ => None,
    });
    decisions.collect()
}

#[tokio::test]
async fn what_is_listed_is_reached_through_the_proxy_and_told() {
    let port = upstream();
    let rules = format!(
        "mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]"
    );
    for backend in WITH_A_WAY_OUT {
        if let Some(bench) = bench_of(backend, &rules).await {
            reaches_what_is_listed(&bench, port).await;
        }
    }
}

#[tokio::test]
async fn what_is_listed_is_reached_from_a_container_of_docker() {
    let Some(docker) = common::docker::Docker::start() else {
        return;
    };
    let port = upstream();
    let rules = format!(
        "mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]"
    );
    let by_docker = Config {
        egress_proxy: config().egress_proxy,
        ..docker.config()
    };
    let bench = bench_by(Backend::Container, &rules, by_docker).await;
    reaches_what_is_listed(&bench.expect("it runs here"), port).await;
}

async fn reaches_what_is_listed(bench: &Bench, port: u16) {
    // The sandbox's own loopback is left alone by its variables, so another spelling of the proxy is used.
    let program = format!(
        "import http.client as h\nc=h.HTTPConnection('127.0.0.1',3128,timeout=20)\n\
         c.request('GET','http://127.0.0.1:{port}/')\nprint(c.getresponse().read().decode())"
    );
    let (outcome, events) = run(bench, &program).await;
    assert_eq!(outcome.stdout, "hello\n", "{outcome:?} {events:?}");
    assert!(
        matches!(verdicts(&events)[..], [Verdict::Allowed { .. }]),
        "{events:?}"
    );
    assert!(matches!(events.last(), Some(Event::Closed { totals, .. }) if totals.allowed == 1));
}

#[tokio::test]
async fn what_is_not_listed_is_refused_with_a_word_and_told() {
    let port = upstream();
    let direct = format!(
        "import socket\n\
         try: socket.create_connection(('127.0.0.1',{port}),timeout=5); print('escaped')\n\
         except OSError: print('nobody')"
    );
    for backend in WITH_A_WAY_OUT {
        if let Some(bench) = bench_of(
            backend,
            "mode = \"allowlist\"\nallow = [\"repo.example.com:443\"]",
        )
        .await
        {
            refuses_what_is_not_listed(&bench, &direct).await;
        }
    }
}

async fn refuses_what_is_not_listed(bench: &Bench, direct: &str) {
    let (outcome, events) = run(bench, direct).await;
    assert_eq!(
        outcome.stdout, "nobody\n",
        "past the proxy there is nothing: {outcome:?}"
    );
    assert!(verdicts(&events).is_empty(), "{events:?}");
    let (outcome, events) = run(bench, &get("http://elsewhere.example.com/")).await;
    assert_eq!(outcome.stdout, "403 not_listed\n", "{outcome:?}");
    let denied = verdicts(&events);
    assert!(
        matches!(
            denied[..],
            [Verdict::Denied {
                reason: Reason::NotListed,
                ..
            }]
        ),
        "{events:?}"
    );
}

#[tokio::test]
async fn jobs_share_one_proxy_and_not_their_rules() {
    let port = upstream();
    let ask = format!(
        "import http.client as h\nc=h.HTTPConnection('127.0.0.1',3128,timeout=20)\n\
         c.request('GET','http://127.0.0.1:{port}/')\nprint(c.getresponse().status)"
    );
    let open = format!(
        "mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]"
    );
    let mut bench = bench(&open).await;
    let (first, _) = run(&bench, &ask).await;
    assert_eq!(first.stdout, "200\n", "{first:?}");
    let mut other: Profiles = toml::from_str(
        "[profiles.p]\nbackend = \"bubblewrap\"\nnetwork = \"egress\"\n\
         egress = { mode = \"allowlist\", allow = [\"repo.example.com:443\"] }\n",
    )
    .expect("profiles");
    other.settle().expect("profiles that fit");
    bench.profile = other.profiles.into_values().next().expect("one");
    let (second, _) = run(&bench, &ask).await;
    assert_eq!(second.stdout, "403\n", "{second:?}");
}

#[tokio::test]
async fn without_a_proxy_such_a_profile_cannot_be_held() {
    let mut bench = bench("mode = \"open\"").await;
    let other = Bench::new(Backend::Bubblewrap).await;
    bench.capabilities = other.capabilities;
    let resolved = bench
        .host
        .resolve(
            &"p".parse().expect("a name"),
            bench.profile(),
            &common::command(&["true"]),
            &bench.job_dir(),
        )
        .expect("resolved");
    let error = lictor_sandbox::Plan::without_permit(resolved, &bench.capabilities).expect_err("no proxy");
    assert!(error.to_string().contains("egress_proxy"), "{error}");
}

fn signal_proxy(signal: rustix::process::Signal) {
    let own = std::process::id();
    let all = processes();
    let keepers: Vec<u32> = all.iter().filter(|p| p.3 == own).map(|p| p.0).collect();
    let proxies = all.iter().filter(|p| keepers.contains(&p.3) && p.2 != "Z");
    let proxy = proxies
        .filter(|p| {
            std::fs::read(format!("/proc/{}/cmdline", p.0)).is_ok_and(|c| c.ends_with(b"serve_as_proxy\0"))
        })
        .map(|p| p.0)
        .next()
        .expect("a proxy");
    let pid = rustix::process::Pid::from_raw(proxy.try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

#[tokio::test]
async fn a_proxy_that_was_killed_is_replaced_and_one_that_hangs_fails_one_start_only() {
    let mut bench = bench("mode = \"allowlist\"\nallow = [\"repo.example.com:443\"]").await;
    let config = Config {
        start_bound: std::time::Duration::from_secs(2),
        ..config()
    };
    let other = Bench::with(Backend::Bubblewrap, config).await;
    bench = Bench {
        profile: bench.profile,
        ..other
    };
    let ask = get("http://elsewhere.example.com/");
    assert_eq!(run(&bench, &ask).await.0.stdout, "403 not_listed\n");
    signal_proxy(rustix::process::Signal::KILL);
    // It may not have been heard to end yet: then this start fails, and the next does not.
    let exec = common::command(&["true"]);
    let started = bench.start(&exec, StdinSource::Null).await;
    if let Ok((mut sandbox, running)) = started {
        running.wait().await;
        sandbox.destroy().await.expect("destroyed");
    }
    assert_eq!(run(&bench, &ask).await.0.stdout, "403 not_listed\n");

    signal_proxy(rustix::process::Signal::STOP);
    let error = bench
        .start(&exec, StdinSource::Null)
        .await
        .map(|_| ())
        .expect_err("nobody answers");
    assert!(error.to_string().contains("egress proxy"), "{error}");
    let again = bench.start(&exec, StdinSource::Null).await;
    if let Ok((mut sandbox, running)) = again {
        running.wait().await;
        sandbox.destroy().await.expect("destroyed");
    }
    assert_eq!(run(&bench, &ask).await.0.stdout, "403 not_listed\n");
}

/// Makes so many attempts to reach what is not listed, one after the other.
fn flood(attempts: u32) -> String {
    format!(
        "import socket\nfor n in range({attempts}):\n s=socket.create_connection(('127.0.0.1',3128))\n \
         s.sendall(b'GET http://elsewhere.example.com/ HTTP/1.1\\r\\nHost: elsewhere.example.com\\r\\n\\r\\n')\n \
         s.recv(4096)\n s.close()\nprint('done')"
    )
}

#[tokio::test]
async fn a_job_that_floods_the_proxy_waits_for_its_own_records_and_others_do_not() {
    let port = upstream();
    let rules = format!(
        "mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]"
    );
    for backend in WITH_A_WAY_OUT {
        if let Some(bench) = bench_of(backend, &rules).await {
            waits_for_its_own_records(&bench, port).await;
        }
    }
}

async fn waits_for_its_own_records(bench: &Bench, port: u16) {
    let exec = common::command(&["/usr/bin/python3", "-c", &flood(500)]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut events = running.take_egress().expect("a way out");
    let mut heard = Vec::new();
    // It is under way, and nobody takes its records.
    assert!(events.next(&mut heard, 1).await > 0);
    let program = format!(
        "import http.client as h\nc=h.HTTPConnection('127.0.0.1',3128,timeout=20)\n\
         c.request('GET','http://127.0.0.1:{port}/')\nprint(c.getresponse().read().decode())"
    );
    let (outcome, _) = run(bench, &program).await;
    assert_eq!(outcome.stdout, "hello\n", "{outcome:?}");
    // Then they are, and every one is there.
    let flooded = async { while events.next(&mut heard, 64).await > 0 {} };
    let whole = async {
        let outcome = common::outcome(running).await;
        sandbox.destroy().await.expect("destroyed");
        outcome
    };
    let (outcome, ()) = tokio::join!(whole, flooded);
    assert_eq!(outcome.stdout, "done\n", "{outcome:?}");
    assert_eq!(verdicts(&heard).len(), 500);
}

/// Started as a process of its own by the test below: tries what a proxy that was taken over would.
#[test]
fn try_what_a_proxy_has_no_business_with() {
    let Ok(place) = std::env::var("LICTOR_TEST_CONFINED") else {
        return;
    };
    let own = std::path::Path::new(&place);
    let attempts = || {
        [
            ("read", std::fs::read(own.join("secret")).is_ok()),
            ("write", std::fs::write(own.join("new"), "x").is_ok()),
            ("run", std::process::Command::new("/bin/true").status().is_ok()),
            ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
        ]
    };
    for (what, worked) in attempts() {
        assert!(worked, "{what} works before");
    }
    lictor_sandbox::confine_to_network().expect("kept to it");
    for (what, worked) in attempts() {
        assert!(!worked, "{what} works still");
    }
    assert!(std::fs::read("/etc/hosts").is_ok(), "what names are looked up by");
    let port = std::env::var("LICTOR_TEST_PORT").expect("a port");
    let port = port.parse().expect("a number");
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("connections are its work");
}

#[test]
fn a_proxy_that_was_taken_over_has_no_files_no_programs_and_no_ports_of_its_own() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("secret"), "x").expect("written");
    let done = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "try_what_a_proxy_has_no_business_with", "--nocapture"])
        .env("LICTOR_TEST_CONFINED", place.path())
        .env("LICTOR_TEST_PORT", upstream().to_string())
        .output()
        .expect("runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// A program of the kernel's for `bwrap --seccomp`: every call but `landlock_create_ruleset`, which is not there.
fn without_landlock() -> Vec<u8> {
    let statements: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 444),
        (0x06, 0, 0, 0x0005_0000 | 38),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    let bytes = statements.iter().flat_map(|(code, yes, no, value)| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([*yes, *no]);
        bytes.extend(value.to_ne_bytes());
        bytes
    });
    bytes.collect()
}

#[tokio::test]
async fn where_the_kernel_has_no_landlock_there_is_no_way_out() {
    const INSIDE: &str = "LICTOR_TEST_NO_LANDLOCK";
    let found = async || {
        let host = lictor_sandbox::Host::start(config()).expect("the host starts");
        let backend = host.backend(Backend::Bubblewrap).expect("it is built in");
        let capabilities = backend.probe().await.expect("it works");
        let checks = host.checks().await;
        let check = checks
            .into_iter()
            .find(|c| c.what == "egress proxy")
            .expect("it is looked at");
        (
            capabilities.has(lictor_sandbox::Capability::EgressProxy),
            check.found,
        )
    };
    if std::env::var_os(INSIDE).is_some() {
        let (has, says) = found().await;
        let why = says.expect_err("it is said");
        assert!(!has && why.fix.contains("landlock"), "{why}");
        return;
    }
    let (has, says) = found().await;
    assert!(
        has && says.is_ok_and(|s| s.contains("Landlock")),
        "it is there with it"
    );
    let place = tempfile::tempdir().expect("a directory");
    let filter = place.path().join("filter");
    std::fs::write(&filter, without_landlock()).expect("written");
    let line = "exec bwrap --dev-bind / / --seccomp 9 -- \"$@\" 9< \"$0\"";
    let done = std::process::Command::new("sh")
        .args(["-c", line])
        .arg(&filter)
        .arg(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "where_the_kernel_has_no_landlock_there_is_no_way_out",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
