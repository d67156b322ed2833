//! Scripts that are not what somebody signed.

use lictor_test::hostile::holds;

#[test]
fn hub_changes_a_script() {
    holds("hub_changes_a_script");
}

#[test]
fn hub_keeps_the_digest_of_a_changed_script() {
    holds("hub_keeps_the_digest_of_a_changed_script");
}

#[test]
fn node_has_another_program_under_an_interpreters_name() {
    holds("node_has_another_program_under_an_interpreters_name");
}

#[test]
fn hub_serves_law_with_another_script_of_the_name() {
    holds("hub_serves_law_with_another_script_of_the_name");
}

#[test]
fn hub_serves_law_without_the_script() {
    holds("hub_serves_law_without_the_script");
}
