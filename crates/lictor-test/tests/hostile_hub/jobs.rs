//! Jobs that were changed, sent to somebody else, sent twice, or signed by the wrong hand.

use lictor_test::hostile::holds;

#[test]
fn hub_changes_a_byte_of_a_job() {
    holds("hub_changes_a_byte_of_a_job");
}

#[test]
fn hub_changes_the_signature_of_a_job() {
    holds("hub_changes_the_signature_of_a_job");
}

#[test]
fn hub_sends_a_job_to_another_node() {
    holds("hub_sends_a_job_to_another_node");
}

#[test]
fn hub_sends_a_job_of_another_org() {
    holds("hub_sends_a_job_of_another_org");
}

#[test]
fn hub_replays_a_job() {
    holds("hub_replays_a_job");
}

#[test]
fn hub_signs_a_job_itself() {
    holds("hub_signs_a_job_itself");
}

#[test]
fn hub_has_a_job_signed_again_by_another_operator() {
    holds("hub_has_a_job_signed_again_by_another_operator");
}

#[test]
fn hub_adds_a_signature_to_a_job() {
    holds("hub_adds_a_signature_to_a_job");
}

#[test]
fn hub_sends_an_approval_as_a_job() {
    holds("hub_sends_an_approval_as_a_job");
}

#[test]
fn hub_wraps_a_job_in_another_type() {
    holds("hub_wraps_a_job_in_another_type");
}

#[test]
fn hub_has_a_forbidden_operator_sign() {
    holds("hub_has_a_forbidden_operator_sign");
}

#[test]
fn hub_lies_about_what_a_node_is() {
    holds("hub_lies_about_what_a_node_is");
}

#[test]
fn hub_sends_a_job_of_an_unknown_kind() {
    holds("hub_sends_a_job_of_an_unknown_kind");
}

#[test]
fn hub_sends_a_job_with_a_field_of_a_later_version() {
    holds("hub_sends_a_job_with_a_field_of_a_later_version");
}

#[test]
fn hub_asks_for_receipts_of_jobs_that_do_not_read() {
    holds("hub_asks_for_receipts_of_jobs_that_do_not_read");
}

#[test]
fn hub_begins_a_job_before_the_one_that_it_comes_after() {
    holds("hub_begins_a_job_before_the_one_that_it_comes_after");
}
