//! The attempts of `lictor_sandbox::conformance`: each gets out of a plain process, and of a backend exactly when its
//! list of leaks says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod common;

use common::Bench;
use common::OnThisMachine as _;
use lictor_sandbox::conformance::{
    self, Attempt, Class, ELSEWHERE, Shape, Site, Verdict, attempts, judge, leaks,
};
use lictor_sandbox::{Capabilities, Config, Host};
use lictor_trust::profiles::Backend;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Only these attempts, while working on one: a part of the name.
const ONLY: &str = "LICTOR_ATTEMPT";

fn wanted() -> Vec<&'static Attempt> {
    let only = std::env::var(ONLY).unwrap_or_default();
    attempts().filter(|a| a.name.contains(&only)).collect()
}

/// Fails with everything that differs, and shows every verdict.
fn report(verdicts: &[(&Attempt, Verdict)], backend: Option<Backend>) {
    // The machines of CI have what limits take; a laptop may not.
    let judge = match std::env::var("CI").as_deref() {
        Ok("true") => conformance::judge_where_limits_are_held,
        _ => judge,
    };
    let mut surprises = Vec::new();
    for (attempt, verdict) in verdicts {
        println!("{:<50} {verdict:?}", attempt.name);
        surprises.extend(judge(backend, attempt, verdict).err());
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

/// Attempts need rights that only root can take away again.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        common::skip("only root can show that attempts work without a sandbox");
    }
    is_root
}

/// What the tests of an agent that is not root are started with, by the one that is.
const NOT_ROOT: &str = "LICTOR_TEST_NOT_ROOT";

async fn holds_what_it_says(name: Backend) {
    holds_a_part(name, (0, 1)).await;
}

/// Every `parts`th attempt from `part` on: where each start takes long, all of them are too much for one test.
async fn holds_a_part(name: Backend, (part, parts): (usize, usize)) {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait");
    let Some(Bench {
        host,
        backend,
        capabilities: can,
        ..
    }) = Bench::on(name).await
    else {
        return;
    };
    let wanted = wanted().into_iter().skip(part).step_by(parts);
    let verdicts = within(&mut site, (&host, backend.as_ref(), &can), wanted).await;
    report(&verdicts, Some(name));
}

type Within<'a> = (&'a Host, &'a dyn lictor_sandbox::Backend, &'a Capabilities);

/// What becomes of each attempt in a sandbox.
async fn within(
    site: &mut Site,
    (host, backend, can): Within<'_>,
    attempts: impl Iterator<Item = &'static Attempt>,
) -> Vec<(&'static Attempt, Verdict)> {
    let mut verdicts = Vec::new();
    for attempt in attempts {
        let verdict = site.within(host, (backend, can), attempt).await;
        verdicts.push((
            attempt,
            verdict.unwrap_or_else(|e| panic!("{}: {e}", attempt.name)),
        ));
    }
    verdicts
}

/// What depends on how a sandbox is made, and not on its filter or its limits.
fn depends_on_the_shape(attempt: &Attempt) -> bool {
    attempt.limit.is_none() && attempt.class != Class::Kernel
}

/// Somebody else listens in these sandboxes, on a socket that was made inside by a process from outside.
#[tokio::test]
async fn bubblewrap_with_a_way_out_lets_out_what_its_list_says() {
    holds_with_a_way_out(Backend::Bubblewrap, depends_on_the_shape, (0, 1)).await;
}

/// Here as well, beside the first process of a runtime's.
#[tokio::test]
async fn container_with_a_way_out_lets_out_what_its_list_says() {
    holds_with_a_way_out(Backend::Container, |_| true, (0, 2)).await;
}

#[tokio::test]
async fn container_with_a_way_out_lets_out_what_its_list_says_in_the_other_half() {
    holds_with_a_way_out(Backend::Container, |_| true, (1, 2)).await;
}

/// In these it is their first process, which has a socket to the agent.
#[tokio::test]
async fn gvisor_with_a_way_out_lets_out_what_its_list_says() {
    let is_near = |a: &Attempt| {
        let is_of_either = matches!(a.class, Class::Processes | Class::Network);
        depends_on_the_shape(a) && (is_of_either || a.name == "inherited descriptors")
    };
    holds_with_a_way_out(Backend::Gvisor, is_near, (0, 1)).await;
}

async fn holds_with_a_way_out(name: Backend, is_meant: fn(&Attempt) -> bool, (part, parts): (usize, usize)) {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait").shaped(Shape::Egress);
    let config = Config {
        egress_proxy: Some(["--exact", "serve_as_proxy"].map(str::to_owned).to_vec()),
        ..Config::default()
    };
    let Some(bench) = Bench::on_with(name, config).await else {
        return;
    };
    let backend = (&bench.host, bench.backend.as_ref(), &bench.capabilities);
    let wanted = wanted().into_iter().filter(|a| is_meant(a));
    let wanted = wanted.skip(part).step_by(parts);
    let verdicts = within(&mut site, backend, wanted).await;
    report(&verdicts, Some(name));
}

/// Started as a process of its own by the tests above, with the control socket as its standard input.
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

/// Made before the job and its bait were there, and its workspace mounted into it afterwards.
#[tokio::test]
async fn prepared_bubblewrap_lets_out_what_its_list_says() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait").shaped(Shape::Prepared);
    let bench = Bench::new(Backend::Bubblewrap).await;
    let is_meant = |a: &&Attempt| depends_on_the_shape(a) && !a.program.contains("B['shown']");
    let attempts: Vec<_> = wanted().into_iter().filter(is_meant).collect();
    let profile = site.profile(Backend::Bubblewrap, attempts[0]).expect("a profile");
    let (wanted, receiver) = watch::channel(vec![profile]);
    let (host, work) = (bench.host.clone(), site.root().to_owned());
    let mut keeper = JoinSet::new();
    keeper.spawn(async move { host.keep_warm(&work, receiver).await });
    let mut ready = bench.host.warm_ready();
    let mut verdicts = Vec::new();
    for attempt in attempts {
        ready.wait_for(|n| *n > 0).await.expect("the host lives");
        let backend = (bench.backend.as_ref(), &bench.capabilities);
        let verdict = site.within(&bench.host, backend, attempt).await;
        assert!(
            ready.has_changed().expect("the host lives"),
            "a prepared one was taken"
        );
        verdicts.push((
            attempt,
            verdict.unwrap_or_else(|e| panic!("{}: {e}", attempt.name)),
        ));
    }
    drop(wanted);
    keeper.join_all().await;
    report(&verdicts, Some(Backend::Bubblewrap));
}

/// Started by the test below as a user who is not root: there a job's user is the agent's own, and so is the bait's.
#[tokio::test]
async fn bubblewrap_of_an_ordinary_user_lets_out_what_its_list_says() {
    if std::env::var_os(NOT_ROOT).is_none() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait");
    let bench = Bench::new(Backend::Bubblewrap).await;
    let backend = (&bench.host, bench.backend.as_ref(), &bench.capabilities);
    let wanted = wanted().into_iter().filter(|a| depends_on_the_shape(a));
    let verdicts = within(&mut site, backend, wanted).await;
    report(&verdicts, Some(Backend::Bubblewrap));
}

#[test]
fn sandboxes_of_an_agent_that_is_not_root_let_out_what_the_list_says() {
    use std::os::unix::process::CommandExt as _;
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65_534;
    let own = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::chown(own.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    // Wherever this test lies, it may be below a directory that is closed to others.
    let copy = own.path().join("escapes");
    std::fs::copy(std::env::current_exe().expect("this test"), &copy).expect("copied");
    let name = "bubblewrap_of_an_ordinary_user_lets_out_what_its_list_says";
    let said = std::process::Command::new(&copy)
        .args(["--exact", name, "--nocapture"])
        .current_dir(own.path())
        .env("TMPDIR", own.path())
        .env(NOT_ROOT, "1")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(text.matches("Held(").count() > 70, "{text}");
}

#[test]
fn every_attempt_gets_out_of_a_plain_process() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait");
    let mut verdicts = Vec::new();
    for attempt in wanted() {
        let verdict = site.without(attempt);
        verdicts.push((
            attempt,
            verdict.unwrap_or_else(|e| panic!("{}: {e}", attempt.name)),
        ));
    }
    report(&verdicts, None);
}

#[tokio::test]
async fn host_lets_out_what_its_list_says() {
    holds_what_it_says(Backend::Host).await;
}

#[tokio::test]
async fn landlock_lets_out_what_its_list_says() {
    holds_what_it_says(Backend::Landlock).await;
}

#[tokio::test]
async fn container_lets_out_what_its_list_says() {
    holds_a_part(Backend::Container, (0, 2)).await;
}

#[tokio::test]
async fn container_lets_out_what_its_list_says_in_the_other_half() {
    holds_a_part(Backend::Container, (1, 2)).await;
}

#[tokio::test]
async fn gvisor_lets_out_what_its_list_says() {
    holds_a_part(Backend::Gvisor, (0, 2)).await;
}

#[tokio::test]
async fn gvisor_lets_out_what_its_list_says_in_the_other_half() {
    holds_a_part(Backend::Gvisor, (1, 2)).await;
}

#[tokio::test]
async fn bubblewrap_lets_out_what_its_list_says() {
    holds_what_it_says(Backend::Bubblewrap).await;
}

#[test]
fn names_of_attempts_are_unique_and_lists_name_real_ones() {
    let mut names: Vec<_> = attempts().map(|a| a.name).collect();
    assert!(names.len() >= 60);
    for backend in [
        Backend::Host,
        Backend::Landlock,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ] {
        for leak in leaks(backend) {
            assert!(names.contains(&leak.attempt), "{leak:?}");
        }
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn what_is_tried_elsewhere_is_tried_by_a_test_that_exists() {
    let mut source = String::new();
    let mut ahead = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/.."
    ))];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                ahead.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                source += &std::fs::read_to_string(path).expect("a source file");
            }
        }
    }
    for other in ELSEWHERE {
        assert!(source.contains(&format!("fn {}(", other.test)), "{other:?}");
    }
}

#[test]
fn table_of_escapes_stands_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandboxes.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let (begin, end) = (conformance::begin(), conformance::end());
    let (before, rest) = text.split_once(begin).expect("the begin mark");
    let (written, behind) = rest.split_once(end).expect("the end mark");
    let table = format!("\n{}", conformance::table());
    if std::env::var_os("LICTOR_WRITE_TABLE").is_some() {
        std::fs::write(path, [before, begin, &table, end, behind].concat()).expect("written");
    } else {
        assert_eq!(written, table, "LICTOR_WRITE_TABLE=1 writes it anew");
    }
}
