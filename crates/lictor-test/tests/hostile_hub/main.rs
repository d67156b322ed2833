//! The real agent and the real client against a hub that lies on purpose: one test per attack, one file per family.
//!
//! The attacks are in `lictor_test::hostile::attacks`, so that `hostile-hub` can try them as well and show a table.

mod approvals;
mod approvers;
mod bytes;
mod client;
mod complete;
mod control;
mod enrolment;
mod files;
mod fleet;
mod jobs;
mod law;
mod listing;
mod releases;
mod schedules;
mod scripts;
mod secrets;
mod stdin;
mod time;
mod workspaces;

/// Nodes of these tests start it for jobs that carry files.
#[test]
fn carries_files() {
    lictor_test::hostile::node::carries_files();
}
