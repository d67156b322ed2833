//! Execution is exact: the cases that every backend must pass, run against each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::machine::cannot_run;
use common::{Bench, for_every_backend};
use lictor_sandbox::conformance::execution::*;
use lictor_sandbox::{Config, ContainerEngine, Host};
use lictor_trust::profiles::Backend;

for_every_backend![
    keeps_output_from_before_a_timeout,
    ends_sessions_and_double_forks_at_a_timeout,
    reports_success_at_once_when_a_background_child_holds_stdout,
    megabyte_of_stdin_reaches_cat_and_does_not_block_true,
    environment_is_exactly_what_was_declared,
    large_output_costs_no_memory,
    killed_child_reports_its_signal,
    exit_status_137_is_no_signal,
    stop_ends_the_tree,
    grace_lets_a_job_clean_up,
    destroy_leaves_nothing,
    cpu_time_is_measured,
    cpu_limit_is_told_by_its_name,
    peak_memory_is_measured,
    small_program_is_not_charged_with_the_agents_memory,
    no_descriptor_is_inherited,
    changed_program_does_not_start,
    script_runs_with_its_interpreter,
    handle_finds_the_job_again,
    suspended_job_stands_still_until_it_is_resumed,
    suspended_job_ends_at_its_time_limit_and_can_clean_up,
    suspended_job_is_killed_by_destroy,
    starts_once,
    missing_program_is_not_found,
];

/// Every backend, and every engine of containers, by its name in the list.
fn everything() -> Vec<(&'static str, Backend, Config)> {
    let of = |b: Backend| (b.as_str(), b, Config::default());
    let by = |engine: ContainerEngine| {
        let config = Config {
            container_engine: engine,
            ..Config::default()
        };
        (engine.as_str(), Backend::Container, config)
    };
    vec![
        of(Backend::Host),
        of(Backend::Landlock),
        of(Backend::Bubblewrap),
        of(Backend::Container),
        of(Backend::Gvisor),
        by(ContainerEngine::Runc),
        by(ContainerEngine::Crun),
        by(ContainerEngine::Podman),
        by(ContainerEngine::Docker),
    ]
}

#[test]
fn every_case_of_the_list_is_a_test_here() {
    common::is_a_test_of_each(EXECUTION, include_str!("conformance.rs"));
}

#[tokio::test]
async fn what_is_listed_as_not_running_here_does_not() {
    for (name, reason) in cannot_run() {
        let found = everything().into_iter().find(|(n, _, _)| *n == name);
        let (_, backend, config) = found.unwrap_or_else(|| panic!("{name} is nothing that could run"));
        assert!(reason.len() > 10, "{name}: a reason is a sentence");
        let host = Host::start(config).expect("the host starts");
        let backend = host.backend(backend).expect("built in");
        let runs = backend.probe().await.is_ok();
        assert!(!runs, "{name} runs here: take it off the list");
    }
}

#[tokio::test]
async fn a_bwrap_that_cannot_show_what_was_opened_is_found_out_before_any_job() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    // As one that is older than the option: it takes everything else.
    let old = place.path().join("bwrap");
    let script = "#!/bin/sh\ntr '\\0' '\\n' <&3 | grep -qx -e --bind-fd || exit 0\n\
                  echo 'bwrap: Unknown option --bind-fd' >&2; exit 1\n";
    std::fs::write(&old, script).expect("written");
    std::fs::set_permissions(&old, PermissionsExt::from_mode(0o755)).expect("mode");
    let config = Config {
        bwrap: old,
        ..Config::default()
    };
    let host = Host::start(config).expect("the host starts");
    let backend = host
        .backend(Backend::Bubblewrap)
        .expect("the backend is built in");
    let refused = backend.probe().await.expect_err("it is too old");
    assert!(refused.problem.contains("--bind-fd"), "{refused}");
    assert!(refused.fix.contains("0.8"), "{refused}");
}
