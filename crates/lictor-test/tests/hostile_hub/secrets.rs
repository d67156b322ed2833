//! Secrets that are not those that a job was signed for.

use lictor_test::hostile::holds;

#[test]
fn hub_leaves_a_secret_out() {
    holds("hub_leaves_a_secret_out");
}

#[test]
fn hub_swaps_two_secrets() {
    holds("hub_swaps_two_secrets");
}

#[test]
fn hub_brings_an_older_version_of_a_secret() {
    holds("hub_brings_an_older_version_of_a_secret");
}

#[test]
fn hub_changes_a_byte_of_a_secret() {
    holds("hub_changes_a_byte_of_a_secret");
}

#[test]
fn hub_brings_a_secret_of_another_org() {
    holds("hub_brings_a_secret_of_another_org");
}

#[test]
fn hub_spoils_the_signature_of_a_secret() {
    holds("hub_spoils_the_signature_of_a_secret");
}

#[test]
fn hub_signs_a_secret_itself() {
    holds("hub_signs_a_secret_itself");
}

#[test]
fn hub_gives_a_sealed_value_another_name() {
    holds("hub_gives_a_sealed_value_another_name");
}

#[test]
fn hub_gives_a_sealed_value_another_version() {
    holds("hub_gives_a_sealed_value_another_version");
}

#[test]
fn operator_wraps_the_sealed_value_of_another() {
    holds("operator_wraps_the_sealed_value_of_another");
}

#[test]
fn hub_puts_another_value_beside_a_sealed_key() {
    holds("hub_puts_another_value_beside_a_sealed_key");
}

#[test]
fn hub_gives_one_node_the_sealed_value_of_another() {
    holds("hub_gives_one_node_the_sealed_value_of_another");
}

#[test]
fn hub_brings_a_secret_that_is_not_for_the_node() {
    holds("hub_brings_a_secret_that_is_not_for_the_node");
}

#[test]
fn hub_brings_a_secret_of_a_revoked_operator() {
    holds("hub_brings_a_secret_of_a_revoked_operator");
}

#[test]
fn hub_has_somebody_use_a_secret_who_may_not() {
    holds("hub_has_somebody_use_a_secret_who_may_not");
}

#[test]
fn hub_leaves_the_secret_of_a_schedule_out() {
    holds("hub_leaves_the_secret_of_a_schedule_out");
}

#[test]
fn hub_brings_another_secret_for_a_schedule() {
    holds("hub_brings_another_secret_for_a_schedule");
}
