//! Files that are not what somebody signed, or go elsewhere.

use lictor_test::hostile::holds;

#[test]
fn hub_swaps_a_file() {
    holds("hub_swaps_a_file");
}

#[test]
fn hub_cuts_a_file_short() {
    holds("hub_cuts_a_file_short");
}

#[test]
fn hub_brings_a_file_that_never_ends() {
    holds("hub_brings_a_file_that_never_ends");
}

#[test]
fn hub_leaves_a_file_out() {
    holds("hub_leaves_a_file_out");
}

#[test]
fn hub_changes_where_a_file_goes() {
    holds("hub_changes_where_a_file_goes");
}

#[test]
fn hub_brings_a_file_again() {
    holds("hub_brings_a_file_again");
}

#[test]
fn hub_has_a_larger_file_come_that_nobody_waits_for() {
    holds("hub_has_a_larger_file_come_that_nobody_waits_for");
}

#[test]
fn hub_swaps_a_file_in_a_stream() {
    holds("hub_swaps_a_file_in_a_stream");
}

#[test]
fn hub_streams_more_than_a_file_has() {
    holds("hub_streams_more_than_a_file_has");
}

#[test]
fn hub_swaps_the_url_of_a_file() {
    holds("hub_swaps_the_url_of_a_file");
}

#[test]
fn hub_takes_the_url_away_to_bring_a_file_itself() {
    holds("hub_takes_the_url_away_to_bring_a_file_itself");
}

#[test]
fn hub_brings_a_file_that_the_node_fetches() {
    holds("hub_brings_a_file_that_the_node_fetches");
}
