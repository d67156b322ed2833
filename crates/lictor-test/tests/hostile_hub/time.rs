//! Jobs at the wrong time, and clocks that are wrong.

use lictor_test::hostile::holds;

#[test]
fn hub_replays_a_job_after_the_node_forgot_it() {
    holds("hub_replays_a_job_after_the_node_forgot_it");
}

#[test]
fn hub_sets_the_clock_of_a_node_back() {
    holds("hub_sets_the_clock_of_a_node_back");
}

#[test]
fn hub_sends_a_job_of_the_future() {
    holds("hub_sends_a_job_of_the_future");
}

#[test]
fn hub_holds_a_job_back_until_it_has_expired() {
    holds("hub_holds_a_job_back_until_it_has_expired");
}

#[test]
fn hub_sends_a_job_that_is_valid_for_too_long() {
    holds("hub_sends_a_job_that_is_valid_for_too_long");
}

#[test]
fn hub_withholds_new_law_until_the_old_one_has_expired() {
    holds("hub_withholds_new_law_until_the_old_one_has_expired");
}
