//! What the probes say is what the documentation says of this machine, and nothing of it is claimed without a look or a
//! proof.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::path::Path;

use common::OnThisMachine as _;
use common::docker::Docker;
use common::somebody::{as_somebody_who_writes, own_place, written_to};
use common::{Bench, skip, with_own_mounts};
use lictor_sandbox::conformance::{Column, PROVEN, table_of_capabilities};
use lictor_sandbox::{Capabilities, Capability, Config, ContainerEngine, ProbeError};
use lictor_trust::profiles::Backend;

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/sandboxes/capabilities.md"
);
/// The lines around what is generated, of whose agent it is.
const MARKS: [(&str, &str); 2] = [
    (
        "<!-- generated from the probes of a root agent -->",
        "<!-- end of a root agent -->",
    ),
    (
        "<!-- generated from the probes of another agent -->",
        "<!-- end of another agent -->",
    ),
];

/// Started as a process of its own by the probes below, with the control socket as its standard input.
#[test]
fn serve_as_proxy() {
    use std::os::fd::AsFd as _;
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("a descriptor");
    if rustix::net::sockopt::socket_type(&control) == Ok(rustix::net::SocketType::SEQPACKET) {
        lictor_sandbox::hide_memory().expect("hidden");
        lictor_sandbox::confine_to_network().expect("kept to it");
        lictor_egress::run(control).expect("served to the end");
    }
}

fn config(engine: ContainerEngine) -> Config {
    Config {
        egress_proxy: Some(["--exact", "serve_as_proxy"].map(str::to_owned).to_vec()),
        container_engine: engine,
        ..Config::default()
    }
}

/// `None` where this machine cannot run it all, with the reason.
async fn columns(
    of: &[(Backend, ContainerEngine)],
    place: Option<&Path>,
    docker: Option<&Docker>,
) -> Option<Vec<Column>> {
    let mut columns = Vec::new();
    for (backend, engine) in of {
        let mut config = config(*engine);
        if let Some(place) = place {
            config.runtime_dir = place.to_owned();
        }
        if let (ContainerEngine::Docker, Some(docker)) = (engine, docker) {
            config = Config {
                egress_proxy: config.egress_proxy,
                ..docker.config()
            };
        }
        let bench = Bench::on_with(*backend, config).await?;
        let name = match bench.capabilities.engine() {
            Some(engine) => format!("`{backend}` by {engine}"),
            None => format!("`{backend}`"),
        };
        columns.push(Column {
            name,
            backend: *backend,
            found: bench.capabilities,
        });
    }
    Some(columns)
}

/// Of a root agent.
const ALL: [(Backend, ContainerEngine); 8] = [
    (Backend::Host, ContainerEngine::Auto),
    (Backend::Landlock, ContainerEngine::Auto),
    (Backend::Bubblewrap, ContainerEngine::Auto),
    (Backend::Container, ContainerEngine::Runc),
    (Backend::Container, ContainerEngine::Crun),
    (Backend::Container, ContainerEngine::Podman),
    (Backend::Container, ContainerEngine::Docker),
    (Backend::Gvisor, ContainerEngine::Auto),
];
/// Of one that is not root, where they work for it at all.
const FOR_EVERYBODY: [(Backend, ContainerEngine); 3] = [
    (Backend::Host, ContainerEngine::Auto),
    (Backend::Bubblewrap, ContainerEngine::Auto),
    (Backend::Container, ContainerEngine::Podman),
];

/// What the table depends on besides the backends' own programs.
async fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let version: Vec<&str> = release.trim().split('.').take(2).collect();
    let host = lictor_sandbox::Host::start(Config::default()).expect("the host starts");
    let checks = host.checks().await;
    let says = |what: &str| {
        let check = checks.iter().find(|c| c.what == what).expect("a check");
        match &check.found {
            Ok(says) => says.clone(),
            Err(lack) => lack.problem.clone(),
        }
    };
    let (landlock, controllers) = (says("landlock"), says("cgroup controllers"));
    format!(
        "Of a machine with Linux {}, Landlock {landlock}; cgroup controllers {controllers}.",
        version.join(".")
    )
}

/// Compares one part of the page, or writes it. On a machine that is another one, other things can be held.
fn compare((begin, end): (&str, &str), machine: &str, table: &str) {
    let text = std::fs::read_to_string(PAGE).expect("the page");
    let (before, rest) = text.split_once(begin).expect("the begin mark");
    let (written, behind) = rest.split_once(end).expect("the end mark");
    let part = format!("\n{machine}\n\n{table}");
    if std::env::var_os("LICTOR_WRITE_TABLE").is_some() {
        std::fs::write(PAGE, [before, begin, &part, end, behind].concat()).expect("written");
    } else if written.lines().nth(1) == Some(machine) {
        let differs = |(a, b): &(&str, &str)| a != b;
        let other = written.lines().zip(part.lines()).find(differs);
        assert!(written == part, "LICTOR_WRITE_TABLE=1 writes it anew: {other:?}");
    } else {
        let why = format!("the table is of another machine than this one: {machine}");
        // Not a test that could not run: here it has nothing to say.
        std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {why}\n").as_bytes())
            .expect("said");
    }
}

/// Everything held was seen at work or is proven by a test, and of everything else it is said why and what to do.
fn nothing_is_only_claimed(columns: &[Column]) {
    for Column { name, backend, found } in columns {
        for capability in Capability::ALL {
            let is_proven = PROVEN.iter().any(|(c, _)| *c == capability);
            if found.has(capability) {
                let known = found.was_tried(capability) || is_proven;
                assert!(known, "{name}: {capability} is only claimed");
                continue;
            }
            let why = found.why_not(capability).unwrap_or_default();
            assert!(why.len() > 10, "{name}: {capability} is missing without a reason");
            assert!(capability.fix(*backend).len() > 20, "{name}: {capability}");
        }
    }
}

#[tokio::test]
async fn table_of_capabilities_is_what_the_probes_of_a_root_agent_say() {
    if !rustix::process::geteuid().is_root() {
        return skip("the table is about a root agent");
    }
    let Some(docker) = Docker::start() else { return };
    if let Some(columns) = columns(&ALL, None, Some(&docker)).await {
        nothing_is_only_claimed(&columns);
        compare(MARKS[0], &machine().await, &table_of_capabilities(&columns));
    }
}

#[test]
fn table_of_capabilities_is_what_the_probes_of_an_agent_that_is_not_root_say() {
    let test = "table_of_capabilities_is_what_the_probes_of_an_agent_that_is_not_root_say";
    let page = tempfile::NamedTempFile::new().expect("a file");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(page.path(), open).expect("a mode");
    if as_somebody_who_writes(test, Some(page.path())) {
        let found = alone(columns(&FOR_EVERYBODY, Some(&own_place()), None));
        let found = found.expect("all of them work for everybody");
        nothing_is_only_claimed(&found);
        let said = format!("{}\n\n{}", alone(machine()), table_of_capabilities(&found));
        std::fs::write(written_to().expect("a file"), said).expect("written");
        return;
    }
    let said = std::fs::read_to_string(page.path()).expect("what it has written");
    if let Some((machine, table)) = said.split_once("\n\n") {
        compare(MARKS[1], machine, table);
    }
}

fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(what)
}

/// More than is read of what a job says: each line of the list has the mount's whole path.
#[test]
fn a_host_with_many_mounts_is_probed_all_the_same() {
    const TEST: &str = "a_host_with_many_mounts_is_probed_all_the_same";
    if !rustix::process::geteuid().is_root() {
        return skip("only root makes so many");
    }
    if !with_own_mounts(TEST) {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    for n in 0..500 {
        let at = place.path().join(format!("{n:0>240}/{n:0>240}/{n:0>240}"));
        std::fs::create_dir_all(&at).expect("a directory");
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &at, "tmpfs", none, None).expect("mounted");
    }
    let mounts = std::fs::read_to_string("/proc/mounts").expect("a list");
    assert!(mounts.len() > 300_000, "{}", mounts.len());
    for backend in [Backend::Host, Backend::Landlock] {
        let (found, _) = probe(backend, Config::default());
        let found = found.expect("it works");
        assert!(found.was_tried(Capability::NewSession), "{backend}");
    }
}

#[test]
fn a_look_that_hangs_is_ended_and_keeps_nobody_waiting() {
    const TEST: &str = "a_look_that_hangs_is_ended_and_keeps_nobody_waiting";
    if !rustix::process::geteuid().is_root() {
        return skip("only root puts something in a program's place");
    }
    if !with_own_mounts(TEST) {
        return;
    }
    let config = || Config {
        start_bound: std::time::Duration::from_secs(2),
        ..Config::default()
    };
    assert!(
        probe(Backend::Host, config()).0.is_ok(),
        "as long as nothing hangs"
    );
    let place = tempfile::tempdir().expect("a directory");
    let hangs = place.path().join("hangs");
    std::fs::write(&hangs, "#!/bin/sh\nexec sleep 600\n").expect("written");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hangs, open).expect("a mode");
    rustix::mount::mount_bind(&hangs, "/usr/bin/readlink").expect("mounted");
    let (found, took) = probe(Backend::Host, config());
    assert!(found.is_err(), "{found:?}");
    assert!(took < std::time::Duration::from_secs(60), "{took:?}");
}

/// A neighbour can be first to take the name of a directory below `/tmp`.
#[test]
fn only_containers_need_the_runtime_directory() {
    let place = tempfile::tempdir().expect("a directory");
    let taken = place.path().join("taken");
    std::fs::write(&taken, "").expect("written");
    let config = || Config {
        runtime_dir: taken.clone(),
        ..Config::default()
    };
    let mut all = vec![Backend::Host, Backend::Bubblewrap];
    all.extend(rustix::process::geteuid().is_root().then_some(Backend::Landlock));
    for backend in all {
        let found = probe(backend, config()).0;
        let found = found.unwrap_or_else(|e| panic!("{backend}: {e}"));
        assert!(found.was_tried(Capability::NewSession), "{backend}");
    }
    assert!(probe(Backend::Container, config()).0.is_err());
}

/// Else what `landlock` is seen to hold back would be held back by ordinary modes.
#[test]
fn what_a_look_cannot_read_in_a_sandbox_it_can_read_without_one() {
    if !rustix::process::geteuid().is_root() {
        return skip("it takes a job of another user");
    }
    let closed = tempfile::tempdir().expect("a directory");
    let config = || Config {
        runtime_dir: closed.path().join("run"),
        ..Config::default()
    };
    let host = probe(Backend::Host, config()).0.expect("it works");
    assert!(
        host.was_tried(Capability::RunAsUser),
        "{:?}",
        host.why_not(Capability::RunAsUser)
    );
    let landlock = probe(Backend::Landlock, config()).0.expect("it works");
    assert!(landlock.was_tried(Capability::Landlock));
}

/// What a job has of the kernel's is called after it.
#[test]
fn looks_at_the_same_time_do_not_stand_in_each_others_way() {
    let one = || probe(Backend::Host, Config::default()).0;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        for look in all {
            let found = look.join().expect("no panic").expect("it works");
            assert!(found.was_tried(Capability::NewSession));
        }
    });
}

fn probe(backend: Backend, config: Config) -> (Result<Capabilities, ProbeError>, std::time::Duration) {
    let started = std::time::Instant::now();
    let found = alone(async {
        let host = lictor_sandbox::Host::start(config).expect("the host starts");
        host.backend(backend).expect("built in").probe().await
    });
    (found, started.elapsed())
}

#[test]
fn what_is_said_to_be_proven_is_proven_by_a_test_that_exists() {
    let mut source = String::new();
    for dir in ["tests", "tests/common", "tests/kept", "src/conformance"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "rs") {
                source += &std::fs::read_to_string(path).expect("a source file");
            }
        }
    }
    for (capability, test) in PROVEN {
        assert!(source.contains(&format!("fn {test}(")), "{capability}: {test}");
    }
}
