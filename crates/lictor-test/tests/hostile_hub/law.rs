//! Law that is old, forged, withheld or broken.

use lictor_test::hostile::holds;

#[test]
fn hub_serves_an_older_bundle() {
    holds("hub_serves_an_older_bundle");
}

#[test]
fn hub_serves_two_bundles_of_one_version() {
    holds("hub_serves_two_bundles_of_one_version");
}

#[test]
fn hub_signs_law_itself() {
    holds("hub_signs_law_itself");
}

#[test]
fn hub_serves_a_bundle_that_cannot_be_loaded() {
    holds("hub_serves_a_bundle_that_cannot_be_loaded");
}

#[test]
fn hub_serves_the_old_law_again_after_a_broken_one() {
    holds("hub_serves_the_old_law_again_after_a_broken_one");
}

#[test]
fn hub_withholds_the_law_that_a_job_asks_for() {
    holds("hub_withholds_the_law_that_a_job_asks_for");
}

#[test]
fn hub_serves_an_older_root() {
    holds("hub_serves_an_older_root");
}

#[test]
fn hub_leaves_out_a_root_version() {
    holds("hub_leaves_out_a_root_version");
}

#[test]
fn hub_makes_itself_the_next_root() {
    holds("hub_makes_itself_the_next_root");
}

#[test]
fn hub_withholds_a_revocation_past_max_staleness() {
    holds("hub_withholds_a_revocation_past_max_staleness");
}

#[test]
fn hub_withholds_a_revocation_that_a_fresh_statement_names() {
    holds("hub_withholds_a_revocation_that_a_fresh_statement_names");
}

#[test]
fn hub_signs_a_revocation_itself() {
    holds("hub_signs_a_revocation_itself");
}

#[test]
fn hub_has_somebody_without_the_right_revoke() {
    holds("hub_has_somebody_without_the_right_revoke");
}

#[test]
fn hub_sends_a_job_of_a_revoked_key() {
    holds("hub_sends_a_job_of_a_revoked_key");
}

#[test]
fn hub_sends_a_job_of_a_revoked_operator() {
    holds("hub_sends_a_job_of_a_revoked_operator");
}
