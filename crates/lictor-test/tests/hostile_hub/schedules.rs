//! A hub that would have schedules fire otherwise than they were signed.

use lictor_test::hostile::holds;

#[test]
fn hub_changes_when_a_schedule_fires() {
    holds("hub_changes_when_a_schedule_fires");
}

#[test]
fn hub_gives_a_schedule_to_another_node() {
    holds("hub_gives_a_schedule_to_another_node");
}

#[test]
fn hub_brings_a_removed_schedule_back() {
    holds("hub_brings_a_removed_schedule_back");
}

#[test]
fn hub_withholds_the_end_of_a_schedule_past_max_staleness() {
    holds("hub_withholds_the_end_of_a_schedule_past_max_staleness");
}

#[test]
fn hub_sends_a_job_as_a_schedule() {
    holds("hub_sends_a_job_as_a_schedule");
}

#[test]
fn hub_sends_a_schedule_as_a_job() {
    holds("hub_sends_a_schedule_as_a_job");
}

#[test]
fn hub_fires_a_schedule_itself() {
    holds("hub_fires_a_schedule_itself");
}

#[test]
fn hub_has_a_clock_turned_back_over_a_firing() {
    holds("hub_has_a_clock_turned_back_over_a_firing");
}
