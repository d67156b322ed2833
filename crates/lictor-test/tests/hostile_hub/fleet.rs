//! Lies about one of several nodes that a job is for.

use lictor_test::hostile::holds;

#[test]
fn hub_answers_for_a_node_that_was_not_asked() {
    holds("hub_answers_for_a_node_that_was_not_asked");
}

#[test]
fn hub_mixes_the_frames_of_two_nodes() {
    holds("hub_mixes_the_frames_of_two_nodes");
}

#[test]
fn hub_leaves_one_node_of_several_out() {
    holds("hub_leaves_one_node_of_several_out");
}

#[test]
fn hub_shows_two_receipts_of_one_node_of_several() {
    holds("hub_shows_two_receipts_of_one_node_of_several");
}

#[test]
fn hub_shows_one_node_the_receipt_of_another() {
    holds("hub_shows_one_node_the_receipt_of_another");
}

#[test]
fn hub_goes_on_after_a_receipt_of_several() {
    holds("hub_goes_on_after_a_receipt_of_several");
}

#[test]
fn hub_lists_a_second_machine_of_a_name_that_a_pattern_means() {
    holds("hub_lists_a_second_machine_of_a_name_that_a_pattern_means");
}
