//! The stricter system call filter that a profile may ask for, in every backend that has one. Each call is first shown to
//! work where it is not asked for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::OnThisMachine as _;
use common::{Bench, Outcome};
use lictor_sandbox::can_hold;
use lictor_trust::profiles::{Backend, Seccomp};

/// What the strict filter answers, and nothing else does.
const REFUSED: &str = "[Errno 1]";

/// A call by its number, with the kernel's answer.
macro_rules! call {
    ($words:literal) => {
        concat!(
            "import ctypes\nC = ctypes.CDLL(None, use_errno=True)\nif C.",
            $words,
            " < 0: raise OSError(ctypes.get_errno(), 'refused')"
        )
    };
}

/// What is left without it: sockets, and objects with names or keys.
const ATTEMPTS: [&str; 6] = [
    "import socket; socket.socket(socket.AF_UNIX)",
    "import socket; socket.socket(socket.AF_INET)",
    "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    call!("shmget(0, 4096, 0o1600)"),
    call!("semget(0, 1, 0o1600)"),
    call!("sched_setscheduler(0, 0, ctypes.byref(ctypes.c_int(0)))"),
];
/// Whether this works otherwise is up to the file system below.
const ATTRIBUTE: &str = "import os; os.setxattr('/workspace', 'user.mine', b'x')";
const PAIR: &str = "import socket; socket.socketpair()";

fn refused(outcome: &Outcome) -> bool {
    !outcome.succeeded() && outcome.stderr.contains(REFUSED)
}

/// Asks for it, and gets it or a refusal.
async fn strict(backend: Backend) -> Option<Bench> {
    let mut bench = Bench::on(backend).await?;
    bench.profile.seccomp = Seccomp::Strict;
    let plan = bench.plan(&common::command(&["true"]));
    let promised = &plan.applied().capabilities;
    assert!(promised.contains(&"strict_seccomp".to_owned()), "{promised:?}");
    Some(bench)
}

async fn all_are_refused(bench: &Bench) {
    for attempt in ATTEMPTS {
        let outcome = bench.python(attempt).await;
        assert!(refused(&outcome), "{attempt}: {outcome:?}");
    }
    assert!(
        bench.python(PAIR).await.succeeded(),
        "a pair of one's own is left"
    );
}

async fn takes_away_what_works_otherwise(backend: Backend) {
    let Some(bench) = Bench::on(backend).await else {
        return;
    };
    for attempt in ATTEMPTS {
        let outcome = bench.python(attempt).await;
        assert!(outcome.succeeded(), "works otherwise: {attempt}: {outcome:?}");
    }
    let Some(bench) = strict(backend).await else {
        return;
    };
    all_are_refused(&bench).await;
    assert!(!bench.python(ATTRIBUTE).await.succeeded());
}

#[tokio::test]
async fn strict_seccomp_leaves_no_sockets_and_no_ipc_objects() {
    for backend in [Backend::Bubblewrap, Backend::Container] {
        takes_away_what_works_otherwise(backend).await;
    }
}

/// The filter is of the sandbox's own kernel there, and the first process sets it.
#[tokio::test]
async fn strict_seccomp_is_held_by_a_kernel_in_user_space() {
    takes_away_what_works_otherwise(Backend::Gvisor).await;
}

/// Nothing else keeps a job in there, so it has no other filter; without any each of these works.
#[tokio::test]
async fn strict_seccomp_is_what_landlock_always_has() {
    let host = Bench::new(Backend::Host).await;
    for attempt in ATTEMPTS {
        let outcome = host.python(attempt).await;
        assert!(
            outcome.succeeded(),
            "works without a filter: {attempt}: {outcome:?}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        return common::skip("landlock takes a root agent");
    }
    if let Some(bench) = Bench::on(Backend::Landlock).await {
        all_are_refused(&bench).await;
    }
    if let Some(bench) = strict(Backend::Landlock).await {
        all_are_refused(&bench).await;
    }
}

#[tokio::test]
async fn strict_seccomp_is_refused_where_there_is_no_filter() {
    let mut bench = Bench::new(Backend::Host).await;
    assert_eq!(
        can_hold(&bench.profile, Backend::Host, &bench.capabilities),
        Ok(())
    );
    bench.profile.seccomp = Seccomp::Strict;
    let refused = can_hold(&bench.profile, Backend::Host, &bench.capabilities);
    let refused = refused.expect_err("host has no filter").to_string();
    assert!(refused.contains("strict_seccomp"), "{refused}");
}
