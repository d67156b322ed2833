//! Lies to people: their program must say so, and exit with 125.

use lictor_test::hostile::holds;

#[test]
fn hub_changes_output() {
    holds("hub_changes_output");
}

#[test]
fn hub_cuts_the_end_of_output_off() {
    holds("hub_cuts_the_end_of_output_off");
}

#[test]
fn hub_adds_output() {
    holds("hub_adds_output");
}

#[test]
fn hub_forges_output_behind_a_gap() {
    holds("hub_forges_output_behind_a_gap");
}

#[test]
fn hub_invents_output_that_was_not_kept() {
    holds("hub_invents_output_that_was_not_kept");
}

#[test]
fn hub_hides_output_behind_a_gap() {
    holds("hub_hides_output_behind_a_gap");
}

#[test]
fn hub_changes_stored_output() {
    holds("hub_changes_stored_output");
}

#[test]
fn hub_leaves_stored_output_out() {
    holds("hub_leaves_stored_output_out");
}

#[test]
fn hub_leaves_the_receipt_of_stored_output_out() {
    holds("hub_leaves_the_receipt_of_stored_output_out");
}

#[test]
fn hub_forges_a_receipt_of_stored_output() {
    holds("hub_forges_a_receipt_of_stored_output");
}

#[test]
fn hub_forges_a_receipt() {
    holds("hub_forges_a_receipt");
}

#[test]
fn hub_changes_a_receipt() {
    holds("hub_changes_a_receipt");
}

#[test]
fn hub_leaves_the_receipt_out() {
    holds("hub_leaves_the_receipt_out");
}

#[test]
fn hub_shows_the_receipt_of_another_job() {
    holds("hub_shows_the_receipt_of_another_job");
}

#[test]
fn hub_withholds_one_receipt_of_two() {
    holds("hub_withholds_one_receipt_of_two");
}

#[test]
fn hub_withholds_a_receipt_and_goes_on() {
    holds("hub_withholds_a_receipt_and_goes_on");
}

#[test]
fn hub_shows_two_receipts() {
    holds("hub_shows_two_receipts");
}

#[test]
fn hub_serves_older_law_to_a_client() {
    holds("hub_serves_older_law_to_a_client");
}

#[test]
fn another_hub_answers_a_client() {
    holds("another_hub_answers_a_client");
}

#[test]
fn hub_moves_a_remark_to_another_job() {
    holds("hub_moves_a_remark_to_another_job");
}

#[test]
fn hub_signs_a_remark_itself() {
    holds("hub_signs_a_remark_itself");
}

#[test]
fn hub_changes_a_remark() {
    holds("hub_changes_a_remark");
}
