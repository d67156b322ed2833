//! A hub between an operator's grant and a machine that enrols, and one that poses as the hub later.

use lictor_test::hostile::holds;

#[test]
fn hub_swaps_the_grant_of_a_machine_that_enrols() {
    holds("hub_swaps_the_grant_of_a_machine_that_enrols");
}

#[test]
fn hub_forges_the_labels_of_a_machine_that_enrols() {
    holds("hub_forges_the_labels_of_a_machine_that_enrols");
}

#[test]
fn hub_signs_a_grant_itself() {
    holds("hub_signs_a_grant_itself");
}

#[test]
fn hub_gives_older_law_to_a_machine_that_enrols() {
    holds("hub_gives_older_law_to_a_machine_that_enrols");
}

#[test]
fn hub_gives_the_law_of_another_org_to_a_machine_that_enrols() {
    holds("hub_gives_the_law_of_another_org_to_a_machine_that_enrols");
}

#[test]
fn hub_gives_unloadable_law_to_a_machine_that_enrols() {
    holds("hub_gives_unloadable_law_to_a_machine_that_enrols");
}

#[test]
fn another_hub_answers_a_machine_that_enrols() {
    holds("another_hub_answers_a_machine_that_enrols");
}

#[test]
fn another_hub_answers_a_node() {
    holds("another_hub_answers_a_node");
}
