//! Execution is exact: the ten cases that every backend must pass, run against each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/cases.rs"]
mod cases;
mod common;

use cases::*;
use common::{Bench, for_every_backend, for_gvisor};
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

for_gvisor![
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
