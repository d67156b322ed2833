//! Lies about which machine is which, told to people's programs.

use lictor_test::hostile::holds;

#[test]
fn hub_lists_a_node_with_keys_of_its_own() {
    holds("hub_lists_a_node_with_keys_of_its_own");
}

#[test]
fn hub_lists_a_node_under_a_record_of_its_own() {
    holds("hub_lists_a_node_under_a_record_of_its_own");
}

#[test]
fn hub_lists_a_second_record_for_a_name() {
    holds("hub_lists_a_second_record_for_a_name");
}

#[test]
fn hub_lists_a_second_machine_on_one_grant() {
    holds("hub_lists_a_second_machine_on_one_grant");
}

#[test]
fn hub_lists_a_node_that_an_expired_key_granted() {
    holds("hub_lists_a_node_that_an_expired_key_granted");
}

#[test]
fn hub_forges_the_labels_in_a_listing() {
    holds("hub_forges_the_labels_in_a_listing");
}
