//! Cancels, acknowledgements, leases: what a hub says about jobs that run or have run.

use lictor_test::hostile::holds;

#[test]
fn hub_cancels_without_a_signature() {
    holds("hub_cancels_without_a_signature");
}

#[test]
fn hub_signs_a_cancel_itself() {
    holds("hub_signs_a_cancel_itself");
}

#[test]
fn hub_has_somebody_cancel_who_may_not() {
    holds("hub_has_somebody_cancel_who_may_not");
}

#[test]
fn hub_sends_the_cancel_of_another_job() {
    holds("hub_sends_the_cancel_of_another_job");
}

#[test]
fn hub_lets_the_lease_lapse_while_a_job_runs() {
    holds("hub_lets_the_lease_lapse_while_a_job_runs");
}

#[test]
fn hub_acknowledges_a_result_before_there_is_one() {
    holds("hub_acknowledges_a_result_before_there_is_one");
}

#[test]
fn hub_acknowledges_another_receipt() {
    holds("hub_acknowledges_another_receipt");
}

#[test]
fn hub_calls_every_route_without_a_signature() {
    holds("hub_calls_every_route_without_a_signature");
}

#[test]
fn hub_offers_more_jobs_than_the_node_takes() {
    holds("hub_offers_more_jobs_than_the_node_takes");
}

#[test]
fn hub_sends_the_cancel_of_another_node() {
    holds("hub_sends_the_cancel_of_another_node");
}
