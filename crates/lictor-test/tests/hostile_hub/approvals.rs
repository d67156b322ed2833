//! Approvals that are nobody's, somebody's twice, for something else, or too late.

use lictor_test::hostile::holds;

#[test]
fn hub_passes_two_keys_of_one_person_off_as_two_people() {
    holds("hub_passes_two_keys_of_one_person_off_as_two_people");
}

#[test]
fn hub_changes_a_job_under_its_approval() {
    holds("hub_changes_a_job_under_its_approval");
}

#[test]
fn hub_lets_the_requester_approve() {
    holds("hub_lets_the_requester_approve");
}

#[test]
fn hub_passes_a_rejection_off_as_an_approval() {
    holds("hub_passes_a_rejection_off_as_an_approval");
}

#[test]
fn hub_signs_an_approval_itself() {
    holds("hub_signs_an_approval_itself");
}

#[test]
fn hub_moves_a_passkeys_approval_to_another_job() {
    holds("hub_moves_a_passkeys_approval_to_another_job");
}

#[test]
fn hub_has_a_passkey_asked_by_another_page() {
    holds("hub_has_a_passkey_asked_by_another_page");
}

#[test]
fn hub_counts_an_approval_of_somebody_who_may_not() {
    holds("hub_counts_an_approval_of_somebody_who_may_not");
}

#[test]
fn hub_counts_a_service_as_a_person() {
    holds("hub_counts_a_service_as_a_person");
}

#[test]
fn hub_keeps_an_approval_until_it_has_expired() {
    holds("hub_keeps_an_approval_until_it_has_expired");
}

#[test]
fn hub_changes_the_program_under_its_approval() {
    holds("hub_changes_the_program_under_its_approval");
}

#[test]
fn hub_approves_a_job_that_does_not_wait() {
    holds("hub_approves_a_job_that_does_not_wait");
}
