//! A hub that does not wait for releases that the law demands.

use lictor_test::hostile::holds;

#[test]
fn hub_begins_a_job_everywhere_at_once() {
    holds("hub_begins_a_job_everywhere_at_once");
}

#[test]
fn hub_moves_a_release_to_another_job() {
    holds("hub_moves_a_release_to_another_job");
}

#[test]
fn hub_uses_the_release_of_another_node() {
    holds("hub_uses_the_release_of_another_node");
}

#[test]
fn hub_signs_a_release_itself() {
    holds("hub_signs_a_release_itself");
}

#[test]
fn hub_has_somebody_release_who_may_not() {
    holds("hub_has_somebody_release_who_may_not");
}

#[test]
fn hub_keeps_a_release_until_it_has_expired() {
    holds("hub_keeps_a_release_until_it_has_expired");
}

#[test]
fn hub_sends_an_approval_as_a_release() {
    holds("hub_sends_an_approval_as_a_release");
}

#[test]
fn hub_begins_a_released_job_twice() {
    holds("hub_begins_a_released_job_twice");
}
