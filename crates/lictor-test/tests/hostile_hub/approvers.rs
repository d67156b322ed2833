//! Lies to people who are to approve: what nodes ask and who has signed, withheld, exchanged and doubled.

use lictor_test::hostile::holds;

#[test]
fn hub_withholds_an_ask_from_an_approver() {
    holds("hub_withholds_an_ask_from_an_approver");
}

#[test]
fn hub_shows_an_approver_the_ask_of_another_job() {
    holds("hub_shows_an_approver_the_ask_of_another_job");
}

#[test]
fn hub_tells_people_of_one_approval_twice() {
    holds("hub_tells_people_of_one_approval_twice");
}

#[test]
fn hub_has_another_job_canceled_than_the_one_that_is_named() {
    holds("hub_has_another_job_canceled_than_the_one_that_is_named");
}
