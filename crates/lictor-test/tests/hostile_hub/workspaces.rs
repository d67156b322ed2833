//! Workspaces that a hub would like to be rid of.

use lictor_test::hostile::holds;

#[test]
fn hub_turns_a_look_at_a_workspace_into_its_removal() {
    holds("hub_turns_a_look_at_a_workspace_into_its_removal");
}

#[test]
fn hub_has_another_workspace_removed() {
    holds("hub_has_another_workspace_removed");
}

#[test]
fn hub_has_another_commit_cloned() {
    holds("hub_has_another_commit_cloned");
}

#[test]
fn hub_has_another_commit_brought_before_a_job() {
    holds("hub_has_another_commit_brought_before_a_job");
}

#[test]
fn hub_has_a_workspace_removed_again() {
    holds("hub_has_a_workspace_removed_again");
}
