//! The attempts of `lictor_sandbox::conformance`: each gets out of a plain process, and of a backend exactly when its
//! list of leaks says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use lictor_sandbox::conformance::{self, Attempt, ELSEWHERE, Site, Verdict, attempts, judge, leaks};
use lictor_sandbox::{Config, Host};
use lictor_trust::profiles::Backend;

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
    let host = Host::start(Config::default()).expect("the host starts");
    let backend = host.backend(name).expect("built in");
    let can = backend.probe().await.expect("it works here");
    let mut verdicts = Vec::new();
    for attempt in wanted().into_iter().skip(part).step_by(parts) {
        let verdict = site.within(&host, (backend.as_ref(), &can), attempt).await;
        verdicts.push((
            attempt,
            verdict.unwrap_or_else(|e| panic!("{}: {e}", attempt.name)),
        ));
    }
    report(&verdicts, Some(name));
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
